//! All figures of a comparison, and what is made of several rounds.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{footprint::Footprint, peer::Peer, scenario::Measured};

/// What was measured, by scenario and peer; one entry a round.
#[derive(Serialize)]
pub(super) struct Results {
    /// In the order in which they are shown.
    peers: Vec<String>,
    scenarios: BTreeMap<String, BTreeMap<String, Vec<Measured>>>,
    footprints: BTreeMap<String, Vec<Footprint>>,
}

impl Results {
    pub(super) fn new(peers: &[Peer]) -> Self {
        Self {
            peers: peers.iter().map(|peer| peer.name.clone()).collect(),
            scenarios: BTreeMap::new(),
            footprints: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, scenario: &str, peer: &str, measured: Measured) {
        let by_peer = self.scenarios.entry(scenario.to_owned()).or_default();
        by_peer.entry(peer.to_owned()).or_default().push(measured);
    }

    pub(super) fn add_footprint(&mut self, peer: &str, footprint: Footprint) {
        self.footprints
            .entry(peer.to_owned())
            .or_default()
            .push(footprint);
    }

    pub(super) fn peers(&self) -> &[String] {
        &self.peers
    }

    /// The rounds of one peer in one scenario; None where it did not take part.
    pub(super) fn runs(&self, scenario: &str, peer: &str) -> Option<&[Measured]> {
        self.scenarios.get(scenario)?.get(peer).map(Vec::as_slice)
    }

    pub(super) fn footprints(&self, peer: &str) -> Option<&[Footprint]> {
        self.footprints.get(peer).map(Vec::as_slice)
    }
}

/// A figure over the rounds.
#[derive(Clone, Copy)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// None without any value.
    pub(super) fn of<T>(runs: &[T], figure: impl Fn(&T) -> f64) -> Option<Self> {
        let mut values: Vec<f64> = runs.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => return None,
            n if n % 2 == 1 => values[middle],
            _ => (values[middle - 1] + values[middle]) / 2.0,
        };
        Some(Self {
            median,
            min: values[0],
            max: values[values.len() - 1],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 100.0], |value| *value).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (1.0, 3.5, 100.0));
    }

    #[test]
    fn nothing_has_no_spread() {
        assert!(Spread::of::<f64>(&[], |value| *value).is_none());
    }
}
