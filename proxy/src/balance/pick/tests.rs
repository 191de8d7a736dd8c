use proptest::prelude::*;

use super::*;
use crate::balance::simulation::{Simulation, address};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn balancer(weights: &[u32], now: Instant) -> Balancer<usize> {
    let mut balancer = Balancer::new(BalanceConfig::default());
    balancer.update(
        weights
            .iter()
            .enumerate()
            .map(|(i, weight)| (address(i), *weight, i)),
        now,
    );
    balancer
}

fn state(balancer: &Balancer<usize>, index: usize, now: Instant) -> EndpointState {
    balancer.states(now).find(|(i, _)| **i == index).unwrap().1
}

/// Sends requests until the endpoint at `index` has so many, fails those and cancels all others.
fn fail(balancer: &mut Balancer<usize>, index: usize, times: usize, now: Instant) {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut picked = Vec::new();
    while picked
        .iter()
        .filter(|(_, endpoint)| *endpoint == index)
        .count()
        < times
    {
        let choice = balancer.pick(now, None, &mut rng).unwrap();
        picked.push((choice.key, *choice.endpoint));
        assert!(picked.len() < 1000, "{index} gets no requests");
    }
    for (key, endpoint) in picked {
        let failed = endpoint == index;
        let outcome = if failed {
            Outcome::Failure
        } else {
            Outcome::Cancelled
        };
        balancer.finished(key, outcome, MS, now);
    }
}

#[test]
fn equal_replicas_get_equal_shares() {
    for (rps, seed) in [(20, 1), (500, 2), (2000, 3)] {
        let mut simulation = Simulation::new([(1, 10 * MS); 4], seed);
        simulation.open_loop(rps, 20_000 * S / rps);
        let shares = simulation.shares();
        assert!(
            shares.iter().all(|share| (0.21..0.29).contains(share)),
            "{rps} rps: {shares:?}"
        );
    }
}

#[test]
fn a_slow_replica_gets_under_five_percent_and_is_found_again() {
    for latency in [MS, 5 * MS, 20 * MS] {
        for rps in [20, 100, 500] {
            let replicas = [(1, latency), (1, latency + 200 * MS), (1, latency)];
            let mut simulation = Simulation::new(replicas, u64::from(rps));
            simulation.open_loop(rps, 60 * S);
            let share = simulation.shares()[1];
            assert!(share < 0.05, "{latency:?}, {rps} rps: {share}");
            simulation.replicas[1].latency = latency;
            simulation.open_loop(rps, 60 * S);
            simulation.shares();
            simulation.open_loop(rps, 20 * S);
            let share = simulation.shares()[1];
            assert!(
                share > 0.25,
                "{latency:?}, {rps} rps: found again with {share}"
            );
        }
    }
}

#[test]
fn a_slow_replica_gets_little_from_many_clients() {
    for clients in [1, 8, 64] {
        let mut simulation = Simulation::new([(1, 5 * MS), (1, 205 * MS), (1, 5 * MS)], 1);
        simulation.closed_loop(clients, 10 * S);
        let share = simulation.shares()[1];
        assert!(share < 0.05, "{clients} clients: {share}");
    }
}

#[test]
fn a_slow_replica_is_avoided_in_spite_of_its_weight() {
    let mut simulation = Simulation::new([(3, 205 * MS), (2, 5 * MS), (3, 5 * MS)], 1);
    simulation.open_loop(500, 20 * S);
    let share = simulation.shares()[0];
    assert!(share < 0.05, "{share}");
}

#[test]
fn a_new_replica_gets_requests_at_once() {
    let mut simulation = Simulation::new([(1, MS), (1, MS), (0, MS)], 1);
    simulation.open_loop(200, 10 * S);
    assert_eq!(simulation.shares()[2], 0.0, "weight 0");
    simulation.replicas[2].weight = 1;
    simulation.update();
    simulation.open_loop(200, 2 * S);
    let share = simulation.shares()[2];
    assert!(share > 0.2, "{share}");
}

#[test]
fn weights_are_respected() {
    for weights in [
        &[3, 1][..],
        &[1, 2, 3],
        &[99, 1],
        &[100, 300, 100],
        &[5, 0, 5, 7],
    ] {
        let replicas = weights.iter().map(|weight| (*weight, 5 * MS));
        let mut simulation = Simulation::new(replicas, 11);
        simulation.open_loop(200, 300 * S);
        let total = f64::from(weights.iter().sum::<u32>());
        for (share, weight) in simulation.shares().iter().zip(weights) {
            let ideal = f64::from(*weight) / total;
            assert!(
                (share - ideal).abs() <= 0.03 + ideal * 0.1,
                "{weights:?}: {share} for {ideal}"
            );
        }
    }
}

#[test]
fn a_failing_replica_is_ejected_probed_and_found_again() {
    let mut simulation = Simulation::new([(1, 5 * MS); 3], 5);
    simulation.open_loop(200, 5 * S);
    simulation.shares();
    simulation.replicas[2].failing = 1.0;
    simulation.open_loop(200, S);
    // Seven failures, and what was in flight by then.
    assert!(
        (7..10).contains(&simulation.replicas[2].failures),
        "{}",
        simulation.replicas[2].failures
    );
    simulation.open_loop(200, 59 * S);
    let share = simulation.shares()[2];
    assert!(share < 0.005, "{share}");
    // Pauses of 1, 2, 4, 8, 16 s (and jitter) fit into a minute.
    let probes = simulation.replicas[2].failures;
    assert!((10..16).contains(&probes), "{probes}");
    assert_eq!(
        simulation.replicas[2].most_while_ejected, 1,
        "one probe at a time"
    );
    simulation.replicas[2].failing = 0.0;
    simulation.open_loop(200, 90 * S);
    simulation.shares();
    simulation.open_loop(200, 60 * S);
    let share = simulation.shares()[2];
    assert!(share > 0.25, "{share}");
    assert_eq!(simulation.most_ejected, 1);
}

#[test]
fn a_replica_whose_first_request_failed_is_no_outcast() {
    let mut simulation = Simulation::new([(1, 2 * MS); 3], 5);
    simulation.replicas[2].failing = 1.0;
    while simulation.replicas[2].failures == 0 {
        simulation.open_loop(200, 5 * MS);
    }
    simulation.replicas[2].failing = 0.0;
    // One failure doubles its load, which decays.
    simulation.open_loop(200, 10 * S);
    simulation.shares();
    simulation.open_loop(200, 4 * S);
    let share = simulation.shares()[2];
    assert!(share > 0.2, "{share}");
}

#[test]
fn a_replica_whose_probe_succeeded_gets_its_share_at_once() {
    let mut simulation = Simulation::new([(1, 2 * MS); 3], 5);
    simulation.replicas[2].failing = 1.0;
    simulation.open_loop(200, 6 * S);
    simulation.replicas[2].failing = 0.0;
    // The pauses were 1, 2 and 4 s, and jitter: the next probe is at most so far away.
    simulation.open_loop(200, 6 * S);
    simulation.shares();
    simulation.open_loop(200, 4 * S);
    let share = simulation.shares()[2];
    assert!(share > 0.2, "{share}");
}

#[test]
fn a_replica_that_fails_often_is_avoided_without_ejection() {
    let mut simulation = Simulation::new([(1, 5 * MS); 3], 5);
    simulation.replicas[0].failing = 0.3;
    simulation.open_loop(500, 60 * S);
    let share = simulation.shares()[0];
    assert!(share < 0.10, "{share}");
}

#[test]
fn latency_still_decides_where_all_fail_alike() {
    let mut simulation = Simulation::new([(1, 5 * MS), (1, 5 * MS), (1, 205 * MS)], 5);
    simulation
        .replicas
        .iter_mut()
        .for_each(|replica| replica.failing = 0.2);
    simulation.open_loop(500, 60 * S);
    let share = simulation.shares()[2];
    assert!(share < 0.05, "{share}");
}

#[test]
fn half_of_failing_replicas_stay() {
    for replicas in 1..=5 {
        let mut simulation = Simulation::new(vec![(1, 5 * MS); replicas], 5);
        simulation
            .replicas
            .iter_mut()
            .for_each(|replica| replica.failing = 1.0);
        simulation.open_loop(200, 30 * S);
        assert_eq!(simulation.most_ejected, replicas / 2);
    }
}

#[test]
fn nothing_to_choose() {
    let now = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    assert!(balancer(&[], now).pick(now, None, &mut rng).is_none());
    assert!(balancer(&[0, 0], now).pick(now, None, &mut rng).is_none());
}

#[test]
fn a_retry_goes_elsewhere_if_there_is_an_elsewhere() {
    let now = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    for weights in [&[1, 1, 1][..], &[5, 1, 2]] {
        let mut balancer = balancer(weights, now);
        for excluded in 0..3 {
            for _ in 0..200 {
                let choice = balancer
                    .pick(now, Some(address(excluded)), &mut rng)
                    .unwrap();
                assert_ne!(choice.address, address(excluded));
            }
        }
    }
    let mut single = balancer(&[1], now);
    assert_eq!(
        single
            .pick(now, Some(address(0)), &mut rng)
            .unwrap()
            .address,
        address(0)
    );
}

#[test]
fn a_retry_is_no_probe() {
    let now = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut balancer = balancer(&[1, 1], now);
    fail(&mut balancer, 1, 7, now);
    assert_eq!(state(&balancer, 1, now).breaker, BreakerState::Open);
    let later = now + 2 * S;
    assert_eq!(
        *balancer
            .pick(later, Some(address(0)), &mut rng)
            .unwrap()
            .endpoint,
        0
    );
    assert_eq!(*balancer.pick(later, None, &mut rng).unwrap().endpoint, 1);
}

#[test]
fn a_cancelled_probe_is_repeated_and_an_endless_one_followed() {
    let now = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut balancer = balancer(&[1, 1], now);
    fail(&mut balancer, 1, 7, now);
    let mut later = now + 2 * S;
    for outcome in [Some(Outcome::Cancelled), None, Some(Outcome::Success)] {
        let choice = balancer.pick(later, None, &mut rng).unwrap();
        assert_eq!(*choice.endpoint, 1, "the probe");
        let key = choice.key;
        assert_eq!(
            *balancer.pick(later, None, &mut rng).unwrap().endpoint,
            0,
            "only one"
        );
        match outcome {
            Some(outcome) => balancer.finished(key, outcome, MS, later),
            None => later += 10 * S,
        }
    }
    assert_eq!(state(&balancer, 1, later).breaker, BreakerState::Closed);
}

#[test]
fn what_was_in_flight_before_an_ejection_does_not_end_it() {
    let now = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut balancer = balancer(&[1, 1], now);
    let old = loop {
        let choice = balancer.pick(now, None, &mut rng).unwrap();
        if *choice.endpoint == 1 {
            break choice.key;
        }
    };
    fail(&mut balancer, 1, 7, now);
    balancer.finished(old, Outcome::Success, MS, now);
    assert_eq!(state(&balancer, 1, now).breaker, BreakerState::Open);
}

#[test]
fn an_update_keeps_what_is_known() {
    let now = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut balancer = balancer(&[1, 1, 1], now);
    let mut keys = Vec::new();
    for _ in 0..3 {
        let choice = balancer.pick(now, None, &mut rng).unwrap();
        keys.push((choice.key, *choice.endpoint));
    }
    let mut seen: Vec<_> = keys.iter().map(|key| key.1).collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [0, 1, 2],
        "each unmeasured endpoint gets one request first"
    );
    keys.iter().for_each(|(key, i)| {
        balancer.finished(*key, Outcome::Success, 10 * MS * (*i as u32 + 1), now);
    });
    let held = balancer.pick(now, Some(address(0)), &mut rng).unwrap();
    let (held, of) = (held.key, *held.endpoint);
    balancer.update([(address(of), 4, 77), (address(9), 1, 9)], now);
    assert_eq!(balancer.len(), 2);
    assert_eq!(balancer.find(address(of)), Some(&77));
    let kept = state(&balancer, 77, now);
    assert_eq!((kept.weight, kept.pending), (4, 1));
    assert_eq!(kept.ewma, 10 * MS * (of as u32 + 1));
    balancer.finished(held, Outcome::Success, MS, now);
    assert_eq!(state(&balancer, 77, now).pending, 0);
    // A key of an endpoint that went does not touch the one that took its slot.
    let (gone, _) = keys.iter().find(|key| key.1 != of).unwrap();
    balancer.finished(*gone, Outcome::Failure, 9 * S, now);
    assert_eq!(state(&balancer, 9, now).consecutive_failures, 0);
}

#[test]
fn removal_of_good_endpoints_brings_ejected_ones_back() {
    let now = Instant::now();
    let mut balancer = balancer(&[1, 1, 1, 1], now);
    fail(&mut balancer, 0, 7, now);
    fail(&mut balancer, 1, 7, now);
    balancer.update([(address(0), 1, 0), (address(1), 1, 1)], now);
    let closed = |i| state(&balancer, i, now).breaker == BreakerState::Closed;
    assert_eq!(u8::from(closed(0)) + u8::from(closed(1)), 1);
    balancer.update([(address(0), 1, 0)], now);
    assert_eq!(state(&balancer, 0, now).breaker, BreakerState::Closed);
}

proptest! {
    // Whatever happens in whatever order: at most half are ejected, there is a choice while anything has a
    // weight, a retry goes elsewhere if it can, and no more requests are pending than were
    // picked.
    #[test]
    fn rules_hold_in_any_order(ops in prop::collection::vec((0u8..8, any::<u16>(), 0u64..3000), 1..400)) {
        let mut now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(3);
        let mut balancer: Balancer<usize> = Balancer::new(BalanceConfig::default());
        let mut open: Vec<Key> = Vec::new();
        for (op, value, wait_ms) in ops {
            now += Duration::from_millis(wait_ms);
            match op {
                0 => {
                    let listed = |i: &usize| value & (1 << i) != 0;
                    let weight = |i: usize| u32::from(value >> 8) * i as u32 % 4;
                    balancer.update((0..8).filter(listed).map(|i| (address(i), weight(i), i)), now);
                }
                1..=4 => {
                    let exclude = (op == 4).then(|| address(value as usize % 8));
                    let ready = |state: &EndpointState| state.weight > 0 && state.breaker == BreakerState::Closed;
                    let states: Vec<_> = balancer.states(now).map(|(_, state)| state).collect();
                    let others = states.iter().filter(|state| ready(state) && Some(state.address) != exclude);
                    let choice = balancer.pick(now, exclude, &mut rng);
                    prop_assert_eq!(choice.is_some(), states.iter().any(|state| state.weight > 0));
                    if let Some(choice) = choice {
                        prop_assert!(Some(choice.address) != exclude || others.count() == 0);
                        open.push(choice.key);
                    }
                }
                _ if open.is_empty() => {}
                _ => {
                    let key = open.swap_remove(value as usize % open.len());
                    let outcome = [Outcome::Failure, Outcome::Failure, Outcome::Success, Outcome::Cancelled];
                    balancer.finished(key, outcome[(value >> 8) as usize % 4], Duration::from_millis(wait_ms), now);
                }
            }
            let states: Vec<_> = balancer.states(now).map(|(_, state)| state).collect();
            let weighted = states.iter().filter(|state| state.weight > 0);
            let ejected = weighted.clone().filter(|state| state.breaker != BreakerState::Closed).count();
            prop_assert!(ejected * 2 <= weighted.count());
            let pending: usize = states.iter().map(|state| state.pending as usize).sum();
            prop_assert!(pending <= open.len());
        }
    }
}
