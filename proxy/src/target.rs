//! The destinations that apps dial, and the endpoints behind them: one [`Target`] per worker and address.
//!
//! In: what discovery knows, as it changes. Out: a [`Picked`] endpoint for each request or connection, whose
//! outcome is given back to the balancer.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_api::v1::{Direction, Protocol, Security, ServicePort, Workload};
use tokio::sync::watch;

use crate::balance::{BalanceConfig, Balancer, BudgetConfig, Key, Outcome, RetryBudget};
use crate::config::Config;
use crate::discovery::{Destination, Endpoint, Kind};
use crate::http;
use crate::metrics::{EndpointLoad, PeerLabels, PeerMetrics, WorkerMetrics};
use crate::quiet::Learnt;

type Answer = Option<Arc<Destination>>;

/// One address that apps dial, as one worker sees it.
#[derive(Debug)]
pub struct Target {
    /// What was dialled.
    pub address: SocketAddr,
    /// Who speaks first there, as far as it has been seen.
    pub learnt: Learnt,
    /// Bounds the retries of its requests.
    pub budget: RefCell<RetryBudget>,
    config: Arc<Config>,
    metrics: WorkerMetrics,
    answers: RefCell<watch::Receiver<Answer>>,
    /// The answer that `balancer` holds.
    destination: RefCell<Answer>,
    balancer: RefCell<Balancer<Rc<Peer>>>,
    rng: RefCell<fastrand::Rng>,
    last_used: Cell<Instant>,
}

/// One endpoint of a target, with what is kept for it.
#[derive(Debug)]
pub struct Peer {
    /// Where it is and who it must be.
    pub endpoint: Arc<Endpoint>,
    /// What is counted about it.
    pub metrics: Rc<PeerMetrics>,
    /// Its idle HTTP connections.
    pub pool: http::Pool,
}

/// An endpoint chosen for one request or connection. Dropped without [`Picked::finish`], it counts as
/// cancelled.
#[derive(Debug)]
pub struct Picked {
    /// The endpoint.
    pub peer: Rc<Peer>,
    target: Rc<Target>,
    key: Key,
    started: Instant,
    finished: bool,
}

/// There is nowhere to send to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} has no ready endpoint")]
pub struct Unavailable {
    /// The service and port, or the address.
    pub name: String,
}

impl Target {
    pub(crate) fn new(
        address: SocketAddr,
        answers: watch::Receiver<Answer>,
        config: Arc<Config>,
        metrics: WorkerMetrics,
        now: Instant,
    ) -> Self {
        let mut answers = answers;
        let answer = answers.borrow_and_update().clone();
        let target = Self {
            address,
            learnt: Learnt::default(),
            budget: RefCell::new(RetryBudget::new(BudgetConfig::default(), now)),
            config,
            metrics,
            answers: RefCell::new(answers),
            destination: RefCell::default(),
            balancer: RefCell::new(Balancer::new(BalanceConfig::default())),
            rng: RefCell::new(fastrand::Rng::new()),
            last_used: Cell::new(now),
        };
        if let Some(destination) = answer {
            target.apply(destination);
        }
        target
    }

    /// Waits until discovery has answered, at most `within`. Returns whether there is an answer.
    pub async fn answered(&self, within: Duration) -> bool {
        self.sync();
        if self.destination.borrow().is_some() {
            return true;
        }
        let mut answers = self.answers.borrow().clone();
        let answered = tokio::time::timeout(within, answers.wait_for(Option::is_some)).await;
        matches!(answered, Ok(Ok(_)))
    }

    /// Goes on as if the destination were outside of the mesh, until discovery answers.
    pub fn pass_through(&self) {
        self.apply(Arc::new(outside(self.address)));
    }

    /// Waits until there is an endpoint to pick, at most `within`.
    ///
    /// # Errors
    /// There still is none.
    pub async fn ready(&self, within: Duration) -> Result<(), Unavailable> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            self.sync();
            if self.is_ready() {
                return Ok(());
            }
            let mut answers = self.answers.borrow().clone();
            match tokio::time::timeout_at(deadline, answers.changed()).await {
                Ok(Ok(())) => {}
                _ => return Err(self.unavailable()),
            }
        }
    }

    /// Chooses the endpoint of the next request or connection. `exclude` has just failed it, and is chosen
    /// again only when there is no other.
    ///
    /// # Errors
    /// There is none now; [`Target::ready`] waits for one.
    pub fn pick(self: &Rc<Self>, exclude: Option<SocketAddr>) -> Result<Picked, Unavailable> {
        self.sync();
        let started = Instant::now();
        self.touch(started);
        let mut balancer = self.balancer.borrow_mut();
        let choice = balancer.pick(started, exclude, &mut self.rng.borrow_mut());
        let choice = choice.ok_or_else(|| self.unavailable())?;
        Ok(Picked {
            peer: choice.endpoint.clone(),
            key: choice.key,
            target: self.clone(),
            started,
            finished: false,
        })
    }

    /// What is known of its bytes.
    pub fn protocol(&self) -> Protocol {
        self.sync();
        let destination = self.destination.borrow();
        destination
            .as_ref()
            .map_or(Protocol::Detect, |destination| destination.protocol)
    }

    /// The service port, if a service was dialled.
    pub fn service(&self) -> Option<Arc<ServicePort>> {
        match &self.destination.borrow().as_ref()?.kind {
            Kind::Service(service) => Some(service.clone()),
            Kind::Pod(_) | Kind::Outside => None,
        }
    }

    /// Whether the destination is none of the mesh's.
    pub fn is_outside(&self) -> bool {
        let destination = self.destination.borrow();
        destination
            .as_ref()
            .is_none_or(|destination| matches!(destination.kind, Kind::Outside))
    }

    /// Number of endpoints, ready or not.
    pub fn endpoints(&self) -> usize {
        self.balancer.borrow().len()
    }

    /// The error that says that there is no endpoint.
    pub fn unavailable(&self) -> Unavailable {
        let name = match self.service() {
            Some(service) => service.to_string(),
            None => self.address.to_string(),
        };
        Unavailable { name }
    }

    /// Notes that it is in use.
    pub(crate) fn touch(&self, now: Instant) {
        self.last_used.set(now);
    }

    /// When it was last used.
    pub(crate) fn last_used(&self) -> Instant {
        self.last_used.get()
    }

    /// How its endpoints stand; none for a destination outside.
    pub(crate) fn loads(&self, now: Instant, loads: &mut Vec<EndpointLoad>) {
        if self.is_outside() {
            return;
        }
        let service = self.service();
        let balancer = self.balancer.borrow();
        loads.extend(balancer.states(now).map(|(peer, state)| EndpointLoad {
            service: service.clone(),
            workload: peer.endpoint.workload.clone(),
            pod: peer.endpoint.pod.clone(),
            state,
        }));
    }

    /// Closes connections that have been idle for too long.
    pub(crate) fn evict_idle(&self, now: Instant) {
        for (peer, _) in self.balancer.borrow().states(now) {
            peer.pool.evict_idle(now);
        }
    }

    fn is_ready(&self) -> bool {
        let destination = self.destination.borrow();
        destination.as_ref().is_some_and(|destination| {
            matches!(destination.kind, Kind::Outside)
                || destination.endpoints.iter().any(|e| e.weight > 0)
        })
    }

    /// Takes over what discovery has said since the last call.
    fn sync(&self) {
        let mut answers = self.answers.borrow_mut();
        if !answers.has_changed().unwrap_or(false) {
            return;
        }
        let answer = answers.borrow_and_update().clone();
        drop(answers);
        if let Some(destination) = answer {
            self.apply(destination);
        }
    }

    fn apply(&self, destination: Arc<Destination>) {
        let through = match destination.kind {
            Kind::Outside => vec![Arc::new(pass_through(self.address))],
            _ => destination.endpoints.clone(),
        };
        let mut balancer = self.balancer.borrow_mut();
        let peers: Vec<_> = through
            .into_iter()
            .map(|endpoint| {
                let labels = self.labels(&destination.kind, &endpoint);
                let peer = match balancer.find(endpoint.address) {
                    // Connections in the pool are to whom they were verified to be to: keep them only for
                    // the very same endpoint. Its weight alone is not kept here but in the balancer.
                    Some(peer) if peer.is(&endpoint) && *peer.metrics.labels() == labels => {
                        peer.clone()
                    }
                    _ => Rc::new(Peer {
                        metrics: self.metrics.peer(labels),
                        endpoint: endpoint.clone(),
                        pool: http::Pool::default(),
                    }),
                };
                (endpoint.address, endpoint.weight, peer)
            })
            .collect();
        balancer.update(peers, Instant::now());
        drop(balancer);
        self.destination.replace(Some(destination));
    }

    fn labels(&self, kind: &Kind, endpoint: &Endpoint) -> PeerLabels {
        let outside = matches!(kind, Kind::Outside);
        let security = if outside {
            Security::Outside
        } else if self.is_own_pod(endpoint) {
            Security::Loopback
        } else if endpoint.identity.is_some() {
            Security::Mtls
        } else {
            Security::PeerNotMeshed
        };
        PeerLabels {
            direction: Direction::Outbound,
            service: match kind {
                Kind::Service(service) => Some(service.clone()),
                Kind::Pod(_) | Kind::Outside => None,
            },
            workload: (!outside).then(|| endpoint.workload.clone()),
            pod: endpoint.pod.clone(),
            identity: match security {
                Security::Mtls => endpoint.identity.clone(),
                _ => None,
            },
            security,
            authority: match outside {
                true => self.address.to_string().into(),
                false => Arc::from(""),
            },
        }
    }

    /// A pod may be an endpoint of a service that it calls itself. Such a connection never leaves the network
    /// namespace, so it does not meet the redirection that would bring it to this proxy's inbound side.
    fn is_own_pod(&self, endpoint: &Endpoint) -> bool {
        *endpoint.pod == *self.config.pod && endpoint.workload.namespace == self.config.namespace
    }
}

impl Peer {
    /// How connections to it are secured.
    pub fn security(&self) -> Security {
        self.metrics.labels().security
    }

    /// Same place, same identity.
    fn is(&self, endpoint: &Endpoint) -> bool {
        self.endpoint.address == endpoint.address && self.endpoint.identity == endpoint.identity
    }
}

impl Picked {
    /// Says how it went; the time since the pick is the round-trip time.
    pub fn finish(self, outcome: Outcome) {
        let rtt = self.started.elapsed();
        self.finish_after(outcome, rtt);
    }

    /// Says how it went, and how long the response's head took.
    pub fn finish_after(mut self, outcome: Outcome, rtt: Duration) {
        self.report(outcome, rtt);
    }

    fn report(&mut self, outcome: Outcome, rtt: Duration) {
        self.finished = true;
        let mut balancer = self.target.balancer.borrow_mut();
        balancer.finished(self.key, outcome, rtt, Instant::now());
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        if !self.finished {
            self.report(Outcome::Cancelled, self.started.elapsed());
        }
    }
}

/// What an unknown destination is taken for.
fn outside(address: SocketAddr) -> Destination {
    Destination {
        address,
        kind: Kind::Outside,
        protocol: Protocol::Detect,
        endpoints: Vec::new(),
    }
}

/// A destination outside of the mesh is its own only endpoint.
fn pass_through(address: SocketAddr) -> Endpoint {
    Endpoint {
        address,
        weight: 1,
        identity: None,
        workload: Arc::new(Workload::default()),
        pod: "".into(),
        zone: "".into(),
    }
}
