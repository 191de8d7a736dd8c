use std::collections::BTreeMap;

use mesh_api::v1::{Endpoint, Protocol};
use proptest::prelude::*;

use super::*;
use crate::index::{Kind, Locality};

fn address() -> SocketAddr {
    "10.96.0.1:80".parse().unwrap()
}

/// A destination whose endpoints are the set bits.
fn destination(bits: u8) -> Arc<Destination> {
    hinted(bits, None)
}

/// With hints, where `zones` has one for each endpoint: for zone 1 if its bit is set, else for zone 0.
fn hinted(bits: u8, zones: Option<u8>) -> Arc<Destination> {
    let endpoints = (0..8u16).filter(|bit| bits & (1 << bit) != 0).map(|bit| {
        let at = SocketAddr::from(([10, 0, 0, 1], 1 + bit));
        (
            at,
            Endpoint {
                address: Some(at.into()),
                weight: 1,
                ..Endpoint::default()
            },
        )
    });
    let endpoints: BTreeMap<_, _> = endpoints.collect();
    let zone_of = |at: &SocketAddr| zones.map(|zones| zones >> (at.port() - 1) & 1);
    let hints = endpoints
        .keys()
        .filter_map(|at| Some((*at, vec![zone_of(at)?.to_string()])));
    Arc::new(Destination {
        address: address(),
        kind: Kind::Outside,
        protocol: Protocol::Detect,
        locality: Locality {
            zones: hints.collect(),
            ..Locality::default()
        },
        endpoints,
    })
}

fn change(before: &Arc<Destination>, after: &Arc<Destination>) -> Change {
    Change {
        before: Arc::clone(before),
        after: Arc::clone(after),
        delta: before.delta_to(after).map(Arc::new),
    }
}

/// What a proxy makes of an update.
fn take(update: DiscoveryUpdate, known: &mut BTreeMap<SocketAddr, Endpoint>) {
    let at = |address: &Option<mesh_api::v1::Address>| {
        SocketAddr::try_from(address.as_ref().unwrap()).unwrap()
    };
    match update.kind.unwrap() {
        discovery_update::Kind::Destination(all) => {
            *known = all
                .endpoints
                .into_iter()
                .map(|endpoint| (at(&endpoint.address), endpoint))
                .collect();
        }
        discovery_update::Kind::Delta(delta) => {
            known.extend(
                delta
                    .upsert
                    .into_iter()
                    .map(|endpoint| (at(&endpoint.address), endpoint)),
            );
            for gone in delta.remove {
                known.remove(&SocketAddr::try_from(&gone).unwrap());
            }
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    /// However slow the proxy is, once it has caught up it knows the current state as far as it concerns its place;
    /// and it is never sent more than one update for what piled up.
    #[test]
    fn slow_proxies_catch_up(steps in prop::collection::vec((any::<u8>(), any::<Option<u8>>(), any::<u8>(), any::<bool>()), 1..100)) {
        let mut outbox = Outbox::default();
        let (mut current, mut known, mut place) = (destination(0), BTreeMap::new(), Place::default());
        outbox.subscribe(Arc::clone(&current));
        for (bits, zones, other_zone, reads) in steps {
            let next = hinted(bits, zones);
            outbox.change(&change(&current, &next));
            current = next;
            if let 0..=9 = other_zone {
                place.zone = (other_zone % 3).to_string();
                outbox.inbound(Arc::new(Inbound { zone: place.zone.clone(), ..Inbound::default() }));
                prop_assert!(matches!(outbox.next().unwrap().kind, Some(discovery_update::Kind::Inbound(_))));
            }
            if reads {
                if let Some(update) = outbox.next() {
                    take(update, &mut known);
                }
                prop_assert!(outbox.next().is_none());
                prop_assert_eq!(&known, &current.within(&place).endpoints);
            }
        }
    }
}

#[test]
fn bundle_and_policy_come_first() {
    let mut outbox = Outbox::default();
    outbox.subscribe(destination(1));
    outbox.inbound(Arc::default());
    outbox.bundle(TrustBundle::default());
    let kinds: Vec<_> = std::iter::from_fn(|| outbox.next()).collect();
    assert!(matches!(
        kinds[0].kind,
        Some(discovery_update::Kind::Bundle(_))
    ));
    assert!(matches!(
        kinds[1].kind,
        Some(discovery_update::Kind::Inbound(_))
    ));
    assert!(matches!(
        kinds[2].kind,
        Some(discovery_update::Kind::Destination(_))
    ));
    assert_eq!(
        kinds
            .iter()
            .map(|update| update.version)
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
}

#[test]
fn a_refused_delta_is_followed_by_the_whole_state_once() {
    let mut outbox = Outbox::default();
    let (one, two) = (destination(1), destination(3));
    outbox.subscribe(Arc::clone(&one));
    outbox.next().unwrap();
    outbox.change(&change(&one, &two));
    let delta = outbox.next().unwrap();
    assert!(matches!(delta.kind, Some(discovery_update::Kind::Delta(_))));
    outbox.refused(delta.version);
    let whole = outbox.next().unwrap();
    assert!(matches!(
        whole.kind,
        Some(discovery_update::Kind::Destination(_))
    ));
    outbox.refused(whole.version);
    assert!(outbox.next().is_none());
}

#[test]
fn what_is_unsubscribed_is_not_sent() {
    let mut outbox = Outbox::default();
    outbox.subscribe(destination(1));
    outbox.unsubscribe(address());
    assert!(outbox.next().is_none());
    outbox.change(&change(&destination(1), &destination(2)));
    assert!(outbox.next().is_none());
}
