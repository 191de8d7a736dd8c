//! The state machine, fed with messages.

use mesh_api::v1::destination::Kind as WireKind;
use proptest::prelude::*;

use super::super::InboundPort;
use super::*;

const SERVICE: &str = "10.96.0.7:80";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn endpoint(address: &str) -> v1::Endpoint {
    v1::Endpoint {
        address: Some(at(address).into()),
        weight: 1,
        identity: "spiffe://cluster.local/ns/shop/sa/api".into(),
        workload: Some(v1::Workload {
            namespace: "shop".into(),
            kind: "deployment".into(),
            name: "api".into(),
        }),
        pod: format!("api-{address}"),
        zone: String::new(),
    }
}

fn service(endpoints: &[&str]) -> v1::Destination {
    let port = v1::ServicePort {
        namespace: "shop".into(),
        name: "api".into(),
        port: 80,
    };
    v1::Destination {
        address: Some(at(SERVICE).into()),
        kind: Some(WireKind::Service(port)),
        protocol: v1::Protocol::Http.into(),
        endpoints: endpoints.iter().map(|address| endpoint(address)).collect(),
    }
}

fn outside(address: &str) -> v1::Destination {
    v1::Destination {
        address: Some(at(address).into()),
        kind: Some(WireKind::Outside(v1::Outside {})),
        ..v1::Destination::default()
    }
}

fn delta(upsert: &[&str], remove: &[&str]) -> v1::DestinationDelta {
    v1::DestinationDelta {
        address: Some(at(SERVICE).into()),
        upsert: upsert.iter().map(|address| endpoint(address)).collect(),
        remove: remove.iter().map(|address| at(address).into()).collect(),
    }
}

type Receiver = watch::Receiver<Option<Arc<Destination>>>;

fn addresses(receiver: &Receiver) -> Vec<String> {
    let answer = receiver.borrow().clone().unwrap();
    answer
        .endpoints
        .iter()
        .map(|endpoint| endpoint.address.to_string())
        .collect()
}

/// A world with one service watched, and the service's watch.
fn world() -> (World, Receiver) {
    let mut world = World::new("shop", "web-1");
    let (receiver, is_new) = world.watch(at(SERVICE), Instant::now());
    assert!(is_new);
    (world, receiver)
}

#[test]
fn an_address_is_unknown_until_it_is_answered() {
    let (mut world, receiver) = world();
    assert!(receiver.borrow().is_none());
    assert!(
        !world.watch(at(SERVICE), Instant::now()).1,
        "subscribed once"
    );
    world
        .set(service(&["10.244.0.3:8080", "10.244.0.2:8080"]))
        .unwrap();
    assert_eq!(
        addresses(&receiver),
        ["10.244.0.2:8080", "10.244.0.3:8080"],
        "ordered"
    );
    assert_eq!(
        receiver.borrow().as_ref().unwrap().protocol,
        v1::Protocol::Http
    );
}

#[test]
fn deltas_change_what_they_name_only() {
    let (mut world, mut receiver) = world();
    world
        .set(service(&["10.244.0.2:8080", "10.244.0.3:8080"]))
        .unwrap();
    let before = receiver.borrow_and_update().clone().unwrap();
    world
        .change(delta(&["10.244.0.4:8080"], &["10.244.0.2:8080"]))
        .unwrap();
    assert!(receiver.has_changed().unwrap());
    assert_eq!(addresses(&receiver), ["10.244.0.3:8080", "10.244.0.4:8080"]);
    let after = receiver.borrow_and_update().clone().unwrap();
    assert!(
        Arc::ptr_eq(&before.endpoints[1], &after.endpoints[0]),
        "unchanged endpoints stay as they are"
    );
    world
        .change(delta(&["10.244.0.4:8080"], &["10.244.0.9:1"]))
        .unwrap();
    assert!(
        !receiver.has_changed().unwrap(),
        "nothing changed, nobody is woken"
    );
}

#[test]
fn deltas_need_a_base_of_the_same_stream() {
    let (mut world, receiver) = world();
    let no_base = Err(UpdateError::NoBase(at(SERVICE)));
    assert_eq!(
        world.change(delta(&["10.244.0.2:1"], &[])),
        no_base,
        "never answered"
    );
    world.set(service(&["10.244.0.2:1"])).unwrap();
    assert_eq!(world.subscriptions(), [at(SERVICE)]);
    assert_eq!(
        world.change(delta(&["10.244.0.3:1"], &[])),
        no_base,
        "a new stream"
    );
    assert_eq!(
        addresses(&receiver),
        ["10.244.0.2:1"],
        "what was known serves on"
    );
    world.set(service(&["10.244.0.2:1"])).unwrap();
    assert_eq!(world.change(delta(&["10.244.0.3:1"], &[])), Ok(()));
    assert_eq!(addresses(&receiver).len(), 2);

    let mut stranger = delta(&[], &[]);
    stranger.address = Some(at("10.96.0.99:1").into());
    assert_eq!(
        world.change(stranger),
        Err(UpdateError::NoBase(at("10.96.0.99:1")))
    );
}

#[test]
fn a_reconnect_that_brings_nothing_new_wakes_nobody() {
    let (mut world, mut receiver) = world();
    world.set(service(&["10.244.0.2:1"])).unwrap();
    receiver.mark_unchanged();
    world.subscriptions();
    world.set(service(&["10.244.0.2:1"])).unwrap();
    assert!(!receiver.has_changed().unwrap());
}

#[test]
fn what_is_malformed_changes_nothing() {
    let (mut world, receiver) = world();
    world.set(service(&["10.244.0.2:1"])).unwrap();
    let mut no_kind = service(&[]);
    no_kind.kind = None;
    let mut bad_identity = service(&["10.244.0.3:1"]);
    bad_identity.endpoints[0].identity = "somebody".into();
    let mut bad_address = service(&["10.244.0.3:1"]);
    bad_address.endpoints[0].address = Some(v1::Address {
        ip: vec![1],
        port: 1,
    });
    for update in [
        no_kind,
        bad_identity,
        bad_address,
        v1::Destination::default(),
    ] {
        assert!(matches!(world.set(update), Err(UpdateError::Malformed(_))));
    }
    let mut bad_delta = delta(&["10.244.0.3:1"], &["10.244.0.2:1"]);
    bad_delta.upsert[0].address = None;
    assert!(matches!(
        world.change(bad_delta),
        Err(UpdateError::Malformed(_))
    ));
    assert_eq!(addresses(&receiver), ["10.244.0.2:1"]);
}

#[test]
fn idle_addresses_are_forgotten_after_a_minute() {
    let (mut world, receiver) = world();
    world.set(service(&[])).unwrap();
    let start = Instant::now();
    assert_eq!(world.forget_idle(start + 2 * IDLE, true), [], "watched");
    drop(receiver);
    assert_eq!(
        world.forget_idle(start + 2 * IDLE, true),
        [],
        "idle from now on"
    );
    let end = start + 3 * IDLE;
    assert_eq!(world.forget_idle(end - Duration::from_millis(1), true), []);
    assert_eq!(world.forget_idle(end, true), [at(SERVICE)]);

    assert_eq!(
        world.change(delta(&["10.244.0.2:1"], &[])),
        Ok(()),
        "crossed on the wire"
    );
    assert_eq!(world.set(service(&[])), Ok(()), "crossed on the wire");
    assert!(world.destinations().is_empty());
    let (_receiver, is_new) = world.watch(at(SERVICE), end);
    assert!(is_new);
    assert!(
        world.change(delta(&[], &[])).is_err(),
        "wanted again, but not answered yet"
    );
}

#[test]
fn a_watch_in_time_keeps_the_subscription() {
    let (mut world, receiver) = world();
    let start = Instant::now();
    drop(receiver);
    world.forget_idle(start, true);
    let (receiver, is_new) = world.watch(at(SERVICE), start);
    assert!(!is_new);
    world.forget_idle(start + IDLE, true);
    drop(receiver);
    assert_eq!(world.forget_idle(start + IDLE, true), [], "idle anew");
}

#[test]
fn services_are_not_forgotten_while_the_controller_is_away() {
    let (mut world, receiver) = world();
    world.set(service(&[])).unwrap();
    drop(receiver);
    let now = Instant::now();
    drop(world.watch(at("192.0.2.1:443"), now));
    world.set(outside("192.0.2.1:443")).unwrap();
    drop(world.watch(at("192.0.2.2:443"), now));
    world.forget_idle(now, false);
    let unbounded = [at("192.0.2.1:443"), at("192.0.2.2:443")];
    assert_eq!(world.forget_idle(now + IDLE, false), unbounded);
    assert_eq!(world.destinations().len(), 1);
}

/// It was met, then idle for so long that it was forgotten; then the controller went away.
#[test]
fn a_forgotten_service_is_as_it_was_until_it_is_answered_anew() {
    let (mut world, receiver) = world();
    world.set(service(&["10.244.0.2:1"])).unwrap();
    drop(receiver);
    let now = Instant::now();
    drop(world.watch(at("192.0.2.1:443"), now));
    world.set(outside("192.0.2.1:443")).unwrap();
    world.forget_idle(now, true);
    assert_eq!(world.forget_idle(now + IDLE, true).len(), 2);
    assert!(world.destinations().is_empty());
    assert_eq!(world.all_destinations().len(), 1, "cached all the same");

    let (receiver, is_new) = world.watch(at(SERVICE), now + IDLE);
    assert!(is_new, "subscribed again");
    assert!(
        receiver.borrow().is_none(),
        "the controller may know better"
    );
    let (elsewhere, _) = world.watch(at("192.0.2.1:443"), now + IDLE);
    world.recall_unanswered();
    assert_eq!(addresses(&receiver), ["10.244.0.2:1"]);
    let known = receiver.borrow().clone().unwrap();
    assert!(known.endpoints[0].identity.is_some(), "not in clear");
    assert!(elsewhere.borrow().is_none());
    assert!(world.recall(at(SERVICE)) && !world.recall(at("192.0.2.1:443")));
    assert!(world.change(delta(&[], &[])).is_err(), "no base for deltas");

    world.set(service(&["10.244.0.9:1"])).unwrap();
    assert_eq!(addresses(&receiver), ["10.244.0.9:1"]);
    assert!(world.recall(at(SERVICE)));
    assert_eq!(
        addresses(&receiver),
        ["10.244.0.9:1"],
        "news are not undone"
    );
}

/// The service is gone, and its address is somebody else's: nothing of it may come back.
#[test]
fn what_the_controller_took_back_is_not_recalled() {
    let (mut world, receiver) = world();
    let now = Instant::now();
    for answer in [service(&["10.244.0.2:1"]), outside(SERVICE)] {
        drop(world.watch(at(SERVICE), now));
        world.set(answer).unwrap();
    }
    drop(receiver);
    world.forget_idle(now, true);
    world.forget_idle(now + IDLE, true);
    let (receiver, _) = world.watch(at(SERVICE), now);
    assert!(!world.recall(at(SERVICE)));
    assert!(receiver.borrow().is_none());
}

#[test]
fn departures_are_remembered_within_bounds() {
    let mut world = World::default();
    let now = Instant::now();
    for port in 1..2000 {
        drop(world.watch(SocketAddr::from(([192, 0, 2, 1], port)), now));
    }
    world.forget_idle(now, true);
    assert_eq!(world.forget_idle(now + IDLE, true).len(), 1999);
    assert_eq!(world.departed.len(), REMEMBERED_DEPARTURES);
    world.subscriptions();
    assert!(world.departed.is_empty());
}

#[test]
fn the_pod_itself_is_dialled_in_clear() {
    let (mut world, receiver) = world();
    let mut itself = service(&["10.244.0.2:1", "10.244.0.3:1"]);
    itself.endpoints[0].pod = "web-1".into();
    world.set(itself.clone()).unwrap();
    let identities = |receiver: &Receiver| {
        let answer = receiver.borrow().clone().unwrap();
        answer
            .endpoints
            .iter()
            .map(|endpoint| endpoint.identity.is_some())
            .collect::<Vec<_>>()
    };
    assert_eq!(identities(&receiver), [false, true]);
    let mut change = delta(&[], &[]);
    change.upsert = itself.endpoints;
    world.change(change).unwrap();
    assert_eq!(identities(&receiver), [false, true]);
}

#[test]
fn a_restored_world_serves_until_it_is_answered() {
    let (mut old, _receiver) = world();
    old.set(service(&["10.244.0.2:1"])).unwrap();
    assert!(old.take_changed());
    assert!(!old.take_changed());
    let stored = old
        .destinations()
        .iter()
        .map(|known| (&**known).into())
        .collect();

    let mut new = World::new("shop", "web-1");
    new.restore(stored, Instant::now());
    assert!(!new.take_changed());
    let (receiver, is_new) = new.watch(at(SERVICE), Instant::now());
    assert!(!is_new, "it will be among the stream's first subscriptions");
    assert_eq!(addresses(&receiver), ["10.244.0.2:1"]);
    assert!(
        new.change(delta(&[], &[])).is_err(),
        "no delta before a whole state"
    );
    assert_eq!(new.subscriptions(), [at(SERVICE)]);
}

#[test]
fn this_pod() {
    let mut world = World::default();
    let mut receiver = world.inbound();
    let service = v1::ServicePort {
        namespace: "shop".into(),
        name: "web".into(),
        port: 80,
    };
    let inbound = v1::Inbound {
        workload: Some(v1::Workload::default()),
        ports: vec![v1::InboundPort {
            port: 8080,
            protocol: v1::Protocol::Http2.into(),
            service: Some(service.clone()),
        }],
        zone: "a".into(),
        node: "n".into(),
    };
    world.set_inbound(inbound.clone()).unwrap();
    let known = receiver.borrow_and_update().clone();
    let port = InboundPort {
        protocol: v1::Protocol::Http2,
        service: Some(Arc::new(service)),
    };
    assert_eq!(
        (known.ports.get(&8080), &*known.zone, &*known.node),
        (Some(&port), "a", "n")
    );
    assert_eq!(v1::Inbound::from(&*known), inbound);
    world.set_inbound(inbound.clone()).unwrap();
    assert!(!receiver.has_changed().unwrap());
    let nonsense = v1::InboundPort {
        port: 70_000,
        ..v1::InboundPort::default()
    };
    assert!(
        world
            .set_inbound(v1::Inbound {
                ports: vec![nonsense],
                ..inbound
            })
            .is_err()
    );
}

/// What the controller may do to one service.
#[derive(Clone, Debug)]
enum Step {
    Set(Vec<u8>),
    Change(Vec<u8>, Vec<u8>),
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let some = || proptest::collection::vec(0u8..8, 0..6);
    prop_oneof![
        some().prop_map(Step::Set),
        (some(), some()).prop_map(|(upsert, remove)| Step::Change(upsert, remove)),
        Just(Step::Reconnect),
    ]
}

proptest! {
    /// Whatever comes, the snapshot holds what a set of addresses would: removals first, then additions.
    #[test]
    fn follows_a_simple_model(steps in proptest::collection::vec(step(), 0..40)) {
        let (mut world, receiver) = world();
        let mut model: Option<std::collections::BTreeSet<u8>> = None;
        let mut has_base = false;
        let name = |number: &u8| format!("10.244.0.{number}:80");
        let names = |numbers: &[u8]| numbers.iter().map(name).collect::<Vec<_>>();
        for step in steps {
            match step {
                Step::Set(numbers) => {
                    let names = names(&numbers);
                    let names: Vec<_> = names.iter().map(String::as_str).collect();
                    prop_assert_eq!(world.set(service(&names)), Ok(()));
                    model = Some(numbers.into_iter().collect());
                    has_base = true;
                }
                Step::Change(upsert, remove) => {
                    let (up, down) = (names(&upsert), names(&remove));
                    let up: Vec<_> = up.iter().map(String::as_str).collect();
                    let down: Vec<_> = down.iter().map(String::as_str).collect();
                    prop_assert_eq!(world.change(delta(&up, &down)).is_ok(), has_base);
                    if let Some(model) = model.as_mut().filter(|_| has_base) {
                        model.retain(|number| !remove.contains(number));
                        model.extend(upsert);
                    }
                }
                Step::Reconnect => {
                    world.subscriptions();
                    has_base = false;
                }
            }
            let found = receiver.borrow().clone();
            let found = found.map(|answer| {
                answer.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect::<Vec<_>>()
            });
            prop_assert_eq!(found, model.as_ref().map(|model| model.iter().map(name).collect::<Vec<_>>()));
        }
    }
}
