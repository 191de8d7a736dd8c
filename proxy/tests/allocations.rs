//! What happens for every request must not allocate: choosing an endpoint, and counting.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::SocketAddr,
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use mesh_api::v1::{Direction, Security};
use mesh_proxy::{
    balance::{BalanceConfig, Balancer, Outcome},
    metrics::{Metrics, PeerLabels, RequestRecord},
};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is left to the system's allocator; counting touches a thread-local that needs no
// initialisation and no destructor, so that it can't allocate itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's contract is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn a_pick_does_not_allocate() {
    let now = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    let address = |i: u8| SocketAddr::from(([10, 244, 0, i], 80));
    for weights in [[1, 1, 1, 1], [1, 2, 3, 0]] {
        let mut balancer = Balancer::new(BalanceConfig::default());
        let endpoints = weights
            .iter()
            .zip(0..)
            .map(|(weight, i)| (address(i), *weight, i));
        balancer.update(endpoints, now);
        let mut requests = |n: u32| {
            for i in 0..n {
                let at = now + i * Duration::from_millis(1);
                let exclude = (i % 7 == 0).then(|| address(1));
                let key = balancer
                    .pick(at, exclude, &mut rng)
                    .map(|choice| choice.key);
                // Every so often one endpoint fails enough in a row to be ejected, and is probed.
                let outcome = if i % 1000 < 100 {
                    Outcome::Failure
                } else {
                    Outcome::Success
                };
                key.into_iter().for_each(|key| {
                    balancer.finished(key, outcome, Duration::from_millis(3), at);
                });
            }
        };
        requests(100);
        assert_eq!(allocations(|| requests(20_000)), 0);
    }
}

#[test]
fn counting_does_not_allocate() {
    let worker = Metrics::new().worker();
    let peer = worker.peer(PeerLabels {
        direction: Direction::Outbound,
        service: None,
        workload: None,
        pod: "".into(),
        identity: None,
        security: Security::Outside,
        authority: "example.org:80".into(),
    });
    let connection = peer.connection();
    let count = |path| {
        peer.record(&RequestRecord {
            method: &Method::GET,
            path,
            status: Some(StatusCode::OK),
            grpc_status: Some(0),
            success: true,
            retries: 0,
            latency: Duration::from_millis(3),
        });
        connection.read(100);
        connection.written(100);
    };
    count("/users/1/orders");
    assert_eq!(
        allocations(|| (0..1000).for_each(|_| count("/users/2/orders?page=3"))),
        0
    );
}
