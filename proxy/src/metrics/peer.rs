//! Counting what goes to and comes from one peer.

use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use hashbrown::HashTable;
use http::{Method, StatusCode};
use mesh_api::{
    SpiffeId,
    v1::{Direction, Security, ServicePort, Workload},
};

use super::{
    Metrics,
    route::{Route, method_name},
    series::{Counter, PeerSeries, RouteSeries, Status, StatusSeries},
};

/// Methods and routes of one peer that are counted apart; the rest counts as route `*`.
const MAX_ROUTES: usize = 64;
/// Different endings of requests that are counted apart: status, gRPC status, success.
const MAX_STATUSES: usize = 64;

/// Who is at the other end, and how it is reached: the labels of all that is counted about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerLabels {
    /// Whether this pod called or was called.
    pub direction: Direction,
    /// Outbound: the Service that was dialled. Inbound: the Service in front of the port.
    pub service: Option<Arc<ServicePort>>,
    /// Outbound: the endpoint's workload. Inbound: `None` (the identity tells).
    pub workload: Option<Arc<Workload>>,
    /// Outbound: the endpoint's pod. Empty if unknown.
    pub pod: Arc<str>,
    /// Who the peer proved to be.
    pub identity: Option<SpiffeId>,
    /// Whether the connection is secured by the mesh, and if not, why.
    pub security: Security,
    /// Outside destinations: the host, SNI or address that was dialled. Empty otherwise.
    pub authority: Arc<str>,
}

impl PeerLabels {
    /// The labels of all peers that are over the bound.
    pub(super) fn overflow(self) -> Self {
        Self {
            service: None,
            workload: None,
            pod: "".into(),
            identity: None,
            authority: "*".into(),
            ..self
        }
    }
}

/// A request that ended.
#[derive(Debug)]
pub struct RequestRecord<'a> {
    /// Standard methods count under their name, all others as "OTHER".
    pub method: &'a Method,
    /// Path, with or without query. Identifiers in it are replaced before it is counted.
    pub path: &'a str,
    /// `None` when no response head arrived: the endpoint failed, or (no failure of its) the client went away.
    pub status: Option<StatusCode>,
    /// `None` when the response was not gRPC.
    pub grpc_status: Option<u16>,
    /// Whether it counts for the success rate.
    pub success: bool,
    /// Times it was sent, less one.
    pub retries: u32,
    /// Time to the end of the response.
    pub latency: Duration,
}

/// Why a connection failed or was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The peer refused the connection.
    Refused,
    /// The connection could not be made in time.
    ConnectTimeout,
    /// No route to the peer.
    Unreachable,
    /// The connection broke.
    Reset,
    /// The peer's certificate names another identity than discovery did.
    WrongIdentity,
    /// The peer's certificate has expired or is not valid yet.
    CertificateExpired,
    /// The peer's certificate is not signed by a root of the mesh.
    CertificateUntrusted,
    /// The peer showed no certificate.
    CertificateMissing,
    /// TLS failed in another way.
    TlsHandshake,
    /// The connection would have come back to this proxy.
    Loop,
    /// The bytes broke the rules of their protocol.
    Protocol,
    /// The destination has no endpoint to send to.
    NoEndpoint,
    /// The peer was silent for too long.
    IdleTimeout,
    /// Discovery did not answer in time: the connection was passed through as if outside of the mesh.
    Undiscovered,
    /// Anything else.
    Other,
}

impl Cause {
    /// All causes, in the order of their discriminants.
    pub(super) const ALL: [Self; 15] = [
        Self::Refused,
        Self::ConnectTimeout,
        Self::Unreachable,
        Self::Reset,
        Self::WrongIdentity,
        Self::CertificateExpired,
        Self::CertificateUntrusted,
        Self::CertificateMissing,
        Self::TlsHandshake,
        Self::Loop,
        Self::Protocol,
        Self::NoEndpoint,
        Self::IdleTimeout,
        Self::Undiscovered,
        Self::Other,
    ];

    /// Wrong, foreign, expired or missing certificates, and loops; all else happens every day.
    pub fn is_for_somebody_to_look_at(self) -> bool {
        matches!(
            self,
            Self::WrongIdentity
                | Self::CertificateExpired
                | Self::CertificateUntrusted
                | Self::CertificateMissing
                | Self::Loop
        )
    }

    /// The word in metrics and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::WrongIdentity => "wrong_identity",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateUntrusted => "certificate_untrusted",
            Self::CertificateMissing => "certificate_missing",
            Self::TlsHandshake => "tls_handshake",
            Self::Loop => "loop",
            Self::Protocol => "protocol",
            Self::NoEndpoint => "no_endpoint",
            Self::IdleTimeout => "idle_timeout",
            Self::Undiscovered => "undiscovered",
            Self::Other => "other",
        }
    }
}

/// The counters of one peer on one worker. Single writer: stays on its thread.
#[derive(Debug)]
pub struct PeerMetrics {
    series: Arc<PeerSeries>,
    process: Arc<Metrics>,
    hasher: foldhash::fast::RandomState,
    routes: RefCell<HashTable<CountedRoute>>,
    statuses: RefCell<Vec<Arc<StatusSeries>>>,
    idle: RefCell<Idle>,
}

/// A route of this worker's table.
#[derive(Debug)]
struct CountedRoute {
    hash: u64,
    series: Arc<RouteSeries>,
    idle: Idle,
}

/// Since when a series has not moved.
#[derive(Debug, Default)]
struct Idle {
    value: u64,
    since: Option<Instant>,
}

/// An open connection: counts its bytes, and itself until it is dropped.
#[derive(Debug)]
pub struct ConnectionGuard {
    peer: Rc<PeerMetrics>,
}

/// An open connection of which its first request will tell for whom it counts; without one, for whom it is presumed to.
#[derive(Debug)]
pub struct Undecided {
    presumed: Rc<PeerMetrics>,
    guard: OnceCell<ConnectionGuard>,
    read: Cell<u64>,
    written: Cell<u64>,
}

impl PeerMetrics {
    pub(super) fn new(process: Arc<Metrics>, labels: PeerLabels) -> Self {
        let series = Arc::new(PeerSeries::new(labels));
        process.register(series.clone());
        Self {
            series,
            process,
            hasher: foldhash::fast::RandomState::default(),
            routes: RefCell::default(),
            statuses: RefCell::default(),
            idle: RefCell::default(),
        }
    }

    /// What this was resolved for.
    pub fn labels(&self) -> &PeerLabels {
        &self.series.labels
    }

    /// Counts a request that ended. No lock and, once its route has been seen, no allocation.
    pub fn record(&self, request: &RequestRecord<'_>) {
        self.with_route(request, |series| {
            let outcome = if request.success {
                &series.success
            } else {
                &series.failure
            };
            outcome.add(1);
            if request.retries > 0 {
                series.retried.add(1);
                series.retries.add(request.retries.into());
            }
            series.latencies.record(request.latency);
        });
        self.count_status(Status {
            http: request.status.map_or(0, |status| status.as_u16()),
            grpc: request.grpc_status,
            success: request.success,
        });
    }

    /// Counts a connection that was made or accepted.
    pub fn connection(self: &Rc<Self>) -> ConnectionGuard {
        self.series.opened.add(1);
        ConnectionGuard { peer: self.clone() }
    }

    /// A connection whose peer may turn out to be another one before its first request.
    pub fn undecided(self: &Rc<Self>) -> Rc<Undecided> {
        Rc::new(Undecided {
            presumed: self.clone(),
            guard: OnceCell::new(),
            read: Cell::new(0),
            written: Cell::new(0),
        })
    }

    /// Counts a connection that failed or was refused.
    pub fn error(&self, cause: Cause) {
        self.series.errors[cause as usize].add(1);
    }

    /// Evicts routes that have been idle for `patience`. True when the whole peer has been.
    pub(super) fn evict(&self, patience: Duration, now: Instant) -> bool {
        self.routes.borrow_mut().retain(|route| {
            let idle = route.idle.check(route.series.requests(), patience, now);
            if idle {
                self.series.evict(&route.series);
                self.process.release_series();
            }
            !idle
        });
        let series = &self.series;
        let activity = [
            &series.opened,
            &series.closed,
            &series.read_bytes,
            &series.written_bytes,
        ]
        .into_iter()
        .chain(&series.errors)
        .fold(0u64, |sum, counter| sum.wrapping_add(counter.value()));
        self.idle.borrow_mut().check(activity, patience, now)
            && self.series.open() == 0
            && self.routes.borrow().is_empty()
    }

    fn with_route(&self, request: &RequestRecord<'_>, count: impl FnOnce(&RouteSeries)) {
        let method = method_name(request.method);
        let mut route = Route::new(request.path, request.grpc_status.is_some());
        let mut hash = route.hash(method, &self.hasher);
        let mut routes = self.routes.borrow_mut();
        let is = |route: Route<'_>, known: &CountedRoute| {
            known.series.method == method && route.is(&known.series.route)
        };
        if let Some(known) = routes.find(hash, |known| is(route, known)) {
            return count(&known.series);
        }
        if routes.len() >= MAX_ROUTES || !self.process.reserve_series() {
            self.process.count_overflow();
            route = Route::overflow();
            hash = route.hash(method, &self.hasher);
            if let Some(known) = routes.find(hash, |known| is(route, known)) {
                return count(&known.series);
            }
            // One for each method at most; these may be over the bound.
            self.process.reserve_overflow();
        }
        let series = Arc::new(RouteSeries {
            method,
            route: route.write(),
            ..RouteSeries::default()
        });
        count(&series);
        self.series.requests().routes.push(series.clone());
        let known = CountedRoute {
            hash,
            series,
            idle: Idle::default(),
        };
        routes.insert_unique(hash, known, |known| known.hash);
    }

    fn count_status(&self, mut status: Status) {
        let mut statuses = self.statuses.borrow_mut();
        let count = |statuses: &[Arc<StatusSeries>], status| {
            let known = statuses.iter().find(|known| known.status == status);
            known.map(|known| known.count.add(1)).is_some()
        };
        if count(&statuses, status) {
            return;
        }
        if statuses.len() >= MAX_STATUSES {
            self.process.count_overflow();
            status = Status {
                http: Status::OTHER,
                grpc: None,
                ..status
            };
            if count(&statuses, status) {
                return;
            }
        }
        let series = Arc::new(StatusSeries {
            status,
            count: Counter::default(),
        });
        series.count.add(1);
        self.series.requests().statuses.push(series.clone());
        statuses.push(series);
    }
}

impl Drop for PeerMetrics {
    fn drop(&mut self) {
        self.routes
            .borrow()
            .iter()
            .for_each(|_| self.process.release_series());
        self.process.unregister(&self.series);
    }
}

impl ConnectionGuard {
    /// Counts that the connection failed after it was made.
    pub fn error(&self, cause: Cause) {
        self.peer.error(cause);
    }

    /// Counts bytes that came from the peer.
    pub fn read(&self, bytes: u64) {
        self.peer.series.read_bytes.add(bytes);
    }

    /// Counts bytes that went to the peer.
    pub fn written(&self, bytes: u64) {
        self.peer.series.written_bytes.add(bytes);
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.peer.series.closed.add(1);
    }
}

impl Undecided {
    /// From now on, and all that was before, it counts for this peer. The first decision holds.
    pub fn decide(&self, peer: &Rc<PeerMetrics>) {
        self.guard.get_or_init(|| {
            let guard = peer.connection();
            guard.read(self.read.get());
            guard.written(self.written.get());
            guard
        });
    }

    /// As [`ConnectionGuard::error`]; it decides.
    pub fn error(&self, cause: Cause) {
        self.decide(&self.presumed);
        if let Some(guard) = self.guard.get() {
            guard.error(cause);
        }
    }

    /// As [`ConnectionGuard::read`].
    pub fn read(&self, bytes: u64) {
        match self.guard.get() {
            Some(guard) => guard.read(bytes),
            None => self.read.set(self.read.get() + bytes),
        }
    }

    /// As [`ConnectionGuard::written`].
    pub fn written(&self, bytes: u64) {
        match self.guard.get() {
            Some(guard) => guard.written(bytes),
            None => self.written.set(self.written.get() + bytes),
        }
    }
}

impl Drop for Undecided {
    fn drop(&mut self) {
        self.decide(&self.presumed);
    }
}

impl Idle {
    fn check(&mut self, value: u64, patience: Duration, now: Instant) -> bool {
        let since = self.since.filter(|_| value == self.value).unwrap_or(now);
        *self = Self {
            value,
            since: Some(since),
        };
        now.saturating_duration_since(since) >= patience
    }
}
