//! Ten minutes of something that adds up: by the second for the last minute, coarser before.

use std::collections::VecDeque;

use mesh_api::v1;

/// Seconds that are kept by the second.
pub(super) const FINE: u64 = 64;
/// Seconds that are kept at all.
pub(super) const KEPT: u64 = 600;
/// Width of a coarse bucket, seconds: a window longer than a minute is exact to this at its far end.
const COARSE: u64 = 10;

/// What can be kept in a ring.
pub(super) trait Merge: Default {
    fn merge(&mut self, other: &Self);
}

/// Only seconds in which something happened take memory.
#[derive(Debug)]
pub(super) struct Ring<T> {
    fine: VecDeque<(u64, T)>,
    coarse: VecDeque<(u64, T)>,
}

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Self {
            fine: VecDeque::new(),
            coarse: VecDeque::new(),
        }
    }
}

impl<T: Merge> Ring<T> {
    /// The bucket of a second. Seconds must not go back by more than [`FINE`].
    pub(super) fn at(&mut self, second: u64) -> &mut T {
        let place = self.fine.partition_point(|(at, _)| *at < second);
        if self.fine.get(place).is_none_or(|(at, _)| *at != second) {
            self.fine.insert(place, (second, T::default()));
        }
        &mut self.fine[place].1
    }

    /// Makes old buckets coarser, and forgets the oldest. `false` when nothing is left.
    pub(super) fn age(&mut self, now: u64) -> bool {
        while self.fine.front().is_some_and(|(at, _)| *at + FINE < now) {
            let Some((at, value)) = self.fine.pop_front() else {
                break;
            };
            let slot = at / COARSE;
            match self.coarse.back_mut() {
                Some((last, merged)) if *last == slot => merged.merge(&value),
                _ => self.coarse.push_back((slot, value)),
            }
        }
        while self
            .coarse
            .front()
            .is_some_and(|(slot, _)| (*slot + 1) * COARSE + KEPT < now)
        {
            self.coarse.pop_front();
        }
        !(self.fine.is_empty() && self.coarse.is_empty())
    }

    /// The buckets of the seconds after `from` up to and including `to`.
    pub(super) fn between(&self, from: u64, to: u64) -> impl Iterator<Item = &T> {
        let fine = self
            .fine
            .iter()
            .filter(move |(at, _)| from < *at && *at <= to);
        // A coarse bucket counts if its middle lies in the window; it is never a part of a short one.
        let long = to.saturating_sub(from) > FINE;
        let coarse = self.coarse.iter().filter(move |(slot, _)| {
            let middle = slot * COARSE + COARSE / 2;
            long && from < middle && middle <= to
        });
        fine.chain(coarse).map(|(_, value)| value)
    }
}

/// Requests of one second.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pub(super) success: u64,
    pub(super) failure: u64,
    pub(super) retried: u64,
    pub(super) latency: Sparse,
    /// Requests by when they were made, not by when they were reported: reports come once a second, so that
    /// some seconds see none and some see two.
    pub(super) spread: f64,
}

impl Merge for Requests {
    fn merge(&mut self, other: &Self) {
        self.success += other.success;
        self.failure += other.failure;
        self.retried += other.retried;
        self.latency.merge(&other.latency);
        self.spread += other.spread;
    }
}

/// Bytes of one second.
#[derive(Debug, Default)]
pub(super) struct Bytes {
    pub(super) read: u64,
    pub(super) written: u64,
}

impl Merge for Bytes {
    fn merge(&mut self, other: &Self) {
        self.read += other.read;
        self.written += other.written;
    }
}

/// A latency distribution of which only the filled buckets take memory.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    /// Bucket and count, ascending by bucket.
    counts: Vec<(u16, u32)>,
    sum_us: u64,
}

impl Sparse {
    pub(super) fn add(&mut self, wire: &v1::Sketch) {
        for (&index, &count) in wire.index.iter().zip(&wire.count) {
            let index = index.min(mesh_api::sketch::BUCKETS as u32 - 1) as u16;
            self.count(index, count.min(u32::MAX.into()) as u32);
        }
        self.sum_us = self.sum_us.saturating_add(wire.sum_us);
    }

    /// As it travels, for merging into a [`mesh_api::Sketch`].
    pub(super) fn wire(&self) -> v1::Sketch {
        v1::Sketch {
            index: self
                .counts
                .iter()
                .map(|(index, _)| u32::from(*index))
                .collect(),
            count: self
                .counts
                .iter()
                .map(|(_, count)| u64::from(*count))
                .collect(),
            sum_us: self.sum_us,
        }
    }

    fn merge(&mut self, other: &Self) {
        for (index, count) in &other.counts {
            self.count(*index, *count);
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    fn count(&mut self, index: u16, count: u32) {
        match self.counts.binary_search_by_key(&index, |(at, _)| *at) {
            Ok(place) => self.counts[place].1 = self.counts[place].1.saturating_add(count),
            Err(place) => self.counts.insert(place, (index, count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Merge for u64 {
        fn merge(&mut self, other: &Self) {
            *self += other;
        }
    }

    proptest! {
        #[test]
        fn a_short_window_is_exact_and_a_long_one_nearly(steps in prop::collection::vec((0u64..5, 0u64..100), 1..500), window in 1u64..600) {
            let (mut ring, mut all, mut now) = (Ring::default(), Vec::new(), 1000);
            for (step, value) in steps {
                now += step;
                *ring.at(now) += value;
                ring.age(now);
                all.push((now, value));
            }
            let exact = |window: u64| -> u64 { all.iter().filter(|(at, _)| at + window > now).map(|(_, v)| v).sum() };
            let got: u64 = ring.between(now - window, now).sum();
            if window <= FINE {
                prop_assert_eq!(got, exact(window));
            } else {
                prop_assert!(exact(window - COARSE / 2 - 1) <= got && got <= exact(window + COARSE / 2 + 1));
            }
            prop_assert!(ring.fine.len() as u64 <= FINE + 1);
            prop_assert!(ring.coarse.len() as u64 <= KEPT / COARSE + 2);
            prop_assert!(!ring.age(now + 2 * KEPT), "everything is forgotten in the end");
        }
    }
}
