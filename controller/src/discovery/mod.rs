//! The Discovery service: one stream per proxy, over which it hears what it has to know as it changes.
//!
//! In: the index's changes and the trust bundle through the [`Hub`]. Out: updates, as fast as each proxy takes
//! them: what piles up for a slow one is merged by its `outbox`, never queued.

mod hub;
mod outbox;

use std::{net::SocketAddr, sync::Arc};

use futures_util::{Stream, stream};
use mesh_api::{
    SpiffeId,
    v1::{
        Address, DiscoveryRequest, DiscoveryUpdate, discovery_request, discovery_server::Discovery,
    },
};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use tonic::{Request, Response, Status, Streaming};

use crate::server::client;
pub use hub::Hub;
use hub::Session;

/// Serves the hub to proxies.
pub(crate) struct DiscoveryService {
    hub: Arc<Hub>,
    nacks: Counter,
}

impl DiscoveryService {
    pub(crate) fn new(hub: Arc<Hub>, registry: &mut Registry) -> Self {
        let nacks = Counter::default();
        registry.register(
            "discovery_nacks",
            "Updates that a proxy could not use",
            nacks.clone(),
        );
        Self { hub, nacks }
    }
}

#[tonic::async_trait]
impl Discovery for DiscoveryService {
    type StreamStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<DiscoveryUpdate, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let id = client(&request)?;
        let session = Attached {
            session: Arc::new(Session::new()),
            hub: Arc::clone(&self.hub),
        };
        // The answer's head goes out before Hello arrives: a client may wait for it.
        let reader = Reader {
            id,
            hub: Arc::clone(&self.hub),
            session: Arc::clone(&session.session),
            nacks: self.nacks.clone(),
        };
        tokio::spawn(reader.run(request.into_inner()));
        let updates = stream::unfold(session, |attached| async move {
            Some((attached.session.next().await?, attached))
        });
        Ok(Response::new(Box::pin(updates)))
    }
}

/// Ends the session when the proxy's stream is gone.
struct Attached {
    session: Arc<Session>,
    hub: Arc<Hub>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.session.close(None);
        self.hub.leave(&self.session);
    }
}

/// Hears what a proxy says.
struct Reader {
    id: SpiffeId,
    hub: Arc<Hub>,
    session: Arc<Session>,
    nacks: Counter,
}

impl Reader {
    async fn run(self, mut requests: Streaming<DiscoveryRequest>) {
        let end = tokio::select! {
            end = self.read(&mut requests) => end.err(),
            () = self.session.closed() => return,
        };
        if let Some(status) = &end {
            tracing::info!(id = %self.id, code = ?status.code(), reason = status.message(), "discovery stream ended");
        }
        self.session.close(end);
    }

    async fn read(&self, requests: &mut Streaming<DiscoveryRequest>) -> Result<(), Status> {
        let Some(first) = requests.message().await? else {
            return Ok(());
        };
        let Some(discovery_request::Kind::Hello(hello)) = first.kind else {
            return Err(Status::failed_precondition(
                "the first request has to be Hello",
            ));
        };
        let pod = self.hub.admit(&self.id, &hello.namespace, &hello.pod)?;
        self.hub.join(&self.session, &pod);
        tracing::debug!(%pod, id = %self.id, version = hello.proxy_version, "proxy connected");
        while let Some(request) = requests.message().await? {
            let address = |address: &Address| {
                SocketAddr::try_from(address)
                    .map_err(|error| Status::invalid_argument(error.to_string()))
            };
            match request.kind {
                Some(discovery_request::Kind::Subscribe(at)) => {
                    self.hub.subscribe(&self.session, address(&at)?)?
                }
                Some(discovery_request::Kind::Unsubscribe(at)) => {
                    self.hub.unsubscribe(&self.session, address(&at)?)
                }
                Some(discovery_request::Kind::Ack(ack)) => {
                    tracing::trace!(%pod, version = ack.version, "ack")
                }
                Some(discovery_request::Kind::Nack(nack)) => {
                    self.nacks.inc();
                    tracing::warn!(%pod, version = nack.version, reason = nack.reason, "a proxy can't use an update");
                    self.session.refused(nack.version);
                }
                Some(discovery_request::Kind::Hello(_)) => {
                    return Err(Status::failed_precondition("Hello has been said"));
                }
                // A request of a later version.
                None => {}
            }
        }
        Ok(())
    }
}
