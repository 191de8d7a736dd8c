//! A Kubernetes API server for a test: the in-memory one, or a real `kube-apiserver`.
//!
//! With `KUBEBUILDER_ASSETS` set to a folder that holds `kube-apiserver` and `etcd`, a pair of them of its own is started
//! for each [`Cluster`]. Both kinds are bare API servers: no controller-manager, kubelet or scheduler
//! is there, so nobody makes pods of Deployments, nobody sets conditions, no namespace has a default service
//! account. A test writes such things through the API.

mod kubeconfig;
mod pki;
mod real;

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use kube::config::{KubeConfigOptions, Kubeconfig};
use tempfile::TempDir;

pub use crate::apiserver::Availability;
use crate::apiserver::{ApiServer, Identity};
use pki::Authority;
use real::RealServer;

/// A running API server; dropping it ends it and all that it has stored.
#[derive(Debug)]
pub struct Cluster {
    server: Server,
    folder: TempDir,
    kubeconfig: PathBuf,
}

#[derive(Debug)]
enum Server {
    Memory(ApiServer),
    /// Held for what dropping it ends.
    Real(#[expect(dead_code, reason = "held for its drop")] RealServer),
}

impl Cluster {
    /// Starts one: the kind that the environment asks for. `None` where this machine can't run one; the reason is
    /// printed.
    ///
    /// # Panics
    /// A real one was asked for and does not start.
    pub fn start() -> Option<Self> {
        match env::var_os("KUBEBUILDER_ASSETS") {
            Some(assets) => Some(Self::real(Path::new(&assets))),
            None => Self::in_memory(),
        }
    }

    /// Starts an in-memory one whatever the environment says, for what a real one can't do: fail on demand.
    pub fn in_memory() -> Option<Self> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let authority = Authority::new();
        let leaf = authority.server();
        let identity = Identity {
            certificate: leaf.certificate,
            key: leaf.key,
            authority: authority.pem(),
        };
        let server = match ApiServer::start(&identity) {
            Ok(server) => server,
            Err(why) => {
                println!("no API server can be run here: {why}");
                return None;
            }
        };
        let address = server.address();
        Some(Self::with(Server::Memory(server), address, &authority))
    }

    fn real(assets: &Path) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let authority = Authority::new();
        let server = RealServer::start(assets, &authority);
        let address = server.address();
        Self::with(Server::Real(server), address, &authority)
    }

    fn with(server: Server, address: SocketAddr, authority: &Authority) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let kubeconfig = folder.path().join("kubeconfig");
        let admin = authority.client("admin", &["system:masters"]);
        let text = kubeconfig::render(address, &authority.pem(), &admin);
        fs::write(&kubeconfig, text).expect("a kubeconfig in the temporary folder");
        Self {
            server,
            folder,
            kubeconfig,
        }
    }

    /// A kubeconfig file whose only context has all rights.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A kubeconfig file for a bearer token, such as a service account's.
    pub fn kubeconfig_for(&self, token: &str) -> PathBuf {
        let admin = fs::read_to_string(&self.kubeconfig).expect("the kubeconfig of this cluster");
        let path = self
            .folder
            .path()
            .join(format!("kubeconfig-{}", fastrand::u64(..)));
        fs::write(&path, kubeconfig::with_token(&admin, token)).expect("a kubeconfig for a token");
        path
    }

    /// A client with all rights, for the runtime in which this is called.
    pub async fn client(&self) -> kube::Client {
        client(&self.kubeconfig).await
    }

    /// A client with a bearer token.
    pub async fn client_for(&self, token: &str) -> kube::Client {
        client(&self.kubeconfig_for(token)).await
    }

    /// Whether this is a real `kube-apiserver`.
    pub fn is_real(&self) -> bool {
        matches!(self.server, Server::Real(_))
    }

    /// Lets `pods/portforward` of a pod reach sockets of this machine: `(port of the pod, where it is served)`.
    /// In memory only (a real API server forwards through a kubelet); `false` if this cluster can't.
    pub fn serve_pod_ports(
        &self,
        namespace: &str,
        pod: &str,
        ports: impl IntoIterator<Item = (u16, SocketAddr)>,
    ) -> bool {
        let memory = self.memory();
        memory
            .map(|server| server.serve_pod_ports(namespace, pod, ports))
            .is_some()
    }

    /// Lets a webhook configuration that names a Service reach a socket of this machine.
    /// In memory only (give a real API server a URL); `false` if this cluster can't.
    pub fn serve_service(&self, namespace: &str, service: &str, address: SocketAddr) -> bool {
        let memory = self.memory();
        memory
            .map(|server| server.serve_service(namespace, service, address))
            .is_some()
    }

    /// Ends all watches at once. In memory only; `false` if this cluster can't.
    pub fn break_watches(&self) -> bool {
        self.memory().map(ApiServer::break_watches).is_some()
    }

    /// Forgets all old revisions, so that a watch that goes on from one is told 410 Gone. In memory only; `false` if
    /// this cluster can't.
    pub fn compact(&self) -> bool {
        self.memory().map(ApiServer::compact).is_some()
    }

    /// Makes the server unavailable, or available again. In memory only; `false` if this cluster can't.
    pub fn set_availability(&self, availability: Availability) -> bool {
        self.memory()
            .map(|server| server.set_availability(availability))
            .is_some()
    }

    fn memory(&self) -> Option<&ApiServer> {
        match &self.server {
            Server::Memory(server) => Some(server),
            Server::Real(_) => None,
        }
    }
}

async fn client(kubeconfig: &Path) -> kube::Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("the kubeconfig of this cluster");
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
    kube::Client::try_from(config.expect("a usable kubeconfig")).expect("a client")
}
