//! A Kubernetes API server in memory.
//!
//! It stores, lists, watches, validates, admits and answers as `kube-apiserver` does, errors included, as far as clients of
//! `mesh` and kubectl meet it. As a bare kube-apiserver it has no controllers: no pods are made of Deployments, no
//! default service accounts. What it can that a real one can't: fail on demand.
//!
//! A request goes through `serve` (TLS, who asks) → `request` (path and query) → `route` → one of `read`, `watch`,
//! `write`, `delete`, and the special resources.

mod addresses;
mod admission;
mod apply;
mod crd;
mod decode;
mod delete;
mod discovery;
mod events;
mod faults;
mod kinds;
mod meta;
mod openapi;
mod patch;
mod portforward;
mod read;
mod request;
mod resource;
mod respond;
mod review;
mod route;
mod schema;
mod select;
mod serve;
mod state;
mod status;
mod store;
mod subresource;
mod token;
mod typed;
mod watch;
mod write;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Arc, PoisonError},
    thread::JoinHandle,
};

use tokio::sync::oneshot;

pub use self::faults::Availability;
pub(crate) use self::{addresses::RANGES, serve::Identity, token::ISSUER};
use self::{state::Api, token::Issuer};

/// A running server, on a thread of its own, so that it answers while a test blocks.
#[derive(Debug)]
pub(crate) struct ApiServer {
    api: Arc<Api>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Serves on a free port of loopback.
    ///
    /// # Errors
    /// No port of loopback can be listened on, or no thread be started.
    pub(crate) fn start(identity: &Identity) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let tls = serve::tls(identity);
        let api = Arc::new(Api::new(Issuer::new()));
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("apiserver")
            .enable_all()
            .build()?;
        let served = api.clone();
        let thread = std::thread::Builder::new()
            .name("apiserver".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = serve::serve(served, listener, tls) => {}
                        _ = stopped => {}
                    }
                });
                runtime.shutdown_background();
            })?;
        Ok(Self {
            api,
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all watches, as a restart of a load balancer does.
    pub(crate) fn break_watches(&self) {
        self.api.faults.break_watches();
    }

    /// Forgets all old revisions: a watch that goes on from one is told 410 Gone.
    pub(crate) fn compact(&self) {
        self.api.lock().store.compact();
    }

    pub(crate) fn set_availability(&self, availability: Availability) {
        self.api.faults.set(availability);
    }

    /// Says where the ports of a pod are served on this machine.
    pub(crate) fn serve_pod_ports(
        &self,
        namespace: &str,
        pod: &str,
        ports: impl IntoIterator<Item = (u16, SocketAddr)>,
    ) {
        let mut served = self
            .api
            .pod_ports
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let pod = (namespace.to_owned(), pod.to_owned());
        served.entry(pod).or_default().extend(ports);
    }

    /// Says where the webhook behind a Service is served on this machine.
    pub(crate) fn serve_service(&self, namespace: &str, service: &str, address: SocketAddr) {
        let mut served = self
            .api
            .service_addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        served.insert((namespace.to_owned(), service.to_owned()), address);
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
