//! One request and its response, from the head to the last byte: what is counted about it, and what the
//! balancer, the connection pool, the tap and the access log learn when it ends.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, Method, StatusCode, Uri, Version, header::HOST, request, response};
use mesh_api::v1::{self, Direction, TapEvent};

use super::{
    body::End,
    h1::client,
    headers::{self, Needs},
    pool::{Channel, Lease},
    upload::Upload,
};
use crate::{
    access_log,
    balance::Outcome,
    metrics::{PeerMetrics, RequestRecord},
    target::Picked,
    worker::Worker,
};

/// gRPC codes that are the server's failure, as Linkerd counts them: UNKNOWN, DEADLINE_EXCEEDED,
/// PERMISSION_DENIED, INTERNAL, UNAVAILABLE, DATA_LOSS.
const GRPC_FAILURES: [u16; 6] = [2, 4, 7, 13, 14, 15];
/// CANCELLED: what a call whose client went away ends with.
const GRPC_CANCELLED: u16 = 1;
/// UNKNOWN: what a call without a status ends with.
const GRPC_UNKNOWN: u16 = 2;

/// A request that has arrived.
pub(super) struct Arrived {
    worker: Rc<Worker>,
    method: Method,
    uri: Uri,
    grpc: bool,
    started: Instant,
    /// Only while somebody watches single requests.
    watched: Option<Box<Watched>>,
    /// Where it counts if nobody waits for its end; none once it has been counted.
    waiting: RefCell<Option<Waiting>>,
}

/// For whom a request waits.
struct Waiting {
    metrics: Rc<PeerMetrics>,
    retries: u32,
}

/// What is kept for the tap and the access log.
struct Watched {
    version: Version,
    authority: String,
    client: Option<SocketAddr>,
}

/// A response that is on its way to the client.
pub(super) struct Exchange {
    pub(super) arrived: Arrived,
    pub(super) metrics: Rc<PeerMetrics>,
    /// Outbound: the endpoint.
    pub(super) picked: Option<Picked>,
    /// The address that the request was sent to.
    pub(super) server: SocketAddr,
    pub(super) lease: Option<Lease>,
    /// How long the connection may be idle.
    pub(super) keep: Duration,
    pub(super) upload: Option<Rc<Upload>>,
    pub(super) status: StatusCode,
    pub(super) grpc_status: Option<u16>,
    /// From the first byte sent to the response's head.
    pub(super) rtt: Duration,
    pub(super) retries: u32,
    pub(super) received: u64,
    /// The words of `mesh-error`, if the endpoint's proxy answered.
    pub(super) error: Option<Box<str>>,
}

/// How a request ended, for the records.
struct Ended<'a> {
    status: Option<StatusCode>,
    grpc_status: Option<u16>,
    success: bool,
    retries: u32,
    server: Option<SocketAddr>,
    sent: u64,
    received: u64,
    error: &'a str,
}

impl Arrived {
    pub(super) fn new(
        worker: &Rc<Worker>,
        head: &request::Parts,
        needs: Needs,
        client: Option<SocketAddr>,
        started: Instant,
    ) -> Self {
        let watches = worker.metrics.tap().active() || access_log::enabled();
        Self {
            worker: worker.clone(),
            method: head.method.clone(),
            uri: head.uri.clone(),
            grpc: needs.grpc,
            started,
            watched: watches.then(|| {
                Box::new(Watched {
                    version: needs.version,
                    authority: authority(head),
                    client,
                })
            }),
            waiting: RefCell::default(),
        }
    }

    /// The request waits for this peer from now on, having been sent `retries` times before.
    pub(super) fn waits_for(&self, metrics: &Rc<PeerMetrics>, retries: u32) {
        self.waiting.replace(Some(Waiting {
            metrics: metrics.clone(),
            retries,
        }));
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.grpc
    }

    /// Counts a request that got no response from an endpoint.
    pub(super) fn failed(
        &self,
        metrics: &PeerMetrics,
        status: Option<StatusCode>,
        grpc_status: u16,
        retries: u32,
        words: &str,
    ) {
        self.record(
            metrics,
            &Ended {
                status: status.map(|status| if self.grpc { StatusCode::OK } else { status }),
                grpc_status: self.grpc.then_some(grpc_status),
                success: status.is_some_and(|status| !status.is_server_error()),
                retries,
                server: None,
                sent: 0,
                received: 0,
                error: words,
            },
        );
    }

    fn record(&self, metrics: &PeerMetrics, ended: &Ended<'_>) {
        self.waiting.take();
        let latency = self.started.elapsed();
        metrics.record(&RequestRecord {
            method: &self.method,
            path: self.uri.path(),
            status: ended.status,
            grpc_status: ended.grpc_status,
            success: ended.success,
            retries: ended.retries,
            latency,
        });
        if let Some(watched) = &self.watched {
            self.show(watched, metrics, ended, latency);
        }
    }

    fn show(&self, watched: &Watched, metrics: &PeerMetrics, ended: &Ended<'_>, latency: Duration) {
        let labels = metrics.labels();
        let here = Some(self.worker.inbound.borrow().workload.clone());
        let here_pod = self.worker.config.pod.clone();
        let there = labels.workload.as_deref().cloned();
        let there_pod = labels.pod.to_string();
        let outbound = labels.direction == Direction::Outbound;
        let (source, source_pod, destination, destination_pod) = if outbound {
            (here, here_pod, there, there_pod)
        } else {
            (there, there_pod, here, here_pod)
        };
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let event = TapEvent {
            direction: labels.direction.into(),
            source,
            source_pod,
            source_address: watched.client.map(v1::Address::from),
            destination,
            destination_pod,
            destination_address: ended.server.map(v1::Address::from),
            service: labels.service.as_deref().cloned(),
            security: labels.security.into(),
            peer_identity: labels
                .identity
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            version: version_name(watched.version).to_owned(),
            method: self.method.to_string(),
            authority: watched.authority.clone(),
            path: self.uri.path().to_owned(),
            status: ended.status.map_or(0, |status| u32::from(status.as_u16())),
            grpc_status: ended.grpc_status.map_or(-1, i32::from),
            latency_us: u64::try_from(latency.as_micros()).unwrap_or(u64::MAX),
            retries: ended.retries,
            error: ended.error.to_owned(),
            request_bytes: ended.sent,
            response_bytes: ended.received,
            at_ms: since_epoch.map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }),
        };
        access_log::record(&event);
        if self.worker.metrics.tap().active() {
            self.worker.metrics.tap().offer(event);
        }
    }
}

/// The server side drops a request whose client went away before a response's head. It counts, without a status
/// and not as a failure: nobody knows what the answer would have been. (Envoy's response code 0 with flag DC, which
/// is no 5xx; with gRPC it is CANCELLED, no failure in Linkerd's classification either.)
impl Drop for Arrived {
    fn drop(&mut self) {
        if let Some(Waiting { metrics, retries }) = self.waiting.take() {
            self.record(
                &metrics,
                &Ended {
                    status: None,
                    grpc_status: self.grpc.then_some(GRPC_CANCELLED),
                    success: true,
                    retries,
                    server: None,
                    sent: 0,
                    received: 0,
                    error: "the client went away before a response",
                },
            );
        }
    }
}

impl Exchange {
    /// A response that begins to be passed on; of what `server` sent it over, nothing is known.
    pub(super) fn new(
        arrived: Arrived,
        metrics: Rc<PeerMetrics>,
        server: SocketAddr,
        response: &response::Parts,
    ) -> Self {
        Self {
            metrics,
            picked: None,
            server,
            lease: None,
            keep: keep(response),
            upload: None,
            status: response.status,
            grpc_status: match arrived.grpc {
                true => headers::grpc_status(&response.headers),
                false => None,
            },
            rtt: Duration::ZERO,
            retries: 0,
            received: 0,
            error: error_words(&response.headers),
            arrived,
        }
    }

    /// So many bytes of the response passed.
    pub(super) fn data(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// The response is over.
    pub(super) fn end(mut self, how: End<'_>) {
        let trailers = match how {
            End::Complete(trailers) => trailers,
            End::Failed | End::Abandoned => None,
        };
        self.grpc_status = self.grpc_status(trailers, &how);
        let outcome = self.outcome(&how);
        self.record(outcome);
        if let Some(gate) = self.upload.as_ref().and_then(|upload| upload.gate()) {
            gate.refuse();
        }
        if let Some(picked) = self.picked.take() {
            picked.finish_after(outcome, self.rtt);
        }
        match (how, self.lease.take()) {
            (End::Complete(_), Some(lease)) => lease.release(self.keep),
            // What is left of the response is in the way of the next: the connection is closed, or the stream reset.
            (_, lease) => drop(lease),
        }
    }

    /// The HTTP/1.x connection that the response comes on.
    pub(super) fn http1(&self) -> Option<&client::Connection> {
        match &self.lease.as_ref()?.channel {
            Channel::Http1(connection) => Some(connection),
            Channel::Http2(_) => None,
        }
    }

    /// The response changed the protocol: counts the request, and keeps the endpoint busy as long as
    /// what is returned lives.
    pub(super) fn into_tunnel(mut self) -> (Option<Lease>, Busy) {
        self.record(Outcome::Success);
        let busy = Busy {
            picked: self.picked.take(),
            rtt: self.rtt,
        };
        (self.lease.take(), busy)
    }

    fn grpc_status(&self, trailers: Option<&HeaderMap>, how: &End<'_>) -> Option<u16> {
        if !self.arrived.grpc {
            return None;
        }
        let status = self
            .grpc_status
            .or_else(|| trailers.and_then(headers::grpc_status));
        status.or(match how {
            End::Complete(_) | End::Failed => Some(GRPC_UNKNOWN),
            End::Abandoned => Some(GRPC_CANCELLED),
        })
    }

    fn outcome(&self, how: &End<'_>) -> Outcome {
        let failed = self.status.is_server_error()
            || self
                .grpc_status
                .is_some_and(|status| GRPC_FAILURES.contains(&status));
        match how {
            // A reset by the client comes back as an error of the endpoint's stream.
            End::Failed if self.client_left() => Outcome::Cancelled,
            End::Failed => Outcome::Failure,
            End::Complete(_) if failed => Outcome::Failure,
            End::Complete(_) => Outcome::Success,
            End::Abandoned if failed => Outcome::Failure,
            End::Abandoned => Outcome::Cancelled,
        }
    }

    fn client_left(&self) -> bool {
        self.upload
            .as_ref()
            .is_some_and(|upload| upload.is_broken())
    }

    fn record(&self, outcome: Outcome) {
        let error = match (&self.error, outcome) {
            (Some(words), _) => words,
            (None, Outcome::Failure) if !self.status.is_server_error() && !self.arrived.grpc => {
                "the response ended early"
            }
            _ => "",
        };
        self.arrived.record(
            &self.metrics,
            &Ended {
                status: Some(self.status),
                grpc_status: self.grpc_status,
                success: outcome != Outcome::Failure,
                retries: self.retries,
                server: Some(self.server),
                sent: self.upload.as_ref().map_or(0, |upload| upload.received()),
                received: self.received,
                error,
            },
        );
    }
}

/// An endpoint that serves a tunnel.
pub(super) struct Busy {
    picked: Option<Picked>,
    rtt: Duration,
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(picked) = self.picked.take() {
            picked.finish_after(Outcome::Success, self.rtt);
        }
    }
}

fn authority(head: &request::Parts) -> String {
    let of_uri = head.uri.authority().map(|authority| authority.as_str());
    let of_host = || head.headers.get(HOST).and_then(|host| host.to_str().ok());
    of_uri.or_else(of_host).unwrap_or_default().to_owned()
}

fn version_name(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// How long the connection that a response came on may be idle, if its server says so; the pool knows better
/// than for ever.
fn keep(response: &response::Parts) -> Duration {
    // One second less: the server's clock runs from the end of its writing.
    headers::keep_alive_timeout(&response.headers).map_or(Duration::MAX, |seconds| {
        Duration::from_secs(seconds.saturating_sub(1))
    })
}

/// Words that an answer carried, kept for the records.
fn error_words(headers: &HeaderMap) -> Option<Box<str>> {
    headers
        .get(headers::ERROR)
        .and_then(|words| words.to_str().ok())
        .map(Into::into)
}
