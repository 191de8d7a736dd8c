//! Single requests as they happen, for `mesh tap`.
//!
//! Nothing is built or locked unless somebody watches. Each tap has a filter and so many events per second;
//! what matches waits in a bounded queue for the next report.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mesh_api::v1::{StartTap, TapEvent, TapFilter};

use super::series::lock;

/// Events that wait for the next report; older ones make room.
const MAX_QUEUED: usize = 1_000;
/// Taps that run at once on one proxy.
const MAX_TAPS: usize = 32;
/// Events per second of a tap that names no limit.
const DEFAULT_RPS: u32 = 100;

/// Where workers offer requests while somebody watches. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tap(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    active: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taps: Vec<Running>,
    queue: VecDeque<TapEvent>,
    dropped: u64,
}

#[derive(Debug)]
struct Running {
    id: u64,
    filter: TapFilter,
    max_rps: u32,
    /// Beginning of the running second, and the events in it.
    second: Option<Instant>,
    events: u32,
}

impl Tap {
    /// Whether somebody watches: one relaxed load. Check it before building an event.
    pub fn active(&self) -> bool {
        self.0.active.load(Ordering::Relaxed)
    }

    /// Offers a request; it is dropped when nobody's filter matches, or too many came this second.
    pub fn offer(&self, event: TapEvent) {
        if self.active() {
            lock(&self.0.state).offer(event, Instant::now());
        }
    }

    /// Starts a tap, or changes the one with this id.
    pub(super) fn start(&self, start: StartTap) {
        let mut state = lock(&self.0.state);
        state.taps.retain(|tap| tap.id != start.id);
        if state.taps.len() >= MAX_TAPS {
            tracing::warn!(limit = MAX_TAPS, "tap refused: too many taps are running");
            return;
        }
        state.taps.push(Running {
            id: start.id,
            filter: start.filter.unwrap_or_default(),
            max_rps: if start.max_rps == 0 {
                DEFAULT_RPS
            } else {
                start.max_rps
            },
            second: None,
            events: 0,
        });
        self.0.active.store(true, Ordering::Relaxed);
    }

    /// Ends a tap.
    pub(super) fn stop(&self, id: u64) {
        self.retain(|tap| tap.id != id);
    }

    /// Ends all taps: the controller that asked for them is gone.
    pub(super) fn stop_all(&self) {
        self.retain(|_| false);
        lock(&self.0.state).queue.clear();
    }

    /// The events that wait, and how many did not fit.
    pub(super) fn take(&self) -> (Vec<TapEvent>, u64) {
        let mut state = lock(&self.0.state);
        (
            mem::take(&mut state.queue).into(),
            mem::take(&mut state.dropped),
        )
    }

    fn retain(&self, keep: impl Fn(&Running) -> bool) {
        let mut state = lock(&self.0.state);
        state.taps.retain(keep);
        self.0
            .active
            .store(!state.taps.is_empty(), Ordering::Relaxed);
    }
}

impl State {
    fn offer(&mut self, event: TapEvent, now: Instant) {
        // Every tap that matches pays, so that none gets more than it asked for on account of another.
        let matching = self
            .taps
            .iter_mut()
            .filter(|tap| tap.filter.selects(&event));
        let (mut wanted, mut allowed) = (false, false);
        for tap in matching {
            wanted = true;
            allowed |= tap.take(now);
        }
        if !allowed {
            self.dropped += u64::from(wanted);
            return;
        }
        if self.queue.len() >= MAX_QUEUED {
            self.queue.pop_front();
            self.dropped += 1;
        }
        self.queue.push_back(event);
    }
}

impl Running {
    fn take(&mut self, now: Instant) -> bool {
        let second = |since: Instant| now.saturating_duration_since(since) < Duration::from_secs(1);
        if !self.second.is_some_and(second) {
            (self.second, self.events) = (Some(now), 0);
        }
        self.events = self.events.saturating_add(1);
        self.events <= self.max_rps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> TapEvent {
        TapEvent {
            path: "/items/7".into(),
            ..TapEvent::default()
        }
    }

    #[test]
    fn active_while_somebody_watches() {
        let tap = Tap::default();
        tap.offer(event());
        assert!(!tap.active());
        tap.start(StartTap {
            id: 1,
            ..StartTap::default()
        });
        tap.start(StartTap {
            id: 2,
            ..StartTap::default()
        });
        tap.stop(1);
        assert!(tap.active());
        tap.offer(event());
        assert_eq!(tap.take(), (vec![event()], 0));
        tap.stop(2);
        assert!(!tap.active());
        tap.offer(event());
        assert_eq!(tap.take(), (vec![], 0));
    }

    #[test]
    fn so_many_events_per_second() {
        let now = Instant::now();
        let tap = Tap::default();
        tap.start(StartTap {
            id: 1,
            max_rps: 10,
            ..StartTap::default()
        });
        let offer = |at| lock(&tap.0.state).offer(event(), at);
        (0..25).for_each(|_| offer(now));
        (0..5).for_each(|_| offer(now + Duration::from_secs(1)));
        let (events, dropped) = tap.take();
        assert_eq!((events.len(), dropped), (15, 15));
    }

    #[test]
    fn the_queue_is_bounded() {
        let tap = Tap::default();
        tap.start(StartTap {
            id: 1,
            max_rps: u32::MAX,
            ..StartTap::default()
        });
        (0..MAX_QUEUED + 7).for_each(|_| tap.offer(event()));
        let (events, dropped) = tap.take();
        assert_eq!((events.len(), dropped), (MAX_QUEUED, 7));
    }
}
