//! The view as its user meets it: keys go in, screens come out.

use mesh_api::{
    Sketch,
    v1::{
        Breaker, Edge, EndpointLoad, EndpointRow, Security, ServicePort, TopRow, Traffic, Workload,
    },
};
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
};

use super::{
    collect::{self, Query, Snapshot, Totals},
    draw::{self, Palette},
    keys::{self, Flow},
    row::{Column, Row},
    state::{App, Screen},
};
use crate::output::Figures;

fn workload(name: &str) -> Option<Workload> {
    Some(Workload {
        namespace: "shop".into(),
        kind: "deployment".into(),
        name: name.into(),
    })
}

fn traffic(success: u64, failure: u64, ms: u64) -> Option<Traffic> {
    let mut latency = Sketch::default();
    (0..success + failure).for_each(|i| latency.record(ms * (900 + 2 * i)));
    Some(Traffic {
        success,
        failure,
        rps: (success + failure) as f64 / 15.0,
        latency: Some((&latency).into()),
        retried: 0,
        secured: success + failure,
    })
}

fn request(ends: (&str, &str), method: &str, route: &str, traffic: Option<Traffic>) -> Row {
    let service = ServicePort {
        namespace: "shop".into(),
        name: ends.1.trim_end_matches("-slow").into(),
        port: 80,
    };
    let row = TopRow {
        source: workload(ends.0),
        destination: workload(ends.1),
        service: Some(service),
        authority: String::new(),
        method: method.into(),
        route: route.into(),
        security: Security::Mtls.into(),
        traffic,
        rps_history: (0..30).map(|second| (second % 10) as f32).collect(),
    };
    Row::of_requests(row, false)
}

fn snapshot() -> Snapshot {
    let edge = Edge {
        source: workload("cart"),
        destination: workload("store"),
        security: Security::Mtls.into(),
        tcp_open: 1,
        ..Default::default()
    };
    let quote = "/shop.v1.Pricing/Quote";
    Snapshot {
        totals: Totals {
            pods: 14,
            meshed_pods: 14,
            figures: Figures::from(&traffic(1970, 12, 3)),
        },
        rows: vec![
            request(("shoppers", "web"), "GET", "/", traffic(225, 0, 4)),
            request(
                ("shoppers", "web"),
                "GET",
                "/products/{id}",
                traffic(330, 0, 5),
            ),
            request(
                ("shoppers", "web"),
                "POST",
                "/orders/{id}",
                traffic(70, 4, 40),
            ),
            request(
                ("web", "catalog"),
                "GET",
                "/products/{id}",
                traffic(325, 0, 1),
            ),
            request(
                ("web", "catalog-slow"),
                "GET",
                "/products/{id}",
                traffic(5, 0, 203),
            ),
            request(("web", "payments"), "POST", "/charges", traffic(70, 5, 14)),
            request(("web", "pricing"), "POST", quote, traffic(311, 3, 1)),
            Row::of_connections(&edge, false).unwrap(),
        ],
        endpoints: Vec::new(),
    }
}

fn endpoints() -> Vec<EndpointRow> {
    let row = |pod: &str, client: &str, ewma_us, breaker: Breaker| EndpointRow {
        client: workload("web"),
        client_pod: client.into(),
        load: Some(EndpointLoad {
            pod: pod.into(),
            workload: workload("catalog"),
            address: Some(
                "10.244.0.12:8080"
                    .parse::<std::net::SocketAddr>()
                    .unwrap()
                    .into(),
            ),
            ewma_us,
            pending: 1,
            weight: 1,
            breaker: breaker.into(),
            consecutive_failures: if breaker == Breaker::Open { 7 } else { 0 },
            service: None,
        }),
    };
    vec![
        row("catalog-slow-0", "web-0", 203_000, Breaker::Closed),
        row("catalog-1", "web-0", 1_200, Breaker::Open),
        row("catalog-0", "web-1", 900, Breaker::Closed),
        row("catalog-0", "web-0", 1_000, Breaker::Probing),
    ]
}

fn app() -> App {
    let mut app = App::new("demo".into(), 15);
    app.apply(snapshot());
    app
}

fn press(app: &mut App, codes: impl IntoIterator<Item = KeyCode>) -> Flow {
    let press = |code| keys::press(app, KeyEvent::new(code, KeyModifiers::NONE));
    codes.into_iter().map(press).last().unwrap()
}

fn text(words: &str) -> Vec<KeyCode> {
    words.chars().map(KeyCode::Char).collect()
}

fn screen(app: &mut App, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let palette = Palette { color: false };
    terminal
        .draw(|frame| draw::draw(frame, app, palette))
        .unwrap();
    terminal.backend().to_string()
}

fn destinations(app: &App) -> Vec<&str> {
    app.rows
        .iter()
        .map(|row| row.destination.as_str())
        .collect()
}

#[test]
fn rows_at_80_columns() {
    insta::assert_snapshot!(screen(&mut app(), 80, 16));
}

#[test]
fn rows_at_110_columns() {
    insta::assert_snapshot!(screen(&mut app(), 110, 14));
}

#[test]
fn rows_at_140_columns() {
    insta::assert_snapshot!(screen(&mut app(), 140, 16));
}

#[test]
fn endpoints_at_80_columns() {
    let mut app = app();
    press(&mut app, [KeyCode::Enter]);
    app.apply(Snapshot {
        endpoints: endpoints(),
        ..snapshot()
    });
    insta::assert_snapshot!(screen(&mut app, 80, 12));
}

#[test]
fn help_at_80_columns() {
    let mut app = app();
    press(&mut app, text("?"));
    insta::assert_snapshot!(screen(&mut app, 80, 20));
    assert_eq!(press(&mut app, [KeyCode::Esc]), Flow::Continue);
    assert!(!app.help);
}

#[test]
fn every_size_can_be_drawn() {
    let mut app = app();
    for help in [false, true] {
        app.help = help;
        for (width, height) in [
            (1, 1),
            (3, 40),
            (20, 5),
            (80, 3),
            (109, 24),
            (110, 24),
            (400, 90),
        ] {
            screen(&mut app, width, height);
        }
    }
}

#[test]
fn the_busiest_row_is_first_and_columns_sort() {
    let mut app = app();
    assert_eq!(app.rows[0].route, "/products/{id}");
    press(&mut app, text("6"));
    assert_eq!(app.sort.column, Column::Success);
    assert_eq!(
        destinations(&app)[..2],
        ["payments", "web"],
        "least successful first"
    );
    press(&mut app, text("9"));
    assert_eq!(destinations(&app)[0], "catalog-slow", "slowest first");
    press(&mut app, text("r"));
    assert_eq!(*destinations(&app).last().unwrap(), "catalog-slow");
    press(&mut app, [KeyCode::Right]);
    assert_eq!(
        app.sort.column,
        Column::Source,
        "after the last comes the first"
    );
    assert_eq!(app.rows[0].source, "cart");
    press(&mut app, [KeyCode::Left]);
    assert_eq!(app.sort.column, Column::P99);
}

#[test]
fn the_filter_wants_all_words() {
    let mut app = app();
    press(&mut app, text("/WEB cat"));
    assert_eq!(destinations(&app), ["catalog", "catalog-slow"]);
    press(&mut app, text("q"));
    assert!(app.editing, "q is a letter while the filter is written");
    assert!(app.rows.is_empty());
    press(&mut app, [KeyCode::Backspace, KeyCode::Enter]);
    assert!(!app.editing);
    assert_eq!(app.rows.len(), 2);
    press(&mut app, [KeyCode::Esc]);
    assert_eq!(app.rows.len(), 8);
}

#[test]
fn a_paused_view_keeps_its_figures() {
    let mut app = app();
    press(&mut app, text(" "));
    app.apply(Snapshot::default());
    assert_eq!(app.rows.len(), 8);
    press(&mut app, text("p"));
    app.apply(Snapshot::default());
    assert!(app.rows.is_empty());
}

#[test]
fn the_selection_follows_its_row() {
    let mut app = app();
    press(&mut app, [KeyCode::Down, KeyCode::Down]);
    let selected = |app: &App| app.rows[app.table.selected().unwrap()].route.clone();
    let before = selected(&app);
    let mut later = snapshot();
    later.rows.reverse();
    later
        .rows
        .iter_mut()
        .for_each(|row| row.figures.rps = 100.0 - row.figures.rps);
    app.apply(later);
    assert_eq!(selected(&app), before);
    press(&mut app, [KeyCode::End, KeyCode::PageDown]);
    assert_eq!(app.table.selected(), Some(7));
    app.apply(Snapshot::default());
    assert_eq!(app.table.selected(), Some(0));
}

#[test]
fn enter_asks_for_the_endpoints_of_the_service() {
    let mut app = app();
    press(&mut app, text("/slow"));
    press(&mut app, [KeyCode::Enter, KeyCode::Enter]);
    let wanted = app.wanted().unwrap();
    assert_eq!(
        (wanted.kind.as_str(), wanted.name.as_str()),
        ("service", "catalog")
    );
    press(&mut app, [KeyCode::Esc]);
    assert_eq!(app.screen, Screen::Rows);
    assert_eq!(app.wanted(), None);
}

#[test]
fn leaving() {
    assert_eq!(press(&mut app(), text("q")), Flow::Quit);
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    let mut editing = app();
    press(&mut editing, text("/x"));
    assert_eq!(keys::press(&mut editing, control_c), Flow::Quit);
}

#[tokio::test]
async fn a_snapshot_joins_requests_and_silent_connections() {
    let mut client = crate::fake::start("top").observe().await.unwrap();
    let query = Query {
        selectors: vec![Default::default()],
        window_s: 15,
    };
    let snapshot = collect::snapshot(&mut client, &query, Some(&Default::default()))
        .await
        .unwrap();
    let rows: Vec<_> = snapshot
        .rows
        .iter()
        .map(|row| row.method.as_str())
        .collect();
    assert_eq!(
        rows,
        ["GET", "TCP"],
        "an edge with requests is no row of its own"
    );
    assert_eq!(
        (snapshot.totals.pods, snapshot.totals.figures.requests()),
        (3, 10)
    );
    assert_eq!(snapshot.endpoints.len(), 1);
}
