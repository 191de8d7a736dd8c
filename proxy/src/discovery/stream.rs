//! The delta stream to the controller, for as long as the proxy lives.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mesh_api::v1::discovery_client::DiscoveryClient;
use mesh_api::v1::discovery_request::Kind as Request;
use mesh_api::v1::discovery_update::Kind as Update;
use mesh_api::v1::{Ack, DiscoveryRequest, DiscoveryUpdate, Hello, Nack};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;

use super::world::UpdateError;
use super::{Cache, Discovery, Met};
use crate::control::{Complaints, backoff, explain};
use crate::tls::{Tls, TrustBundle, TrustBundleError};

/// How often idle addresses are looked for and changes are cached.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Feeds a [`Discovery`] and the trust bundle of a [`Tls`].
#[derive(Debug)]
pub struct Stream {
    discovery: Discovery,
    met: Met,
    tls: Tls,
    cache: Option<Cache>,
    hello: Hello,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("{}", explain(.0))]
    Call(#[from] tonic::Status),
    #[error("the controller closed the stream")]
    Closed,
}

/// An update that was not taken.
#[derive(Debug, thiserror::Error)]
enum Rejected {
    #[error(transparent)]
    Update(#[from] UpdateError),
    #[error(transparent)]
    Bundle(#[from] TrustBundleError),
}

impl Stream {
    /// A view of the world as the pod `pod` of `namespace` sees it, and what feeds it once it is run.
    pub fn new(namespace: &str, pod: &str, tls: Tls, cache: Option<Cache>) -> (Discovery, Self) {
        let (discovery, met) = Discovery::connected_by_stream(namespace, pod);
        if let Some(cache) = &cache {
            cache.restore(&discovery, &tls);
        }
        let hello = Hello {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            proxy_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let stream = Self {
            discovery: discovery.clone(),
            met,
            tls,
            cache,
            hello,
        };
        (discovery, stream)
    }

    /// Keeps a stream open for ever. `channel` should connect lazily.
    pub async fn run(mut self, channel: Channel) {
        let mut client = DiscoveryClient::new(channel);
        let (mut failures, mut rng) = (0, fastrand::Rng::new());
        let mut complaints = Complaints::default();
        loop {
            self.upkeep_until_ready().await;
            let Err(error) = self.follow(&mut client).await;
            let was_connected = self.discovery.shared.connected.send_replace(false);
            self.discovery.world().recall_unanswered();
            failures = if was_connected { 0 } else { failures + 1 };
            let pause = backoff(LONGEST_PAUSE).delay(failures, &mut rng);
            if was_connected {
                complaints.settle();
                tracing::warn!(%error, "lost the controller; serving on with what is known");
            } else {
                complaints.complain("no discovery", &error.to_string(), pause);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// The controller only talks to those who have a certificate.
    async fn upkeep_until_ready(&self) {
        let mut ready = std::pin::pin!(self.tls.until_ready());
        self.upkeep();
        while tokio::time::timeout(UPKEEP_INTERVAL, &mut ready)
            .await
            .is_err()
        {
            self.upkeep();
        }
    }

    /// One stream, from Hello to its end.
    async fn follow(
        &mut self,
        client: &mut DiscoveryClient<Channel>,
    ) -> Result<Infallible, StreamError> {
        let (requests, outgoing) = mpsc::unbounded_channel();
        // Requests are read as long as the stream lives; once it is over, `message` below says so.
        let send = |request| {
            drop(requests.send(DiscoveryRequest {
                kind: Some(request),
            }))
        };
        send(Request::Hello(self.hello.clone()));
        // What was met in the meantime is among the subscriptions.
        while self.met.try_recv().is_ok() {}
        for address in self.discovery.world().subscriptions() {
            send(Request::Subscribe(address.into()));
        }
        let mut updates = client
            .stream(UnboundedReceiverStream::new(outgoing))
            .await?
            .into_inner();
        let mut upkeep = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            tokio::select! {
                update = updates.message() => {
                    let update = update?.ok_or(StreamError::Closed)?;
                    if !self.discovery.shared.connected.send_replace(true) {
                        tracing::info!("discovery is connected");
                    }
                    send(self.answer(update));
                }
                Some(address) = self.met.recv() => send(Request::Subscribe(address.into())),
                _ = upkeep.tick() => {
                    for address in self.upkeep() {
                        send(Request::Unsubscribe(address.into()));
                    }
                }
            }
        }
    }

    fn answer(&self, update: DiscoveryUpdate) -> Request {
        let version = update.version;
        match self.apply(update) {
            Ok(()) => Request::Ack(Ack { version }),
            Err(error) => {
                tracing::warn!(%error, version, "rejected an update of the controller's");
                Request::Nack(Nack {
                    version,
                    reason: error.to_string(),
                })
            }
        }
    }

    fn apply(&self, update: DiscoveryUpdate) -> Result<(), Rejected> {
        let mut world = self.discovery.world();
        match update.kind.ok_or(UpdateError::UnknownKind)? {
            Update::Bundle(bundle) => {
                self.tls.set_bundle(TrustBundle::from_wire(bundle)?);
                world.note_change();
            }
            Update::Inbound(inbound) => world.set_inbound(inbound)?,
            Update::Destination(destination) => world.set(destination)?,
            Update::Delta(delta) => world.change(delta)?,
        }
        Ok(())
    }

    fn upkeep(&self) -> Vec<SocketAddr> {
        let is_connected = self.discovery.is_connected();
        let forgotten = self
            .discovery
            .world()
            .forget_idle(Instant::now(), is_connected);
        if let Some(cache) = &self.cache {
            cache.save(&self.discovery, &self.tls);
        }
        forgotten
    }
}

#[cfg(test)]
mod tests;
