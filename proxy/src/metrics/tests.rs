use std::net::SocketAddr;

use http::{Method, StatusCode};
use mesh_api::v1::{Direction, Security, ServicePort, TelemetryReport, Workload};

use super::{telemetry::Reporter, *};
use crate::balance::BreakerState;

const MS: Duration = Duration::from_millis(1);

fn labels(pod: &str) -> PeerLabels {
    PeerLabels {
        direction: Direction::Outbound,
        service: Some(Arc::new(ServicePort {
            namespace: "shop".into(),
            name: "cart".into(),
            port: 80,
        })),
        workload: Some(Arc::new(Workload {
            namespace: "shop".into(),
            kind: "deployment".into(),
            name: "cart".into(),
        })),
        pod: pod.into(),
        identity: Some("spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap()),
        security: Security::Mtls,
        authority: "".into(),
    }
}

fn get(peer: &PeerMetrics, path: &str, latency: Duration) {
    request(peer, path, Some(200), latency);
}

fn request(peer: &PeerMetrics, path: &str, status: Option<u16>, latency: Duration) {
    peer.record(&RequestRecord {
        method: &Method::GET,
        path,
        status: status.map(|status| StatusCode::from_u16(status).unwrap()),
        grpc_status: None,
        success: status.is_some_and(|status| status < 500),
        retries: u32::from(status == Some(503)),
        latency,
    });
}

fn take(metrics: &Metrics) -> TelemetryReport {
    report::take(metrics, Reporter::default(), Duration::from_secs(1))
}

/// The value of the series whose line starts like this.
fn value(text: &str, start: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(start))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn what_was_undecided_counts_for_one_peer_from_its_first_byte() {
    let metrics = Metrics::new();
    let worker = metrics.worker();
    let (presumed, found) = (worker.peer(labels("a")), worker.peer(labels("b")));
    let connections = [presumed.undecided(), presumed.undecided()];
    for connection in &connections {
        connection.read(5);
        connection.written(7);
    }
    connections[0].decide(&found);
    connections[0].decide(&presumed);
    connections[0].read(1);
    let open = |metrics: &Metrics| {
        let mut open: Vec<_> = take(metrics)
            .connections
            .into_iter()
            .map(|peer| {
                (
                    peer.peer_pod,
                    peer.open,
                    peer.read_bytes,
                    peer.written_bytes,
                )
            })
            .filter(|peer| (peer.1, peer.2, peer.3) != (0, 0, 0))
            .collect();
        open.sort();
        open
    };
    assert_eq!(open(&metrics), [("b".to_owned(), 1, 6, 7)]);
    // One that has ended has said all it will.
    drop(connections);
    assert_eq!(open(&metrics), [("a".to_owned(), 0, 5, 7)]);
}

#[test]
fn a_report_has_what_came_since_the_last_one() {
    let metrics = Metrics::new();
    let (one, two) = (metrics.worker(), metrics.worker());
    let (first, second) = (one.peer(labels("a")), two.peer(labels("a")));
    get(&first, "/items/1?x", 3 * MS);
    get(&first, "/items/2", 30 * MS);
    request(&second, "/items/2", Some(503), MS);
    let open = [first.connection(), second.connection()];
    open[0].read(5);
    open[1].written(7);
    first.error(Cause::Refused);

    let report = take(&metrics);
    let sum = |of: fn(&v1::RequestStats) -> u64| report.requests.iter().map(of).sum::<u64>();
    assert_eq!(
        (sum(|r| r.success), sum(|r| r.failure), sum(|r| r.retried)),
        (2, 1, 1)
    );
    assert!(
        report
            .requests
            .iter()
            .all(|r| r.route == "/items/{id}" && r.method == "GET")
    );
    let mut latency = mesh_api::Sketch::default();
    report
        .requests
        .iter()
        .for_each(|r| latency.merge(r.latency.as_ref().unwrap()));
    assert_eq!((latency.count(), latency.mean()), (3, Some(11_333)));
    let [connections] = &report.connections[..] else {
        panic!("not merged: {report:?}")
    };
    assert_eq!((connections.open, connections.opened), (2, 2));
    assert_eq!((connections.read_bytes, connections.written_bytes), (5, 7));
    assert_eq!(connections.errors[0].cause, "refused");

    drop(open);
    get(&first, "/items/3", 3 * MS);
    let report = take(&metrics);
    assert_eq!(report.requests.len(), 1);
    assert_eq!(
        (report.requests[0].success, report.requests[0].failure),
        (1, 0)
    );
    assert_eq!(report.requests[0].latency.as_ref().unwrap().count, [1]);
    assert_eq!(
        (report.connections[0].open, report.connections[0].opened),
        (0, 0)
    );
    let report = take(&metrics);
    assert_eq!((report.requests.len(), report.connections.len()), (0, 0));
}

#[test]
fn counters_are_found_by_their_discriminant() {
    assert!(
        Cause::ALL
            .iter()
            .enumerate()
            .all(|(i, cause)| *cause as usize == i)
    );
    assert!(
        RetrySkipped::ALL
            .iter()
            .enumerate()
            .all(|(i, (why, _))| *why as usize == i)
    );
}

#[test]
fn series_are_bounded() {
    let metrics = Metrics::new();
    let worker = metrics.worker();
    let peer = worker.peer(labels("a"));
    // Words, which no pattern replaces.
    let letter = |digit: char| char::from(b'g' + digit.to_digit(10).unwrap() as u8);
    let word = |n: u32| n.to_string().chars().map(letter).collect::<String>();
    (1..=1000).for_each(|n| get(&peer, &format!("/{}", word(n)), MS));
    (100..=999).for_each(|status| request(&peer, "/h", Some(status), MS));
    let report = take(&metrics);
    assert_eq!(report.requests.len(), 65);
    let overflow = report
        .requests
        .iter()
        .find(|stats| stats.route == "*")
        .unwrap();
    assert_eq!(overflow.success, 1000 - 64);
    (0..2 * MAX_PEERS).for_each(|pod| drop(worker.peer(labels(&pod.to_string()))));
    let text = metrics.encode();
    assert!(
        text.lines()
            .filter(|line| line.starts_with("response_total"))
            .count()
            <= 66
    );
    assert_eq!(
        text.lines()
            .filter(|line| line.starts_with("tcp_open_total"))
            .count(),
        MAX_PEERS + 1
    );
    assert!(value(&text, "metric_series_overflow_total").unwrap() > 900.0);
    assert_eq!(value(&text, "request_total{"), Some(1900.0));
}

#[test]
fn the_process_wide_bound_holds_and_is_given_back() {
    let metrics = Metrics::new();
    let worker = metrics.worker();
    metrics.series.store(MAX_SERIES - 1, Relaxed);
    let peer = worker.peer(labels("a"));
    ["/a", "/b", "/c"]
        .iter()
        .for_each(|path| get(&peer, path, MS));
    let routes: Vec<_> = take(&metrics)
        .requests
        .into_iter()
        .map(|stats| stats.route)
        .collect();
    assert_eq!(routes, ["/a", "*"]);
    drop(peer);
    drop(worker);
    assert_eq!(metrics.series.load(Relaxed), MAX_SERIES - 1);
}

#[test]
fn eviction_lowers_no_counter() {
    let metrics = Metrics::new();
    let worker = metrics.worker();
    let start = Instant::now();
    let peer = worker.peer(labels("a"));
    get(&peer, "/a", 3 * MS);
    get(&peer, "/b", 3 * MS);
    let sums = || {
        let text = metrics.encode();
        let value = |start| value(&text, start).unwrap();
        [
            value("request_total"),
            value("response_latency_ms_count"),
            value("response_latency_ms_sum"),
        ]
    };
    let before = sums();
    assert_eq!(before, [2.0, 2.0, 6.0]);
    for minute in 0..=11 {
        // `/b` stays in use; the peer is held all the time.
        get(&peer, "/b", Duration::ZERO);
        worker.tick(Vec::new(), start + minute * SWEEP);
    }
    assert_eq!(metrics.series.load(Relaxed), 1, "`/a` went");
    assert_eq!(sums(), [14.0, 14.0, 6.0]);
    get(&peer, "/a", MS);
    assert_eq!(sums(), [15.0, 15.0, 7.0]);
}

#[test]
fn a_peer_goes_when_nobody_holds_it() {
    let metrics = Metrics::new();
    let worker = metrics.worker();
    let start = Instant::now();
    let peer = worker.peer(labels("a"));
    get(&peer, "/a", MS);
    let count = || lock(&metrics.peers).len();
    let sweep = |minute: u32| worker.tick(Vec::new(), start + minute * SWEEP);
    (0..=12).for_each(sweep);
    assert_eq!(count(), 1, "held by an endpoint");
    let open = peer.connection();
    drop(peer);
    (13..=30).for_each(sweep);
    assert_eq!(count(), 1, "held by a connection");
    drop(open);
    (31..=50).for_each(sweep);
    assert_eq!(count(), 0);
    assert_eq!(metrics.series.load(Relaxed), 0);
}

#[test]
fn loads_are_merged_over_workers() {
    let metrics = Metrics::new();
    let load = |pending, breaker, failures| EndpointLoad {
        service: labels("").service,
        workload: labels("").workload.unwrap(),
        pod: "cart-1".into(),
        state: EndpointState {
            address: SocketAddr::from(([10, 244, 0, 3], 8080)),
            weight: 1,
            ewma: MS * pending,
            pending,
            breaker,
            consecutive_failures: failures,
        },
    };
    let (one, two) = (metrics.worker(), metrics.worker());
    one.tick(vec![load(2, BreakerState::Open, 7)], Instant::now());
    two.tick(vec![load(3, BreakerState::Closed, 0)], Instant::now());
    let [merged] = &metrics.endpoint_loads()[..] else {
        panic!("not merged")
    };
    assert_eq!((merged.state.pending, merged.state.ewma), (5, 3 * MS));
    assert_eq!(merged.state.breaker, BreakerState::Open);
    let report = take(&metrics);
    assert_eq!(report.endpoints[0].breaker(), v1::Breaker::Open);
    let labels = r#"{dst_service="cart",dst_port="80",dst_namespace="shop",dst_deployment="cart",dst_pod="cart-1",target_addr="10.244.0.3:8080"}"#;
    let text = metrics.encode();
    assert_eq!(
        value(&text, &format!("outbound_endpoint_breaker{labels}")),
        Some(1.0)
    );
    assert_eq!(
        value(&text, &format!("outbound_endpoint_rtt_seconds{labels}")),
        Some(0.003)
    );
}

#[test]
fn the_text_is_what_prometheus_reads() {
    let metrics = Metrics::new();
    let worker = metrics.worker();
    let peer = worker.peer(labels("cart-1"));
    get(&peer, "/", Duration::from_micros(700));
    get(&peer, "/", 45 * MS);
    request(&peer, "/", Some(503), 70_000 * MS);
    request(&peer, "/", None, Duration::from_micros(900));
    peer.error(Cause::WrongIdentity);
    let odd = PeerLabels {
        authority: "a\"b\\c\nd".into(),
        service: None,
        ..labels("")
    };
    worker.peer(odd).connection().read(1);
    worker.retry_skipped(RetrySkipped::Budget);
    metrics.certificate(1_900_000_000);
    let text = metrics.encode();
    well_formed(&text);
    let labels = concat!(
        r#"direction="outbound",authority="cart.shop.svc.cluster.local:80",tls="true","#,
        r#"server_id="spiffe://cluster.local/ns/shop/sa/cart",dst_service="cart",dst_port="80","#,
        r#"dst_namespace="shop",dst_deployment="cart",dst_pod="cart-1""#
    );
    let ok = r#"classification="success",status_code="200""#;
    let bad = r#"classification="failure",status_code="503""#;
    for (line, expected) in [
        (format!("request_total{{{labels}}}"), 4.0),
        (format!("response_total{{{labels},{ok}}}"), 2.0),
        (format!("response_total{{{labels},{bad}}}"), 1.0),
        (
            format!("response_total{{{labels},classification=\"failure\"}}"),
            1.0,
        ),
        (
            format!("response_latency_ms_bucket{{le=\"1.0\",{labels}}}"),
            2.0,
        ),
        (
            format!("response_latency_ms_bucket{{le=\"40.0\",{labels}}}"),
            2.0,
        ),
        (
            format!("response_latency_ms_bucket{{le=\"50.0\",{labels}}}"),
            3.0,
        ),
        (
            format!("response_latency_ms_bucket{{le=\"50000.0\",{labels}}}"),
            3.0,
        ),
        (
            format!("response_latency_ms_bucket{{le=\"+Inf\",{labels}}}"),
            4.0,
        ),
        (format!("response_latency_ms_sum{{{labels}}}"), 70_046.6),
        (format!("request_retried_total{{{labels}}}"), 1.0),
        (
            format!("tcp_error_total{{{labels},error=\"wrong_identity\"}}"),
            1.0,
        ),
        ("request_retry_skipped_total{reason=\"budget\"}".into(), 1.0),
        (
            "identity_cert_expiration_timestamp_seconds".into(),
            1_900_000_000.0,
        ),
    ] {
        assert_eq!(
            value(&text, &format!("{line} ")),
            Some(expected),
            "{line}\n{text}"
        );
    }
    assert!(text.contains(r#"authority="a\"b\\c\nd""#), "{text}");
    assert!(text.contains("process_resident_memory_bytes "));
}

/// Checks the grammar of OpenMetrics 1.0 as far as it is used here.
fn well_formed(text: &str) {
    let mut kind = (String::new(), String::new());
    let mut seen = hashbrown::HashSet::new();
    let body = text.strip_suffix("# EOF\n").expect("ends with EOF");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (what, name, rest) = (words.next(), words.next().unwrap(), words.next().unwrap());
            assert!(matches!(what, Some("HELP" | "TYPE")), "{line}");
            assert!(!rest.is_empty(), "{line}");
            if what == Some("TYPE") {
                kind = (name.to_owned(), rest.to_owned());
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect(line);
        value.parse::<f64>().expect(line);
        assert!(seen.insert(series), "twice: {line}");
        let name = series.split('{').next().unwrap();
        let suffixes: &[&str] = match &*kind.1 {
            "counter" => &["_total"],
            "gauge" => &[""],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_count", "_sum"],
            other => panic!("type {other}"),
        };
        assert!(
            suffixes
                .iter()
                .any(|suffix| name == format!("{}{suffix}", kind.0)),
            "{line} under {kind:?}"
        );
        if let Some(labels) = series
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('{'))
        {
            let labels = labels.strip_suffix('}').expect(line);
            assert!(!labels.is_empty() && !labels.contains('\n'), "{line}");
        }
    }
}
