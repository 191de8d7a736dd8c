//! One JSON object per request on standard output, when asked for.
//!
//! A thread of its own writes: a full pipe must not stop the data path. Lines that it can't keep up with are
//! dropped and counted.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use mesh_api::v1::{Address, Direction, Security, TapEvent};
use serde::Serialize;

/// Lines that may wait for the writer.
const WAITING: usize = 8192;

static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    lines: SyncSender<Vec<u8>>,
    dropped: AtomicU64,
}

/// Whether requests are logged. Check before building an event.
pub fn enabled() -> bool {
    LOG.get().is_some()
}

/// Logs one request. Does nothing when the log is off.
pub fn record(request: &TapEvent) {
    let Some(log) = LOG.get() else { return };
    let Ok(mut line) = serde_json::to_vec(&Line::from(request)) else {
        return;
    };
    line.push(b'\n');
    if log.lines.try_send(line).is_err() && log.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
        tracing::warn!(
            "standard output is slower than the requests: lines of the access log are dropped"
        );
    }
}

/// Logs from now on.
///
/// # Errors
/// The writer's thread can't be started.
pub(crate) fn start() -> io::Result<()> {
    let (lines, waiting) = sync_channel(WAITING);
    std::thread::Builder::new()
        .name("access-log".to_owned())
        .spawn(move || write(&waiting))?;
    // A second start changes nothing.
    let _ = LOG.set(Log {
        lines,
        dropped: AtomicU64::new(0),
    });
    Ok(())
}

fn write(waiting: &Receiver<Vec<u8>>) {
    let mut output = io::BufWriter::new(io::stdout());
    while let Ok(line) = waiting.recv() {
        let mut result = output.write_all(&line);
        // All that has come in the meantime goes out with one call.
        while let (Ok(()), Ok(line)) = (&result, waiting.try_recv()) {
            result = output.write_all(&line);
        }
        if let Err(error) = result.and_then(|()| output.flush()) {
            tracing::warn!(%error, "the access log ends: standard output can't be written");
            return;
        }
    }
}

/// A request as it is written. Names follow the tap's.
#[derive(Serialize)]
struct Line<'a> {
    at_ms: u64,
    direction: &'static str,
    source: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    source_pod: &'a str,
    source_address: String,
    destination: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    destination_pod: &'a str,
    destination_address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    security: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    peer_identity: &'a str,
    version: &'a str,
    method: &'a str,
    authority: &'a str,
    path: &'a str,
    status: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<i32>,
    latency_us: u64,
    retries: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
    request_bytes: u64,
    response_bytes: u64,
}

impl<'a> From<&'a TapEvent> for Line<'a> {
    fn from(event: &'a TapEvent) -> Self {
        let name = |workload: &Option<mesh_api::v1::Workload>| match workload {
            Some(workload) => format!("{}/{workload}", workload.namespace),
            None => String::new(),
        };
        let address = |address: &Option<Address>| {
            address
                .as_ref()
                .and_then(|address| std::net::SocketAddr::try_from(address).ok())
        };
        let show =
            |found: Option<std::net::SocketAddr>| found.map(|a| a.to_string()).unwrap_or_default();
        Self {
            at_ms: event.at_ms,
            direction: match event.direction() {
                Direction::Inbound => "inbound",
                Direction::Outbound => "outbound",
                Direction::Unspecified => "",
            },
            source: name(&event.source),
            source_pod: &event.source_pod,
            source_address: show(address(&event.source_address)),
            destination: name(&event.destination),
            destination_pod: &event.destination_pod,
            destination_address: show(address(&event.destination_address)),
            service: event.service.as_ref().map(ToString::to_string),
            security: match event.security() {
                Security::Unspecified => "",
                Security::Mtls => "mtls",
                Security::PeerNotMeshed => "peer_not_meshed",
                Security::Outside => "outside",
                Security::AppTls => "app_tls",
                Security::Loopback => "loopback",
                Security::Probe => "probe",
            },
            peer_identity: &event.peer_identity,
            version: &event.version,
            method: &event.method,
            authority: &event.authority,
            path: &event.path,
            status: event.status,
            grpc_status: (event.grpc_status >= 0).then_some(event.grpc_status),
            latency_us: event.latency_us,
            retries: event.retries,
            error: &event.error,
            request_bytes: event.request_bytes,
            response_bytes: event.response_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_api::v1::{ServicePort, Workload};

    use super::*;

    #[test]
    fn a_line() {
        let event = TapEvent {
            direction: Direction::Outbound.into(),
            source: Some(Workload {
                namespace: "shop".into(),
                kind: "deployment".into(),
                name: "web".into(),
            }),
            source_address: Some(
                "10.244.0.2:40000"
                    .parse::<std::net::SocketAddr>()
                    .unwrap()
                    .into(),
            ),
            service: Some(ServicePort {
                namespace: "shop".into(),
                name: "api".into(),
                port: 80,
            }),
            security: Security::Mtls.into(),
            version: "HTTP/1.1".into(),
            method: "GET".into(),
            path: "/a\"b".into(),
            status: 200,
            grpc_status: -1,
            latency_us: 1500,
            ..TapEvent::default()
        };
        assert_eq!(
            serde_json::to_string(&Line::from(&event)).unwrap(),
            r#"{"at_ms":0,"direction":"outbound","source":"shop/deployment/web","source_address":"10.244.0.2:40000","destination":"","destination_address":"","service":"shop/api:80","security":"mtls","version":"HTTP/1.1","method":"GET","authority":"","path":"/a\"b","status":200,"latency_us":1500,"retries":0,"request_bytes":0,"response_bytes":0}"#
        );
    }
}
