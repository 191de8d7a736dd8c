//! Nothing stale: what has been told is compared with a fresh list every few minutes.
//!
//! A list is of another moment than the watch, so that a difference is only a suspicion. What is still different
//! half a minute later, although the watch has said nothing of it meanwhile, has been missed: then the watch begins
//! again with a list, which corrects it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kube::{Api, Client, ResourceExt, api::ListParams};
use tokio::{sync::Notify, time::sleep};

use super::{
    decode::{MetadataOf, Watched},
    health::Metrics,
    known::{Known, Listing},
};
use crate::source::ObjectKey;

/// The part of the interval that a watch has for what a list shows already.
const GRACE: u32 = 10;
/// Objects in one answer.
const PAGE: u32 = 500;
/// So many are named in the log.
const NAMED: usize = 5;

/// Compares one kind.
pub(super) struct Checks<K: Watched> {
    api: Api<MetadataOf<K::Of>>,
    known: Arc<Mutex<Known>>,
    doubt: Arc<Notify>,
    metrics: Metrics,
}

impl<K: Watched> Checks<K> {
    pub(super) fn new(
        client: &Client,
        known: Arc<Mutex<Known>>,
        doubt: Arc<Notify>,
        metrics: Metrics,
    ) -> Self {
        Self {
            api: Api::all(client.clone()),
            known,
            doubt,
            metrics,
        }
    }

    /// Compares about every `interval`, for ever.
    pub(super) async fn run(self, interval: Duration) {
        loop {
            // The kinds, and the replicas, at different times.
            sleep(interval.mul_f64(0.8 + 0.4 * fastrand::f64())).await;
            match self.missed(interval / GRACE).await {
                Ok(missed) if missed.is_empty() => {}
                Ok(missed) => {
                    tracing::warn!(
                        kind = K::KIND.plural(),
                        objects = missed.len(),
                        such_as = ?&missed[..missed.len().min(NAMED)],
                        "the watch has missed changes; it begins again"
                    );
                    self.metrics.differ(K::KIND, missed.len());
                    self.doubt.notify_one();
                }
                // The watch says so, too.
                Err(error) => {
                    tracing::debug!(kind = K::KIND.plural(), %error, "listing for a comparison failed");
                }
            }
        }
    }

    async fn missed(&self, grace: Duration) -> kube::Result<Vec<String>> {
        let listing = self.list().await?;
        let mut suspects = self.known().suspects(&listing);
        drop(listing);
        if suspects.0.is_empty() {
            return Ok(Vec::new());
        }
        sleep(grace).await;
        self.known().retain_silent(&mut suspects);
        if !suspects.0.is_empty() {
            let later = self.list().await?;
            self.known().retain_missed(&mut suspects, &later);
        }
        let name = |key: ObjectKey| format!("{}/{}", key.namespace, key.name);
        Ok(suspects.0.into_keys().map(name).collect())
    }

    async fn list(&self) -> kube::Result<Listing> {
        let mut listing = Listing::default();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let objects = self.api.list(&page).await?;
            for object in objects.items {
                let version = object.resource_version().unwrap_or_default();
                let key = ObjectKey {
                    kind: K::KIND,
                    namespace: object.namespace().unwrap_or_default(),
                    name: object.name_any(),
                };
                listing.0.insert(key, version);
            }
            match objects.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page.continue_token = Some(token),
                None => return Ok(listing),
            }
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
