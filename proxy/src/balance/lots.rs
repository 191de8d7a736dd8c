//! Drawing endpoints by weight.
//!
//! Each endpoint holds as many lots as its weight (divided by what all weights have in common). Drawing two
//! different lots gives an endpoint the share w / W of the places: w (w − 1) / W (W − 1) for both of them, and
//! 2 w (W − w) / W (W − 1) for one, half of which it wins against an equally loaded one.

/// Who can be drawn. Positions count the endpoints that were pushed.
#[derive(Debug, Default)]
pub(super) struct Lots {
    slots: Vec<u32>,
    /// Where the lots of each end in the row of all lots; empty while all hold the same number.
    ends: Vec<u64>,
}

impl Lots {
    /// Starts anew with these slots and their weights, none of which is 0. Allocates only to grow.
    pub(super) fn refill(&mut self, weights: impl Iterator<Item = (u32, u32)>) {
        self.slots.clear();
        self.ends.clear();
        let (mut total, mut common) = (0u64, 0u64);
        for (slot, weight) in weights {
            total += u64::from(weight);
            common = greatest_common_divisor(common, weight.into());
            self.slots.push(slot);
            self.ends.push(total);
        }
        if common * self.slots.len() as u64 == total {
            self.ends.clear();
        } else {
            self.ends.iter_mut().for_each(|end| *end /= common);
        }
    }

    /// Whether all hold the same number of lots.
    pub(super) fn are_equal(&self) -> bool {
        self.ends.is_empty()
    }

    pub(super) fn slot(&self, position: usize) -> u32 {
        self.slots[position]
    }

    pub(super) fn position(&self, slot: u32) -> Option<usize> {
        self.slots.iter().position(|known| *known == slot)
    }

    /// Draws one. `None` when there is none but `except`.
    pub(super) fn draw(&self, except: Option<usize>, rng: &mut fastrand::Rng) -> Option<usize> {
        let (left, skipped) = self.left(except);
        (left > 0).then(|| self.holder(rng.u64(0..left), skipped))
    }

    /// Draws two different lots, which may belong to one. `None` when there is none but `except`.
    pub(super) fn draw_two(
        &self,
        except: Option<usize>,
        rng: &mut fastrand::Rng,
    ) -> Option<(usize, usize)> {
        let (left, skipped) = self.left(except);
        if left < 2 {
            let only = (left > 0).then(|| self.holder(0, skipped))?;
            return Some((only, only));
        }
        let first = rng.u64(0..left);
        let second = rng.u64(0..left - 1);
        let second = second + u64::from(second >= first);
        Some((self.holder(first, skipped), self.holder(second, skipped)))
    }

    /// How many lots there are without those of `except`, and which those are.
    fn left(&self, except: Option<usize>) -> (u64, (u64, u64)) {
        let all = self.ends.last().copied().unwrap_or(self.slots.len() as u64);
        let skipped = match except {
            None => (all, all),
            Some(position) if self.are_equal() => (position as u64, position as u64 + 1),
            Some(0) => (0, self.ends[0]),
            Some(position) => (self.ends[position - 1], self.ends[position]),
        };
        (all - (skipped.1 - skipped.0), skipped)
    }

    /// Who holds a lot, counting past those that are skipped. Constant time while all hold the same number,
    /// else a binary search.
    fn holder(&self, lot: u64, skipped: (u64, u64)) -> usize {
        let lot = if lot < skipped.0 {
            lot
        } else {
            lot + (skipped.1 - skipped.0)
        };
        if self.are_equal() {
            lot as usize
        } else {
            self.ends.partition_point(|end| *end <= lot)
        }
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 {
        a
    } else {
        greatest_common_divisor(b, a % b)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lots(weights: &[u32]) -> Lots {
        let mut lots = Lots::default();
        lots.refill((0..).zip(weights.iter().copied()));
        lots
    }

    proptest! {
        // Laid out in a row, every endpoint but the excepted one holds exactly its share.
        #[test]
        fn everyone_holds_its_weight(weights in prop::collection::vec(1u32..20, 1..8), except in prop::option::of(0usize..8)) {
            let except = except.filter(|position| *position < weights.len());
            let lots = lots(&weights);
            let (left, skipped) = lots.left(except);
            let mut held = vec![0; weights.len()];
            (0..left).for_each(|lot| held[lots.holder(lot, skipped)] += 1);
            let common = weights.iter().fold(0, |a, b| greatest_common_divisor(a, (*b).into()));
            for (position, weight) in weights.iter().enumerate() {
                let expected = if Some(position) == except { 0 } else { u64::from(*weight) / common };
                prop_assert_eq!(held[position], expected);
            }
        }
    }

    #[test]
    fn equal_weights_are_never_drawn_twice() {
        let mut rng = fastrand::Rng::with_seed(1);
        let lots = lots(&[100, 100, 100]);
        assert!(lots.are_equal());
        for except in [None, Some(1)] {
            for _ in 0..1000 {
                let (one, two) = lots.draw_two(except, &mut rng).unwrap();
                assert!(one != two && Some(one) != except && Some(two) != except);
            }
        }
    }

    #[test]
    fn nothing_is_left() {
        let mut rng = fastrand::Rng::with_seed(1);
        assert_eq!(lots(&[]).draw_two(None, &mut rng), None);
        assert_eq!(lots(&[7]).draw_two(Some(0), &mut rng), None);
        assert_eq!(lots(&[7]).draw(Some(0), &mut rng), None);
        assert_eq!(lots(&[7]).draw_two(None, &mut rng), Some((0, 0)));
    }
}
