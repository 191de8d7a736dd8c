//! One data thread: a single-threaded runtime, its listeners, and all that its connections share.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use mesh_api::v1;
use pin_project_lite::pin_project;
use tokio::net::TcpListener;
use tokio::runtime::LocalOptions;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, timeout};

use crate::config::Config;
use crate::discovery::{Discovery, Inbound};
use crate::drain::Drain;
use crate::inbound::{self, App};
use crate::io::{tune_local, tune_remote};
use crate::listen;
use crate::memory;
use crate::metrics::{Cause, Metrics, WorkerMetrics};
use crate::outbound;
use crate::repeats::Repeats;
use crate::target::Target;
use crate::tls::Tls;

#[cfg(test)]
pub(crate) mod fixture;

/// What the connections of one data thread share. Never leaves its thread.
#[derive(Debug)]
pub struct Worker {
    /// As given at start.
    pub config: Arc<Config>,
    /// Secures connections to other proxies.
    pub tls: Tls,
    /// Knows destinations.
    pub discovery: Discovery,
    /// Counts.
    pub metrics: WorkerMetrics,
    /// Says when to end.
    pub drain: Drain,
    /// What is known of this pod's own ports.
    pub inbound: watch::Receiver<Arc<Inbound>>,
    targets: RefCell<HashMap<SocketAddr, Rc<Target>>>,
    apps: RefCell<HashMap<SocketAddr, Rc<App>>>,
    repeats: RefCell<Repeats>,
    /// Connections being served.
    open: Cell<usize>,
    /// One of them has ended.
    closed: Notify,
}

/// What a worker is made of. Can be sent to its thread.
#[derive(Clone, Debug)]
pub struct Parts {
    /// As given at start.
    pub config: Arc<Config>,
    /// Secures connections to other proxies.
    pub tls: Tls,
    /// Knows destinations.
    pub discovery: Discovery,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Says when to end.
    pub drain: Drain,
}

/// How often loads are published, and idle things looked for.
const TICK: Duration = Duration::from_secs(1);
/// Targets and apps that nobody has used for so long are forgotten.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// Starts a data thread. It ends once it has drained.
///
/// # Errors
/// A listener's port is taken, or the thread can't be started.
pub fn start(parts: Parts, number: usize) -> io::Result<JoinHandle<()>> {
    let outbound = bind(parts.config.outbound_port, tune_local)?;
    let inbound = bind(parts.config.inbound_port, tune_remote)?;
    std::thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || {
            // Not a LocalSet, which is a scheduler within a scheduler.
            let served = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default())
                .and_then(|runtime| runtime.block_on(run(parts, outbound, inbound)));
            if let Err(error) = served {
                tracing::error!(%error, "worker {number} could not start");
            }
        })
}

fn bind(port: u16, tune: listen::Tune) -> io::Result<std::net::TcpListener> {
    listen::bind(port, tune).map_err(|error| {
        let problem = format!("can't listen on port {port}: {error}");
        io::Error::new(error.kind(), problem)
    })
}

/// Serves until the drain is over.
async fn run(
    parts: Parts,
    outbound: std::net::TcpListener,
    inbound: std::net::TcpListener,
) -> io::Result<()> {
    let worker = Worker::new(parts);
    let (outbound, inbound) = (
        TcpListener::from_std(outbound)?,
        TcpListener::from_std(inbound)?,
    );
    spawn_local(tick(worker.clone()));
    let inbound = listen::accept(inbound, worker.drain.started(), |tcp, client| {
        worker.spawn(inbound::serve(worker.clone(), tcp, client));
    });
    // The app may need others to finish what it has begun: its own connections are served to the end.
    let outbound = listen::accept(outbound, worker.drained(), |tcp, client| {
        worker.spawn(outbound::serve(worker.clone(), tcp, client));
    });
    tokio::join!(inbound, outbound);
    Ok(())
}

async fn tick(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut gave_back = Instant::now();
    loop {
        ticks.tick().await;
        let now = Instant::now();
        worker.tend(now);
        if now - gave_back >= memory::EVERY {
            gave_back = now;
            memory::give_back();
        }
    }
}

impl Worker {
    /// The worker of this thread.
    pub fn new(parts: Parts) -> Rc<Self> {
        Rc::new(Self {
            metrics: parts.metrics.worker(),
            inbound: parts.discovery.inbound(),
            config: parts.config,
            tls: parts.tls,
            discovery: parts.discovery,
            drain: parts.drain,
            targets: RefCell::default(),
            apps: RefCell::default(),
            repeats: RefCell::default(),
            open: Cell::new(0),
            closed: Notify::new(),
        })
    }

    /// What is known of a destination; discovery is asked at its first use.
    pub fn target(&self, address: SocketAddr) -> Rc<Target> {
        let now = Instant::now();
        let mut targets = self.targets.borrow_mut();
        let target = targets.entry(address).or_insert_with(|| {
            Rc::new(Target::new(
                address,
                self.discovery.watch(address),
                self.config.clone(),
                self.metrics.clone(),
                now,
            ))
        });
        target.touch(now);
        target.clone()
    }

    /// What is kept for one port of this pod's app.
    pub fn app(&self, address: SocketAddr) -> Rc<App> {
        let now = Instant::now();
        let mut apps = self.apps.borrow_mut();
        let app = apps
            .entry(address)
            .or_insert_with(|| Rc::new(App::new(address, now)));
        app.touch(now);
        app.clone()
    }

    /// What is known of the bytes on a port of this pod, and the service in front of it.
    pub fn inbound_port(&self, port: u16) -> (v1::Protocol, Option<Arc<v1::ServicePort>>) {
        let inbound = self.inbound.borrow();
        match inbound.ports.get(&port) {
            Some(port) => (port.protocol, port.service.clone()),
            None => (v1::Protocol::Detect, None),
        }
    }

    /// Whether to write a line about a connection that failed: not where one like it was written just now.
    pub fn is_news(&self, cause: Cause, peer: SocketAddr) -> bool {
        let mut repeats = self.repeats.borrow_mut();
        repeats.is_news(cause, peer.ip(), Instant::now())
    }

    /// The ports that redirected connections arrive at.
    pub fn own_ports(&self) -> [u16; 2] {
        [self.config.outbound_port, self.config.inbound_port]
    }

    /// Serves a connection on this thread; the drain waits for it.
    fn spawn(self: &Rc<Self>, connection: impl Future<Output = ()> + 'static) {
        let open = Open::new(self.clone());
        spawn_local(Counted { connection, open });
    }

    /// Resolves when the drain has started, and then all connections have ended or the grace time is over.
    async fn drained(&self) {
        self.drain.started().await;
        let closed = async {
            while self.open.get() > 0 {
                self.closed.notified().await;
            }
        };
        if timeout(self.drain.grace(), closed).await.is_err() {
            tracing::warn!(
                connections = self.open.get(),
                "closing connections that did not end within {:?}",
                self.drain.grace()
            );
        }
    }

    /// Publishes how endpoints stand, and forgets what has been idle.
    fn tend(&self, now: Instant) {
        let mut loads = Vec::new();
        self.targets.borrow_mut().retain(|_, target| {
            target.evict_idle(now);
            target.loads(now, &mut loads);
            Rc::strong_count(target) > 1 || now - target.last_used() < IDLE_LIMIT
        });
        self.apps.borrow_mut().retain(|_, app| {
            app.pool.evict_idle(now);
            Rc::strong_count(app) > 1 || now - app.last_used() < IDLE_LIMIT
        });
        self.metrics.tick(loads, now);
        for left_out in self.repeats.borrow_mut().sum_up(now) {
            left_out.log();
        }
    }
}

pin_project! {
    /// A connection, counted while it is open. Not an async block: that would hold the connection's future
    /// twice, once as what it captured and once as what it awaits.
    struct Counted<F> {
        #[pin]
        connection: F,
        open: Open,
    }
}

impl<F: Future<Output = ()>> Future for Counted<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().connection.poll(cx)
    }
}

/// Counts one open connection, also where serving it panics.
struct Open(Rc<Worker>);

impl Open {
    fn new(worker: Rc<Worker>) -> Self {
        worker.open.set(worker.open.get() + 1);
        Self(worker)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.closed.notify_one();
    }
}
