//! Objects of a cluster: one watch for each kind, whatever the API server does.
//!
//! A watch that breaks is resumed where it ended; one that is too old (410) begins again with a list, which also
//! finds what was deleted meanwhile. While the API server is gone, what was told stays true. A watch can fail in
//! silence, too: each kind is compared with a fresh list every few minutes ([`check`]).
//!
//! Out of the API server come only the fields that somebody reads ([`decode`]); of an object that was told, its
//! name and version are kept ([`known`]), no more.

mod backoff;
mod check;
mod decode;
mod health;
mod known;
mod review;
mod watch;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::{
    apps::v1::ReplicaSet, batch::v1::Job, core::v1::Namespace, core::v1::Service,
    discovery::v1::EndpointSlice,
};
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use super::{Caller, Event, Kind, ReviewError, Source, SourceError};
use decode::{MetadataOf, SlimPod, Watched};
use health::Metrics;

/// Events between the watches and the index.
const QUEUE: usize = 1024;
/// How often each kind is compared with a fresh list, give or take a fifth.
const CHECK_EVERY: Duration = Duration::from_secs(300);
/// A silent API server is one that is gone. Watches hear bookmarks about once a minute.
const SILENCE: Duration = Duration::from_secs(75);
const CONNECT: Duration = Duration::from_secs(5);

/// The API server of a cluster.
pub struct Kubernetes {
    client: Client,
    metrics: Metrics,
    check_every: Duration,
}

/// No API server is known, or its address and credentials can't be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "finding the Kubernetes API server failed (in a pod it is found through the service account, elsewhere \
     through KUBECONFIG): {0}"
)]
pub struct ConnectError(String);

/// A client of the cluster that this process is in, or that `KUBECONFIG` names. It connects when it is used.
///
/// # Errors
/// There is no such cluster, or its description can't be used.
pub async fn connect() -> Result<Client, ConnectError> {
    let mut config = kube::Config::infer()
        .await
        .map_err(|error| ConnectError(error.to_string()))?;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    Client::try_from(config).map_err(|error| ConnectError(error.to_string()))
}

impl Kubernetes {
    /// Registers the metrics `source_…`.
    pub fn new(client: Client, registry: &mut Registry) -> Self {
        Self {
            client,
            metrics: Metrics::new(registry),
            check_every: CHECK_EVERY,
        }
    }

    /// Compares with a fresh list at other intervals than about five minutes.
    #[must_use]
    pub fn check_every(mut self, interval: Duration) -> Self {
        self.check_every = interval;
        self
    }

    fn spawn<K: Watched>(&self, teller: &Teller) {
        let follower = watch::Follower::<K>::new(&self.client, &self.metrics, teller.clone());
        tokio::spawn(follower.run(self.check_every));
    }
}

impl Source for Kubernetes {
    /// Never fails: what does not work now is tried until it does.
    fn watch(&self) -> Result<mpsc::Receiver<Event>, SourceError> {
        let (events, receiver) = mpsc::channel(QUEUE);
        let teller = Teller {
            events,
            unlisted: Arc::new(AtomicUsize::new(Kind::ALL.len())),
        };
        self.spawn::<MetadataOf<Namespace>>(&teller);
        self.spawn::<MetadataOf<ReplicaSet>>(&teller);
        self.spawn::<MetadataOf<Job>>(&teller);
        self.spawn::<SlimPod>(&teller);
        self.spawn::<Service>(&teller);
        self.spawn::<EndpointSlice>(&teller);
        Ok(receiver)
    }

    async fn review(&self, token: &str) -> Result<Caller, ReviewError> {
        review::review(&self.client, token).await
    }
}

/// Tells the index. An error means that nobody listens any more.
#[derive(Clone)]
struct Teller {
    events: mpsc::Sender<Event>,
    /// Kinds that have not been listed completely yet.
    unlisted: Arc<AtomicUsize>,
}

struct NobodyListens;

impl Teller {
    async fn tell(&self, event: Event) -> Result<(), NobodyListens> {
        self.events.send(event).await.map_err(|_| NobodyListens)
    }

    /// One kind has been told completely for the first time.
    async fn listed(&self) -> Result<(), NobodyListens> {
        if self.unlisted.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.tell(Event::Synced).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
