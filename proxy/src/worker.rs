//! One data thread: a single-threaded runtime, its listeners, and all that its connections share.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use hashbrown::HashMap;
use tokio::sync::watch;

use crate::config::Config;
use crate::discovery::{Discovery, Inbound};
use crate::drain::Drain;
use crate::inbound::App;
use crate::metrics::{Metrics, WorkerMetrics};
use crate::target::Target;
use crate::tls::Tls;

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

/// Starts a data thread. It ends once it has drained.
///
/// # Errors
/// A listener's port is taken, or the thread can't be started.
pub fn start(_parts: Parts, _number: usize) -> io::Result<JoinHandle<()>> {
    Err(io::ErrorKind::Unsupported.into())
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
        })
    }

    /// What is known of a destination; discovery is asked at its first use.
    pub fn target(&self, address: SocketAddr) -> Rc<Target> {
        let mut targets = self.targets.borrow_mut();
        let new = || {
            Rc::new(Target::new(
                address,
                self.discovery.watch(address),
                self.config.clone(),
                self.metrics.clone(),
                Instant::now(),
            ))
        };
        targets.entry(address).or_insert_with(new).clone()
    }

    /// What is kept for one port of this pod's app.
    pub fn app(&self, address: SocketAddr) -> Rc<App> {
        let mut apps = self.apps.borrow_mut();
        let new = || Rc::new(App::new(address));
        apps.entry(address).or_insert_with(new).clone()
    }
}
