//! The authority's life: it follows its store, and rotates what is in it.

use std::{
    pin::pin,
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, stream};
use tokio::time::{interval, sleep};

use super::{Authority, Store, time};

/// How often the rotation is looked at, at least and at most.
const ROTATION: [Duration; 2] = [Duration::from_secs(60), Duration::from_millis(500)];
/// How often the owner of a root is reminded that it expires.
const REMINDER: Duration = Duration::from_secs(3600);
/// What is left of its life then.
const EXPIRES_SOON: Duration = Duration::from_secs(30 * 24 * 3600);

impl Authority {
    /// Follows a store that others write, for ever. Ends at once if nobody else can.
    pub async fn follow(&self) {
        let Store::Secret(secret) = &self.store else {
            return;
        };
        let mut changes = pin!(secret.watch());
        while let Some(change) = changes.next().await {
            let roots = change.and_then(|stored| stored.map(|s| self.restore(s)).transpose());
            match roots {
                Ok(Some(roots)) => self.adopt(roots),
                Ok(None) => {
                    tracing::error!(place = %self.store, "the roots are gone: they are written again from memory");
                    self.lost.store(true, Ordering::Release);
                }
                Err(error) => tracing::warn!(%error, "the roots known before are used on"),
            }
            self.wake.notify_one();
        }
    }

    /// Rotates for ever, and takes over somebody else's roots as they change. What fails is tried again.
    /// Only one of those who share a store has to do so.
    pub async fn keep(&self) {
        let mut reminder = interval(REMINDER);
        let mut provided = match &self.store {
            Store::Secret(secret) => secret.watch_provided().chain(stream::pending()).boxed(),
            Store::File(_) => stream::pending().boxed(),
        };
        loop {
            if let Err(error) = self.rotate(SystemTime::now()).await {
                tracing::error!(%error, "rotating the roots failed; it is tried again");
            }
            tokio::select! {
                () = sleep(self.pause(SystemTime::now())) => {}
                () = self.wake.notified() => {}
                _ = reminder.tick() => self.remind(SystemTime::now()),
                Some(material) = provided.next() => {
                    let taken = match material {
                        Ok(material) => self.offer(material, SystemTime::now()).await,
                        Err(error) => Err(error),
                    };
                    if let Err(error) = taken {
                        tracing::error!(%error, "the roots known before are used on");
                    }
                }
            }
        }
    }

    /// Until the rotation is looked at again: what follows a root that ends soon must not be late.
    fn pause(&self, now: SystemTime) -> Duration {
        let left = self
            .expires()
            .and_then(|end| time(end).duration_since(now).ok());
        let span = left.map_or(self.terms.leaf_lifetime, |left| {
            left.min(self.terms.leaf_lifetime)
        });
        let [longest, shortest] = ROTATION;
        (span / 10).clamp(shortest, longest)
    }

    fn remind(&self, now: SystemTime) {
        let Some(expires) = self.expires().filter(|_| !self.policy.own_roots) else {
            return;
        };
        let left = time(expires).duration_since(now).unwrap_or_default();
        if left < EXPIRES_SOON {
            let hours = left.as_secs() / 3600;
            tracing::warn!(
                hours,
                "the root of --ca-secret expires soon: put a new one into that Secret"
            );
        }
    }
}
