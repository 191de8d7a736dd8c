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
    detect::{self, Detection, Protocol},
    discovery::Discovery,
    http::bench::{self, Client, rewrite_request, rewrite_response},
    metrics::{self, Metrics, PeerLabels, RequestRecord, WorkerMetrics},
};

use super::{allocations, pod};

/// How often a head is rewritten.
pub(super) const HEADS: u64 = 2_000;

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
    let hello = client_hello();
    counted(operations, |_| {
        let detection = detect::detect(black_box(&hello));
        assert!(
            matches!(detection, Detection::Decided(Protocol::Tls(hello)) if hello.sni.is_some())
        );
    })
}

/// The first bytes of an app's own TLS, with a post-quantum key share (RFC 8446, section 4.1.2). By hand: a library
/// puts the extensions in another order each time.
fn client_hello() -> Vec<u8> {
    let counted = |bytes: Vec<u8>| [&(bytes.len() as u16).to_be_bytes(), &bytes[..]].concat();
    let extension = |kind: u16, body| [&kind.to_be_bytes()[..], &counted(body)].concat();
    let name = counted(
        [
            &[0][..],
            &counted(b"orders.shop.svc.cluster.local".to_vec()),
        ]
        .concat(),
    );
    let share = [&0x11ec_u16.to_be_bytes()[..], &counted(vec![7; 1216])].concat();
    let extensions = [
        extension(0x0000, name),
        extension(0x000a, counted(vec![0x11, 0xec, 0x00, 0x1d])),
        extension(0x000d, counted(vec![0x04, 0x03, 0x08, 0x04])),
        extension(0x0010, counted(b"\x02h2\x08http/1.1".to_vec())),
        extension(0x002b, vec![2, 0x03, 0x04]),
        extension(0x0033, counted(share)),
    ];
    let head = [
        &[0x03, 0x03][..],
        &[9; 32],
        &[0],
        &[0, 2, 0x13, 0x01],
        &[1, 0],
    ]
    .concat();
    let hello = [head, counted(extensions.concat())].concat();
    let hello = [&[1, 0][..], &counted(hello)].concat();
    [&[22, 0x03, 0x01][..], &counted(hello)].concat()
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
    counted_on(operations, request, |request| {
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
    counted_on(operations, response, |response| {
        let mut head = response.into_parts().0;
        rewrite_response(&mut head);
        std::mem::forget(black_box(head));
    })
}

/// [`counted`] with something new to work on each time. Always as much is made, however much is used: to make it
/// is not the operation's cost.
fn counted_on<T>(operations: u64, make: impl Fn() -> T, mut operation: impl FnMut(T)) -> u64 {
    let mut made: Vec<T> = (0..=2 * HEADS).map(|_| make()).collect();
    let allocations = counted(operations, |_| {
        operation(made.pop().expect("2 HEADS at most"))
    });
    std::mem::forget(made);
    allocations
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
