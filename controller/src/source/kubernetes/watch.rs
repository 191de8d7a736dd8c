//! One kind: what its watch says becomes events.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::StreamExt;
use kube::{
    Api, Client, ResourceExt,
    runtime::watcher::{self, watcher},
};
use tokio::sync::Notify;

use super::{
    NobodyListens, Teller,
    backoff::Backoff,
    check,
    decode::Watched,
    health::{Health, Metrics},
    known::Known,
};
use crate::source::{Event, ObjectKey};

/// The API server ends a watch after so long and it is resumed; a connection that has died in silence is noticed 5 s
/// later. kube's default of 290 s would be 290 s of stale endpoints.
const WATCH_SECONDS: u32 = 60;

/// Watches the objects of kind `K`.
pub(super) struct Follower<K> {
    client: Client,
    api: Api<K>,
    metrics: Metrics,
    health: Health,
    known: Arc<Mutex<Known>>,
    /// Something was missed: what is known has to be compared with a list.
    doubt: Arc<Notify>,
    teller: Teller,
    /// The kind has been told completely once.
    listed: bool,
}

impl<K: Watched> Follower<K> {
    pub(super) fn new(client: &Client, metrics: &Metrics, teller: Teller) -> Self {
        Self {
            client: client.clone(),
            api: Api::all(client.clone()),
            metrics: metrics.clone(),
            health: metrics.of(K::KIND),
            known: Arc::default(),
            doubt: Arc::default(),
            teller,
            listed: false,
        }
    }

    /// Ends when nobody listens any more.
    pub(super) async fn run(self, check_every: Duration) {
        let checks = check::Checks::<K>::new(
            &self.client,
            Arc::clone(&self.known),
            Arc::clone(&self.doubt),
            self.metrics.clone(),
        );
        tokio::select! {
            _ = self.watch() => {}
            () = checks.run(check_every) => {}
        }
    }

    async fn watch(mut self) -> Result<(), NobodyListens> {
        let config = watcher::Config::default().timeout(WATCH_SECONDS);
        let doubt = Arc::clone(&self.doubt);
        let mut backoff = Backoff::new();
        // Each round begins with a list.
        loop {
            let mut steps = pin!(watcher(self.api.clone(), config.clone()));
            loop {
                tokio::select! {
                    step = steps.next() => match step {
                        Some(Ok(watcher::Event::Init)) => self.known().begin_list(),
                        Some(Ok(step)) => {
                            backoff.reset();
                            self.health.heard();
                            self.take(step).await?;
                        }
                        Some(Err(error)) => {
                            let pause = backoff.next();
                            self.health.failed(&explain(&error), pause);
                            tokio::time::sleep(pause).await;
                            if is_too_old(&error) {
                                break;
                            }
                        }
                        None => break,
                    },
                    () = doubt.notified() => break,
                    () = self.health.recovers() => self.health.works(),
                }
            }
        }
    }

    async fn take(&mut self, step: watcher::Event<K>) -> Result<(), NobodyListens> {
        match step {
            watcher::Event::Init => {}
            watcher::Event::InitApply(object) => self.apply(object).await?,
            watcher::Event::Apply(object) => {
                self.apply(object).await?;
                self.health.count(self.known().len());
            }
            watcher::Event::Delete(object) => {
                let key = key(&object);
                if self.known().delete(&key) {
                    self.teller.tell(Event::Deleted(key)).await?;
                }
                self.health.count(self.known().len());
            }
            watcher::Event::InitDone => {
                let gone = self.known().end_list();
                for key in gone {
                    self.teller.tell(Event::Deleted(key)).await?;
                }
                let objects = self.known().len();
                self.health.listed(objects);
                if !std::mem::replace(&mut self.listed, true) {
                    self.teller.listed().await?;
                }
            }
        }
        Ok(())
    }

    async fn apply(&mut self, object: K) -> Result<(), NobodyListens> {
        let version = object.resource_version().unwrap_or_default();
        if self.known().apply(&key(&object), &version) {
            let object = Box::new(object.into_object());
            self.teller.tell(Event::Applied(object)).await?;
        }
        Ok(())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key under which the object will be told.
pub(super) fn key<K: Watched>(object: &K) -> ObjectKey {
    ObjectKey {
        kind: K::KIND,
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}

/// The version from which a watch should go on is not kept any more. The watcher would ask for it for ever when the
/// answer comes as the response and not as an event.
fn is_too_old(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410)
}

fn explain(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
            if status.is_forbidden() =>
        {
            format!(
                "{}; the controller's ClusterRole has to allow list and watch of it, as `mesh install` writes it",
                status.message
            )
        }
        error => error.to_string(),
    }
}
