//! A latency distribution in fixed log-linear buckets.
//!
//! Proxies count into dense arrays of [`BUCKETS`] counters with [`bucket`]; only the counters that are
//! not zero travel. Every part of the mesh uses the same buckets, so that merging is addition and loses
//! nothing. Values are microseconds. Eight buckets per power of two: a quantile is within 1/16 (6.25 %)
//! of the true value (the scheme of HdrHistogram, with three significant bits).

use crate::v1;

/// Sub-buckets per power of two.
const STEPS: u64 = 8;
/// Powers of two above the linear part: 8 µs · 2^29 is 71 minutes; longer counts as that.
const OCTAVES: u64 = 29;
/// Number of buckets.
pub const BUCKETS: usize = (STEPS * (OCTAVES + 1)) as usize;

/// The bucket of a latency in microseconds; always below [`BUCKETS`].
pub const fn bucket(us: u64) -> usize {
    if us < STEPS {
        return us as usize;
    }
    // us is in [2^e, 2^(e+1)) with e ≥ 3; the three bits below the leading one choose the sub-bucket.
    let exponent = 63 - us.leading_zeros() as u64;
    let step = (us >> (exponent - 3)) & (STEPS - 1);
    let index = (exponent - 2) * STEPS + step;
    if index as usize >= BUCKETS {
        BUCKETS - 1
    } else {
        index as usize
    }
}

/// The range `[low, high)` of a bucket, microseconds.
pub const fn bounds(bucket: usize) -> (u64, u64) {
    let (octave, step) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    if octave == 0 {
        return (step, step + 1);
    }
    let width = 1 << (octave - 1);
    ((STEPS + step) * width, (STEPS + step + 1) * width)
}

/// A distribution at rest: what the controller keeps and the CLI reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sketch {
    counts: Vec<u64>,
    sum_us: u64,
}

impl Sketch {
    /// Counts one latency.
    pub fn record(&mut self, us: u64) {
        self.add(bucket(us), 1);
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// Adds what came over the wire. Indices out of range count in the last bucket; a count without an
    /// index is ignored.
    pub fn merge(&mut self, wire: &v1::Sketch) {
        for (&index, &count) in wire.index.iter().zip(&wire.count) {
            self.add((index as usize).min(BUCKETS - 1), count);
        }
        self.sum_us = self.sum_us.saturating_add(wire.sum_us);
    }

    /// Number of latencies.
    pub fn count(&self) -> u64 {
        self.counts
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Mean, microseconds; `None` when empty.
    pub fn mean(&self) -> Option<u64> {
        self.sum_us.checked_div(self.count())
    }

    /// The latency in microseconds below which the share `q` (0 to 1) lies: the middle of its bucket.
    /// `None` when empty.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let rank = ((q.clamp(0.0, 1.0) * total as f64).ceil() as u64).max(1);
        let mut seen = 0u64;
        for (index, count) in self.counts.iter().enumerate() {
            seen = seen.saturating_add(*count);
            if seen >= rank {
                let (low, high) = bounds(index);
                return Some((low + high - 1) / 2);
            }
        }
        None
    }

    fn add(&mut self, index: usize, count: u64) {
        if self.counts.len() <= index {
            self.counts.resize(index + 1, 0);
        }
        self.counts[index] = self.counts[index].saturating_add(count);
    }
}

impl From<&Sketch> for v1::Sketch {
    fn from(sketch: &Sketch) -> Self {
        let filled = || {
            sketch
                .counts
                .iter()
                .enumerate()
                .filter(|(_, count)| **count > 0)
        };
        Self {
            index: filled().map(|(index, _)| index as u32).collect(),
            count: filled().map(|(_, count)| *count).collect(),
            sum_us: sketch.sum_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_value_lies_in_its_bucket(us in 0u64..4_000_000_000) {
            let (low, high) = bounds(bucket(us));
            prop_assert!(low <= us && us < high, "{us} not in [{low}, {high})");
            prop_assert!((high - low) * STEPS <= low.max(STEPS), "bucket wider than an eighth");
        }

        #[test]
        fn quantiles_are_within_a_sixteenth(mut values in prop::collection::vec(0u64..100_000_000, 1..200), q in 0.0..=1.0f64) {
            let mut sketch = Sketch::default();
            values.iter().for_each(|v| sketch.record(*v));
            values.sort_unstable();
            let rank = ((q * values.len() as f64).ceil() as usize).max(1) - 1;
            let (exact, got) = (values[rank] as f64, sketch.quantile(q).unwrap() as f64);
            prop_assert!((exact - got).abs() <= exact / 16.0 + 1.0, "{got} for {exact}");
        }

        #[test]
        fn merging_over_the_wire_is_addition(a in prop::collection::vec(any::<u64>(), 0..50), b in prop::collection::vec(any::<u64>(), 0..50)) {
            let (mut left, mut right, mut both) = (Sketch::default(), Sketch::default(), Sketch::default());
            a.iter().for_each(|v| { left.record(*v); both.record(*v) });
            b.iter().for_each(|v| { right.record(*v); both.record(*v) });
            left.merge(&(&right).into());
            prop_assert_eq!(left, both);
        }
    }

    #[test]
    fn the_longest_latency_has_a_bucket() {
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn empty_has_no_quantile() {
        assert_eq!(Sketch::default().quantile(0.5), None);
    }
}
