//! One proxy from its start to its end: the control thread, and the workers that it starts.

use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Socket, Type};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::admin::{self, Admin};
use crate::config::{AccessLog, Config, Controller, RunArgs};
use crate::discovery::{Cache, Discovery, Stream};
use crate::identity::Identity;
use crate::logging::{self, LogLevel};
use crate::metrics::{Metrics, telemetry};
use crate::state_dir::StateDir;
use crate::tls::Tls;
use crate::worker::Parts;
use crate::{access_log, drain, worker};

/// Runs the proxy until it has drained after SIGTERM or SIGINT.
pub(crate) fn run(args: RunArgs) -> anyhow::Result<()> {
    let config = Arc::new(Config::try_from(args)?);
    let log_level = logging::start(&config.log_level, config.log_format)?;
    if config.access_log == AccessLog::Json {
        access_log::start().context("the access log")?;
    }
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the control thread's runtime")?;
    let result = runtime.block_on(serve(config, log_level));
    // Without waiting for workers: they have drained, or are not to be waited for.
    runtime.shutdown_background();
    result
}

async fn serve(config: Arc<Config>, log_level: LogLevel) -> anyhow::Result<()> {
    let mut terminate = Terminate::new()?;
    // None of these tasks ends but by a panic. Without one of them the proxy would go stale unnoticed.
    let mut control = JoinSet::new();
    let listener = admin::bind(config.admin_port)?;
    if let Some(mark) = config.mark {
        check_mark(mark)?;
    }
    let (tls, metrics) = (Tls::new(), Metrics::new());
    let (trigger, drain) = drain::channel(config.drain_timeout);
    let discovery = match &config.controller {
        Some(controller) => follow_controller(controller, &config, &tls, &metrics, &mut control)?,
        None => {
            tracing::info!("no controller: everything is passed through");
            Discovery::disconnected()
        }
    };
    let parts = Parts {
        config: config.clone(),
        tls: tls.clone(),
        discovery: discovery.clone(),
        metrics: metrics.clone(),
        drain: drain.clone(),
    };
    let mut workers = JoinSet::new();
    for number in 0..config.workers.get() {
        let handle = worker::start(parts.clone(), number)?;
        workers.spawn_blocking(move || join(handle));
    }
    let admin = Admin {
        config: config.clone(),
        tls,
        discovery,
        metrics,
        drain,
        log_level,
    };
    control.spawn(admin.run(listener));
    tracing::info!(
        namespace = config.namespace,
        pod = config.pod,
        outbound = config.outbound_port,
        inbound = config.inbound_port,
        admin = config.admin_port,
        "serving"
    );

    tokio::select! {
        () = terminate.requested() => {
            tracing::info!(grace = ?config.drain_timeout, "draining");
            trigger.start();
        }
        Some(ended) = workers.join_next() => {
            ended.context("a worker")??;
            anyhow::bail!("a worker ended without being asked to");
        }
        Some(ended) = control.join_next() => {
            ended.context("the control thread")?;
            anyhow::bail!("a task of the control thread ended");
        }
    }
    tokio::select! {
        ended = workers.join_all() => {
            ended.into_iter().collect::<anyhow::Result<()>>()?;
            tracing::info!("drained");
        }
        () = terminate.requested() => tracing::warn!("asked a second time: ending at once"),
    }
    Ok(())
}

/// Starts what talks to the controller: identity, discovery and telemetry.
fn follow_controller(
    controller: &Controller,
    config: &Arc<Config>,
    tls: &Tls,
    metrics: &Arc<Metrics>,
    control: &mut JoinSet<()>,
) -> anyhow::Result<Discovery> {
    let controller = Arc::new(controller.clone());
    let state = config
        .state_dir
        .as_deref()
        .map(StateDir::open)
        .transpose()
        .with_context(|| {
            format!(
                "--state-dir {}",
                config.state_dir.as_deref().unwrap_or("".as_ref()).display()
            )
        })?;
    let cache = state.clone().map(Cache::new);
    let (discovery, stream) = Stream::new(&config.namespace, &config.pod, tls.clone(), cache);
    let identity = Identity::new(controller.clone(), config.mark, tls.clone(), state);
    let channel = crate::control::channel(&controller, config.mark, tls);
    control.spawn(identity.run());
    control.spawn(stream.run(channel.clone()));
    control.spawn(report(
        channel,
        config.clone(),
        tls.clone(),
        discovery.clone(),
        metrics.clone(),
    ));
    Ok(discovery)
}

async fn report(
    channel: Channel,
    config: Arc<Config>,
    tls: Tls,
    discovery: Discovery,
    metrics: Arc<Metrics>,
) {
    // The controller only listens to those who have a certificate.
    tls.until_ready().await;
    let inbound = discovery.inbound();
    let reporter = move || {
        let credentials = tls.credentials();
        let expires = credentials.as_ref().and_then(|credentials| {
            credentials
                .not_after()
                .duration_since(std::time::UNIX_EPOCH)
                .ok()
        });
        let workload = inbound.borrow().workload.clone();
        telemetry::Reporter {
            namespace: config.namespace.clone(),
            pod: config.pod.clone(),
            workload: (!workload.name.is_empty()).then_some(workload),
            identity: credentials
                .map(|found| found.identity().to_string())
                .unwrap_or_default(),
            certificate_expires: expires.map(|time| time.as_secs()).unwrap_or_default(),
        }
    };
    telemetry::report(metrics, channel, reporter).await;
}

fn join(worker: JoinHandle<()>) -> anyhow::Result<()> {
    worker
        .join()
        .map_err(|_| anyhow::anyhow!("a worker panicked; its message is in the log above"))
}

/// Requests to end: SIGTERM from a supervisor, SIGINT from a terminal.
struct Terminate {
    terminate: Signal,
    interrupt: Signal,
}

impl Terminate {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals can't be received");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Without the mark the redirection would send every connection of the proxy back to it.
fn check_mark(mark: u32) -> anyhow::Result<()> {
    Socket::new(Domain::IPV4, Type::STREAM, None)
        .and_then(|socket| socket.set_mark(mark))
        .context(
            "--mark can't be set on sockets: that needs NET_ADMIN or, since Linux 5.17, NET_RAW",
        )
}

/// Two file descriptors per connection: the usual soft limit of 1024 is for programs that use select(2).
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
