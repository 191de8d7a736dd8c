//! The orderly end: no new connections, in-flight work finishes, up to a grace time.

use std::time::Duration;

use tokio::sync::watch;

/// Starts the drain of all workers.
#[derive(Debug)]
pub struct Trigger {
    started: watch::Sender<bool>,
}

/// What connections look at and wait for. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain {
    started: watch::Receiver<bool>,
    grace: Duration,
}

/// A trigger, and what it triggers. `grace`: what work in flight may take after the trigger.
pub fn channel(grace: Duration) -> (Trigger, Drain) {
    let (sender, started) = watch::channel(false);
    (Trigger { started: sender }, Drain { started, grace })
}

impl Trigger {
    /// From now on [`Drain::started`] is true.
    pub fn start(&self) {
        self.started.send_replace(true);
    }
}

impl Drain {
    /// Whether the drain has started.
    pub fn is_draining(&self) -> bool {
        *self.started.borrow()
    }

    /// Returns once the drain has started; at once if it has.
    pub async fn started(&self) {
        let mut started = self.started.clone();
        // An error means that the trigger is gone without a drain: then there never is one.
        if started.wait_for(|started| *started).await.is_err() {
            std::future::pending().await
        }
    }

    /// How long work in flight may go on after the start.
    pub fn grace(&self) -> Duration {
        self.grace
    }
}
