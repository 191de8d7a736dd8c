//! The pure cores: what the proxy computes for a connection, a request or an update, without any socket.

use std::{
    hint::black_box,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use http::{Method, Request, Response, StatusCode};
use mesh_api::{Sketch, v1};
use mesh_proxy::{
    balance::{BalanceConfig, Balancer, BudgetConfig, Outcome, RetryBudget},
    detect,
    discovery::Discovery,
    http::bench::{self, Client, rewrite_request, rewrite_response},
    metrics::{self, Metrics, PeerLabels, RequestRecord, WorkerMetrics},
};

use super::{allocations, pod};

/// A head as a browser or an API client sends it.
const HEAD: &[u8] = b"GET /users/1234/orders?page=3 HTTP/1.1\r\nHost: orders.shop.svc.cluster.local\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: application/json, text/plain, */*\r\nAccept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\nX-Request-Id: 0193a1b2-7c1e-7f00-8a45-1d2e3f405162\r\n\
    traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\
    Cookie: session=eyJhbGciOiJIUzI1NiJ9; theme=dark\r\nConnection: keep-alive\r\n\r\n";

/// Does it once unseen, then so often; the allocations that this took.
fn counted(operations: u64, mut operation: impl FnMut(u64)) -> u64 {
    operation(0);
    let before = allocations::so_far();
    (0..operations).for_each(&mut operation);
    allocations::so_far() - before
}

pub(super) fn detect_http1(operations: u64) -> u64 {
    counted(operations, |_| {
        black_box(detect::detect(black_box(HEAD)));
    })
}

pub(super) fn detect_tls(operations: u64) -> u64 {
    let hello = pod::client_hello();
    counted(operations, |_| {
        black_box(detect::detect(black_box(&hello)));
    })
}

pub(super) fn read_get(operations: u64) -> u64 {
    read_requests(operations, HEAD)
}

pub(super) fn read_post(operations: u64) -> u64 {
    let mut request = b"POST /users HTTP/1.1\r\nHost: users\r\nContent-Type: application/json\r\n\
        Transfer-Encoding: chunked\r\n\r\n400\r\n"
        .to_vec();
    request.extend([b'x'; 1024]);
    request.extend(b"\r\n0\r\n\r\n");
    read_requests(operations, &request)
}

fn read_requests(operations: u64, request: &[u8]) -> u64 {
    let (mut client, mut held) = (Client::default(), BytesMut::new());
    counted(operations, |_| {
        held.extend_from_slice(black_box(request));
        assert!(client.read(&mut held));
    })
}

pub(super) fn read_response(operations: u64) -> u64 {
    let mut response =
        b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sun, 29 Nov 2026 10:00:00 GMT\r\n\
        Content-Type: text/plain\r\nContent-Length: 1000\r\nConnection: keep-alive\r\n\r\n"
            .to_vec();
    response.extend([b'x'; 1000]);
    let mut held = BytesMut::new();
    counted(operations, |_| {
        held.extend_from_slice(black_box(&response));
        assert!(bench::read_response(&mut held));
    })
}

pub(super) fn rewrite_request_head(operations: u64) -> u64 {
    let mut requests = (0..=operations).map(|_| request()).collect::<Vec<_>>();
    counted(operations, |_| {
        // Invariant: there is one more than operations, for the one that is not counted.
        let Some(request) = requests.pop() else {
            return;
        };
        let mut head = request.into_parts().0;
        rewrite_request(&mut head);
        // To drop it is not the rewriting's cost.
        std::mem::forget(black_box(head));
    })
}

pub(super) fn rewrite_response_head(operations: u64) -> u64 {
    let response = || {
        Response::builder()
            .header("content-type", "application/json")
            .header("content-length", "1000")
            .header("date", "Sun, 29 Nov 2026 10:00:00 GMT")
            .header("server", "nginx")
            .header("keep-alive", "timeout=60")
            .header("connection", "keep-alive")
            .body(())
            .unwrap_or_default()
    };
    let mut responses = (0..=operations).map(|_| response()).collect::<Vec<_>>();
    counted(operations, |_| {
        let Some(response) = responses.pop() else {
            return;
        };
        let mut head = response.into_parts().0;
        rewrite_response(&mut head);
        std::mem::forget(black_box(head));
    })
}

fn request() -> Request<()> {
    let lines = HEAD.split(|byte| *byte == b'\n').skip(1);
    let fields = lines.filter_map(|line| {
        let line = std::str::from_utf8(line).ok()?.trim();
        line.split_once(": ")
    });
    let request = Request::get("/users/1234/orders?page=3");
    let request = fields.fold(request, |request, (name, value)| {
        request.header(name, value)
    });
    request.body(()).unwrap_or_default()
}

pub(super) fn balance_3(operations: u64) -> u64 {
    balance(operations, 3, |_, _| Outcome::Success)
}

pub(super) fn balance_100(operations: u64) -> u64 {
    balance(operations, 100, |_, _| Outcome::Success)
}

pub(super) fn balance_failing(operations: u64) -> u64 {
    balance(operations, 3, |_, endpoint| match endpoint {
        0 => Outcome::Failure,
        _ => Outcome::Success,
    })
}

fn balance(operations: u64, endpoints: u8, outcome: impl Fn(u64, u8) -> Outcome) -> u64 {
    let now = Instant::now();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut balancer = Balancer::new(BalanceConfig::default());
    let address = |i: u8| SocketAddr::from(([10, 244, 0, i], 80));
    balancer.update((0..endpoints).map(|i| (address(i), 1, i)), now);
    counted(operations, |n| {
        let at = now + Duration::from_millis(n);
        if let Some(choice) = balancer.pick(at, None, &mut rng) {
            let (key, endpoint) = (choice.key, *choice.endpoint);
            let rtt = Duration::from_micros(1000 + u64::from(endpoint) * 10);
            balancer.finished(key, outcome(n, endpoint), rtt, at);
        }
    })
}

pub(super) fn budget(operations: u64) -> u64 {
    let now = Instant::now();
    let mut budget = RetryBudget::new(BudgetConfig::default(), now);
    counted(operations, |n| {
        let at = now + Duration::from_millis(n);
        budget.deposit(at);
        if n % 10 == 0 {
            black_box(budget.withdraw(at));
        }
    })
}

pub(super) fn route(operations: u64) -> u64 {
    let state = foldhash_state();
    counted(operations, |_| {
        black_box(metrics::bench::route_hash(
            black_box("/users/1234/orders?page=3"),
            &state,
        ));
    })
}

/// As the metrics' own.
fn foldhash_state() -> impl std::hash::BuildHasher {
    foldhash::fast::FixedState::default()
}

pub(super) fn record(operations: u64) -> u64 {
    let worker = Metrics::new().worker();
    let peer = worker.peer(labels("web"));
    counted(operations, |n| count(&peer, "/users/1234/orders?page=3", n))
}

pub(super) fn report(operations: u64) -> u64 {
    let metrics = Metrics::new();
    let worker: WorkerMetrics = metrics.worker();
    let peers: Vec<_> = ["web", "cart", "users", "stock"]
        .map(|name| worker.peer(labels(name)))
        .into();
    counted(operations, |n| {
        for peer in &peers {
            for path in ["/", "/users/1", "/orders", "/orders/1/items", "/health"] {
                count(peer, path, n);
            }
        }
        black_box(metrics.report());
    })
}

fn count(peer: &metrics::PeerMetrics, path: &str, n: u64) {
    peer.record(&RequestRecord {
        method: &Method::GET,
        path,
        status: Some(StatusCode::OK),
        grpc_status: None,
        success: true,
        retries: 0,
        latency: Duration::from_micros(800 + n % 400),
    });
}

fn labels(service: &str) -> PeerLabels {
    PeerLabels {
        direction: v1::Direction::Outbound,
        service: Some(Arc::new(v1::ServicePort {
            namespace: "shop".to_owned(),
            name: service.to_owned(),
            port: 80,
        })),
        workload: None,
        pod: format!("{service}-1").into(),
        identity: None,
        security: v1::Security::Mtls,
        authority: "".into(),
    }
}

pub(super) fn sketch(operations: u64) -> u64 {
    let mut sketch = Sketch::default();
    counted(operations, |n| sketch.record(black_box(800 + n % 400)))
}

pub(super) fn discovery_set(operations: u64) -> u64 {
    let discovery = Discovery::told();
    let _watched = discovery.watch(pod::SERVICE);
    counted(operations, |n| {
        assert!(discovery.tell(pod::destination(100, n as u32)));
    })
}

pub(super) fn discovery_change(operations: u64) -> u64 {
    let discovery = Discovery::told();
    let _watched = discovery.watch(pod::SERVICE);
    discovery.tell(pod::destination(100, 1));
    counted(operations, |n| {
        let delta = v1::DestinationDelta {
            address: Some(pod::SERVICE.into()),
            upsert: vec![pod::endpoint(n as u8 % 100, n as u32)],
            remove: Vec::new(),
        };
        assert!(discovery.tell_change(delta));
    })
}
