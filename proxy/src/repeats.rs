//! Log lines that would repeat: the first of a kind is written, and the rest of it is counted.
//!
//! In: why a connection failed, and with whom. Out: whether to write a line about it now, and from time to time
//! how many were not written. Pure: takes `now`. Asked only where something failed, never for what works.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::metrics::Cause;

/// How long lines of one kind are only counted after one was written.
const WINDOW: Duration = Duration::from_secs(10);
/// Kinds that are told apart. More at once come from a scan, of which single lines say little.
const MAX_KINDS: usize = 256;

/// What is alike: one cause, one peer.
type Kind = (Cause, IpAddr);

/// Remembers what was written lately.
#[derive(Debug, Default)]
pub struct Repeats {
    kinds: HashMap<Kind, Recent>,
    /// Lines not written for want of room.
    others: u64,
}

#[derive(Debug)]
struct Recent {
    until: Instant,
    left_out: u64,
}

/// Lines that were not written since the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Their kind; None for those of kinds that were too many to be told apart.
    pub kind: Option<(Cause, IpAddr)>,
    /// How many.
    pub lines: u64,
}

impl Repeats {
    /// Whether to write a line: there was none of this kind for a while.
    pub fn is_news(&mut self, cause: Cause, peer: IpAddr, now: Instant) -> bool {
        if let Some(recent) = self.kinds.get_mut(&(cause, peer)) {
            recent.left_out += 1;
            return false;
        }
        if self.kinds.len() >= MAX_KINDS {
            self.others += 1;
            return false;
        }
        let recent = Recent {
            until: now + WINDOW,
            left_out: 0,
        };
        self.kinds.insert((cause, peer), recent);
        true
    }

    /// What has not been written and is to be summed up now. To be called every second or so.
    pub fn sum_up(&mut self, now: Instant) -> Vec<LeftOut> {
        let mut sums = Vec::new();
        self.kinds.retain(|kind, recent| {
            if now < recent.until {
                return true;
            }
            if recent.left_out == 0 {
                return false;
            }
            sums.push(LeftOut {
                kind: Some(*kind),
                lines: std::mem::take(&mut recent.left_out),
            });
            recent.until = now + WINDOW;
            true
        });
        let others = std::mem::take(&mut self.others);
        if others > 0 {
            sums.push(LeftOut {
                kind: None,
                lines: others,
            });
        }
        sums
    }
}

impl LeftOut {
    /// Writes the sum.
    pub fn log(&self) {
        let lines = self.lines;
        match self.kind {
            Some((cause, peer)) if cause.is_for_somebody_to_look_at() => {
                tracing::warn!(cause = cause.as_str(), %peer, "{lines} more like it");
            }
            Some((cause, peer)) => {
                tracing::info!(cause = cause.as_str(), %peer, "{lines} more like it");
            }
            None => tracing::warn!("{lines} more failed connections, of too many peers to name"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> IpAddr {
        [10, 244, 0, number].into()
    }

    #[test]
    fn a_flood_is_one_line_and_then_its_count_every_ten_seconds() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let mut written = 0;
        let mut sums = Vec::new();
        for millisecond in 0..25_000 {
            let now = start + Duration::from_millis(millisecond);
            written += u32::from(repeats.is_news(Cause::Loop, peer(1), now));
            sums.extend(repeats.sum_up(now));
        }
        assert_eq!(written, 1);
        let lines: Vec<_> = sums.iter().map(|sum| sum.lines).collect();
        assert_eq!(lines, [10_000, 10_000]);
        assert!(
            sums.iter()
                .all(|sum| sum.kind == Some((Cause::Loop, peer(1))))
        );
        // The flood is over: its rest is told, then it is forgotten.
        let end = start + Duration::from_secs(60);
        assert_eq!(repeats.sum_up(end)[0].lines, 4999);
        assert_eq!(repeats.sum_up(end + WINDOW), []);
        assert!(repeats.is_news(Cause::Loop, peer(1), end + WINDOW));
    }

    #[test]
    fn each_cause_and_each_peer_is_news() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        assert!(repeats.is_news(Cause::Loop, peer(1), now));
        assert!(repeats.is_news(Cause::Loop, peer(2), now));
        assert!(repeats.is_news(Cause::Refused, peer(1), now));
        assert!(!repeats.is_news(Cause::Refused, peer(1), now));
        assert_eq!(repeats.sum_up(now), [], "it was written just now");
    }

    #[test]
    fn a_scan_takes_neither_memory_nor_the_log() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        let written = (0..100_000u32)
            .filter(|number| repeats.is_news(Cause::Refused, number.to_be_bytes().into(), now));
        assert_eq!(written.count(), MAX_KINDS);
        let others = LeftOut {
            kind: None,
            lines: 100_000 - MAX_KINDS as u64,
        };
        assert_eq!(repeats.sum_up(now), [others]);
    }
}
