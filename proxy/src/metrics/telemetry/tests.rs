use std::{io, pin::Pin};

use futures_util::StreamExt;
use http::{Method, StatusCode};
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_api::v1::{
    Direction, Security, StartTap, TapEvent,
    telemetry_server::{Telemetry, TelemetryServer},
};
use tokio::sync::mpsc;
use tonic::{
    Request, Response, Streaming,
    body::Body,
    transport::{Endpoint, Uri},
};
use tower::Service;

use super::*;
use crate::metrics::{PeerLabels, RequestRecord, WorkerMetrics};

/// A controller that starts a tap on each stream and hangs up after so many reports.
struct Controller {
    reports: mpsc::UnboundedSender<TelemetryReport>,
    hang_up_after: usize,
}

#[tonic::async_trait]
impl Telemetry for Controller {
    type ReportStream = Pin<Box<dyn Stream<Item = Result<TelemetryCommand, Status>> + Send>>;

    async fn report(
        &self,
        request: Request<Streaming<TelemetryReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let start = StartTap {
            id: 7,
            ..StartTap::default()
        };
        let command = TelemetryCommand {
            kind: Some(Kind::StartTap(start)),
        };
        let sender = self.reports.clone();
        let reports = request.into_inner().take(self.hang_up_after);
        let commands = reports.filter_map(move |report| {
            if let Ok(report) = report {
                let _ = sender.send(report);
            }
            std::future::ready(None)
        });
        Ok(Response::new(Box::pin(
            stream::iter([Ok(command)]).chain(commands),
        )))
    }
}

fn count(worker: &WorkerMetrics, requests: u32) {
    let labels = PeerLabels {
        direction: Direction::Outbound,
        service: None,
        workload: None,
        pod: "web-1".into(),
        identity: None,
        security: Security::Mtls,
        authority: "".into(),
    };
    for _ in 0..requests {
        worker.peer(labels.clone()).record(&RequestRecord {
            method: &Method::GET,
            path: "/",
            status: Some(StatusCode::OK),
            grpc_status: None,
            success: true,
            retries: 0,
            latency: Duration::from_millis(3),
        });
    }
}

/// A channel to a server of its own for every connection, over memory.
fn channel(service: TelemetryServer<Controller>) -> Channel {
    let connect = move |_: Uri| {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let service = service.clone();
        let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            service.clone().call(request.map(Body::new))
        });
        let connection = http2::Builder::new(TokioExecutor::new());
        tokio::spawn(connection.serve_connection(TokioIo::new(server), answer));
        std::future::ready(Ok::<_, io::Error>(TokioIo::new(client)))
    };
    let endpoint = Endpoint::from_static("http://controller");
    endpoint.connect_with_connector_lazy(tower::service_fn(connect))
}

/// A hundred times as fast.
const FAST: Pace = Pace {
    interval: Duration::from_millis(10),
    tap_interval: Duration::from_millis(2),
    min_wait: Duration::from_millis(2),
    max_wait: Duration::from_millis(80),
};

#[tokio::test]
async fn every_request_is_reported_once_over_broken_streams() {
    let metrics = Metrics::new();
    let worker = metrics.worker();
    let (sender, mut received) = mpsc::unbounded_channel();
    let controller = Controller {
        reports: sender,
        hang_up_after: 2,
    };
    let channel = channel(TelemetryServer::new(controller));
    let reporter = || Reporter {
        pod: "web-0".into(),
        ..Reporter::default()
    };
    let reporting = tokio::spawn(report_at(
        FAST,
        metrics.clone(),
        channel,
        Arc::new(reporter),
    ));
    let (mut sent, mut reported, mut reports) = (0, 0, 0);
    for round in 0..10 {
        count(&worker, round);
        sent += u64::from(round);
        while reported < sent {
            let report = received.recv().await.unwrap();
            assert_eq!(report.pod, "web-0");
            assert!(report.window_ms > 0);
            reported += report
                .requests
                .iter()
                .map(|stats| stats.success)
                .sum::<u64>();
            reports += 1;
        }
        assert_eq!(reported, sent);
    }
    assert!(reports > 4, "several streams of two reports");
    reporting.abort();
}

#[tokio::test]
async fn taps_follow_commands_and_end_with_the_stream() {
    let metrics = Metrics::new();
    let (sender, mut received) = mpsc::unbounded_channel();
    let controller = Controller {
        reports: sender,
        hang_up_after: 3,
    };
    let channel = channel(TelemetryServer::new(controller));
    let reporting = tokio::spawn(report_at(
        FAST,
        metrics.clone(),
        channel,
        Arc::new(Reporter::default),
    ));
    received.recv().await.unwrap();
    assert!(metrics.tap().active());
    metrics.tap().offer(TapEvent {
        path: "/x".into(),
        ..TapEvent::default()
    });
    let report = received.recv().await.unwrap();
    assert_eq!(report.taps.len(), 1);
    assert_eq!(report.taps[0].path, "/x");
    reporting.abort();
    let _ = reporting.await;
}
