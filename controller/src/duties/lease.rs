//! Leader election by a Lease, as client-go's `leaderelection` does it.
//!
//! Clocks are not compared: whether somebody else's lease is over is measured from when this process first saw
//! it as it is. Every write is based on the revision that was read, so that of two candidates one fails. Who
//! can't renew for [`RENEW_DEADLINE`] stops to lead before anybody else may begin.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};
use mesh_api::names;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

// The defaults of Kubernetes' own controllers (`--leader-elect-lease-duration` and so on).
/// How long others wait after the last renewal that they saw.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// When a leader that can't renew gives up.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between two attempts.
const RETRY: Duration = Duration::from_secs(2);
/// What a candidate adds to that, at most, as a part of it.
const JITTER: f64 = 0.2;
/// One attempt.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Stands for election until `stop`, telling `leading` what came of it; then gives the Lease back.
pub(super) async fn campaign(
    api: &Api<Lease>,
    identity: &str,
    leading: watch::Sender<bool>,
    stop: &CancellationToken,
) {
    let mut election = Election::new(identity);
    let mut known = None;
    loop {
        let started = Instant::now();
        let patience = election.left(started).unwrap_or(ATTEMPT).min(ATTEMPT);
        match timeout(patience, attempt(api, &mut election, &mut known)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, lease = names::CONTROLLER, "the Lease can't be read or written")
            }
            Err(_) => tracing::warn!(
                lease = names::CONTROLLER,
                "the API server does not answer in time"
            ),
        }
        let left = election.left(Instant::now());
        leading.send_if_modified(|leading| {
            std::mem::replace(leading, left.is_some()) != left.is_some()
        });
        // Candidates that started together should not stay together.
        let wait = match left {
            Some(left) => RETRY.min(left),
            None => RETRY.mul_f64(1.0 + JITTER * fastrand::f64()),
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = stop.cancelled() => break,
        }
    }
    if election.left(Instant::now()).is_some()
        && let Err(error) = release(api, identity).await
    {
        tracing::warn!(%error, "the Lease could not be given back: the next leader waits until it ends");
    }
    leading.send_replace(false);
}

/// Takes or renews the Lease if that is possible.
async fn attempt(
    api: &Api<Lease>,
    election: &mut Election,
    known: &mut Option<Lease>,
) -> Result<(), kube::Error> {
    // The leader's own last write is most often still what is there.
    let lease = match known.take() {
        Some(lease) => Some(lease),
        None => api.get_opt(names::CONTROLLER).await?,
    };
    let started = Instant::now();
    election.observe(
        lease.as_ref().and_then(|lease| lease.spec.as_ref()),
        started,
    );
    let Some(spec) = election.wish(started, Timestamp::now()) else {
        return Ok(());
    };
    let params = PostParams::default();
    let written = match lease {
        None => api.create(&params, &new_lease(spec.clone())).await,
        Some(mut lease) => {
            lease.spec = Some(spec.clone());
            api.replace(names::CONTROLLER, &params, &lease).await
        }
    };
    match written {
        Ok(lease) => {
            election.won(spec, started);
            *known = Some(lease);
            Ok(())
        }
        // Somebody else was faster. The next attempt reads what they wrote.
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

async fn release(api: &Api<Lease>, identity: &str) -> Result<(), kube::Error> {
    let give_back = async {
        let Some(mut lease) = api.get_opt(names::CONTROLLER).await? else {
            return Ok(());
        };
        let Some(spec) = &mut lease.spec else {
            return Ok(());
        };
        if spec.holder_identity.as_deref() == Some(identity) {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            api.replace(names::CONTROLLER, &PostParams::default(), &lease)
                .await?;
        }
        Ok(())
    };
    // An API server that does not answer must not hold up the end of the process.
    timeout(ATTEMPT, give_back).await.unwrap_or(Ok(()))
}

/// Who leads, as far as this candidate knows. Pure.
struct Election {
    identity: String,
    /// The Lease, and when it was first seen as it is.
    observed: Option<(LeaseSpec, Instant)>,
    /// When the write that made or kept this candidate leader was begun.
    renewed: Option<Instant>,
}

impl Election {
    fn new(identity: &str) -> Self {
        Self {
            identity: identity.into(),
            observed: None,
            renewed: None,
        }
    }

    /// The Lease is like this now; `None`: there is none.
    fn observe(&mut self, spec: Option<&LeaseSpec>, now: Instant) {
        if self.observed.as_ref().map(|(spec, _)| spec) != spec {
            self.observed = spec.map(|spec| (spec.clone(), now));
        }
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
        if holder != Some(&self.identity) {
            self.renewed = None;
        }
    }

    /// What this candidate would write; `None`: somebody else leads.
    fn wish(&self, now: Instant, wall: Timestamp) -> Option<LeaseSpec> {
        let (mut acquired, mut transitions) = (MicroTime(wall), 0);
        if let Some((spec, seen)) = &self.observed {
            let holder = spec.holder_identity.as_deref().unwrap_or_default();
            let seconds = spec.lease_duration_seconds.unwrap_or_default();
            let duration = Duration::from_secs(seconds.try_into().unwrap_or_default());
            if holder == self.identity {
                acquired = spec.acquire_time.clone().unwrap_or(acquired);
                transitions = spec.lease_transitions.unwrap_or_default();
            } else if holder.is_empty() || *seen + duration <= now {
                transitions = spec.lease_transitions.unwrap_or_default().saturating_add(1);
            } else {
                return None;
            }
        }
        Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            acquire_time: Some(acquired),
            renew_time: Some(MicroTime(wall)),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        })
    }

    /// The wish was granted by a request that was sent at `started`.
    fn won(&mut self, spec: LeaseSpec, started: Instant) {
        self.observed = Some((spec, started));
        self.renewed = Some(started);
    }

    /// How long this candidate may go on leading without renewing; `None`: it does not lead.
    fn left(&self, now: Instant) -> Option<Duration> {
        let left = (self.renewed? + RENEW_DEADLINE).checked_duration_since(now)?;
        (!left.is_zero()).then_some(left)
    }
}

fn new_lease(spec: LeaseSpec) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(names::CONTROLLER.into()),
            labels: Some(super::labels()),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn wall(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn take(election: &mut Election, now: Instant, at: Timestamp) -> LeaseSpec {
        let spec = election.wish(now, at).expect("it may lead");
        election.won(spec.clone(), now);
        spec
    }

    #[test]
    fn the_second_waits_as_long_as_the_first_renews() {
        let start = Instant::now();
        let (mut first, mut second) = (Election::new("a"), Election::new("b"));
        first.observe(None, start);
        let mut lease = take(&mut first, start, wall(100));
        assert_eq!(lease.lease_transitions, Some(0));
        for round in 1..20 {
            let now = start + SECOND * 2 * round;
            second.observe(Some(&lease), now);
            assert_eq!(second.wish(now, wall(0)), None);
            lease = take(&mut first, now, wall(100 + 2 * i64::from(round)));
            assert_eq!(
                lease.acquire_time,
                Some(MicroTime(wall(100))),
                "since when it leads"
            );
        }
        let last = start + SECOND * 40;
        second.observe(Some(&lease), last);
        assert_eq!(second.wish(last + SECOND * 14, wall(0)), None);
        let taken = take(&mut second, last + SECOND * 15, wall(0));
        assert_eq!(taken.holder_identity.as_deref(), Some("b"));
        assert_eq!(taken.lease_transitions, Some(1));
        first.observe(Some(&taken), last + SECOND * 15);
        assert_eq!(first.left(last + SECOND * 15), None);
    }

    #[test]
    fn clocks_that_differ_make_no_second_leader() {
        let start = Instant::now();
        let mut first = Election::new("a");
        let lease = take(&mut first, start, wall(0));
        // Its clock is an hour ahead of the lease's times.
        let mut second = Election::new("b");
        second.observe(Some(&lease), start + SECOND);
        assert_eq!(second.wish(start + SECOND, wall(3600)), None);
    }

    #[test]
    fn a_leader_that_cannot_renew_stops_before_another_begins() {
        let start = Instant::now();
        let mut first = Election::new("a");
        let lease = take(&mut first, start, wall(0));
        // Seen at the earliest when it was written.
        let mut second = Election::new("b");
        second.observe(Some(&lease), start);
        let begins = (0..30).find(|s| second.wish(start + SECOND * *s, wall(0)).is_some());
        let ends = (0..30).find(|s| first.left(start + SECOND * *s).is_none());
        assert_eq!((ends, begins), (Some(10), Some(15)));
    }

    #[test]
    fn a_lease_given_back_is_taken_at_once() {
        let start = Instant::now();
        let mut election = Election::new("b");
        let released = LeaseSpec {
            lease_duration_seconds: Some(1),
            lease_transitions: Some(4),
            ..LeaseSpec::default()
        };
        election.observe(Some(&released), start);
        assert_eq!(
            take(&mut election, start, wall(0)).lease_transitions,
            Some(5)
        );
    }

    #[test]
    fn a_restart_goes_on_with_its_own_lease() {
        let start = Instant::now();
        let lease = take(&mut Election::new("a"), start, wall(7));
        let mut again = Election::new("a");
        again.observe(Some(&lease), start + SECOND);
        assert_eq!(
            again.left(start + SECOND),
            None,
            "not before it has renewed"
        );
        let renewed = take(&mut again, start + SECOND, wall(8));
        assert_eq!(renewed.acquire_time, Some(MicroTime(wall(7))));
        assert_eq!(again.left(start + SECOND), Some(RENEW_DEADLINE));
    }
}
