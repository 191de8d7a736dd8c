//! The controller's life: open the authority, read the source, serve, stop.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use mesh_api::v1::{
    discovery_server::DiscoveryServer, identity_server::IdentityServer,
    observe_server::ObserveServer, telemetry_server::TelemetryServer,
};
use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::{
    admin::{self, Admin, LogLevel},
    ca::{Authority, Bundle},
    config::{Command, LogFormat, RunArgs, SourceKind},
    credentials::Credentials,
    discovery::{DiscoveryService, Hub},
    identity::IdentityService,
    listen::Listener,
    observe::{Observatory, ObserveService},
    server::{self, Services},
    source::{self, Directory, Event, Kubernetes, Source},
    telemetry::TelemetryService,
};

/// How long streams may take to end after SIGTERM.
const DRAIN: Duration = Duration::from_secs(2);
/// How often old figures are forgotten.
const AGING: Duration = Duration::from_secs(10);

/// Runs the command until it is done. Installs the process's crypto provider and builds its own runtime.
///
/// # Errors
/// What could not be opened or bound.
pub fn main(command: Command) -> anyhow::Result<()> {
    let Command::Run(args) = command;
    let log_level = start_logging(&args)?;
    // A provider that somebody else has installed is the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("controller")
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let stop = CancellationToken::new();
    let result = runtime.block_on(async {
        let stopping = stop.clone();
        let (mut term, mut interrupt) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping");
            stopping.cancel();
        });
        let mut registry = Registry::with_prefix("mesh_controller");
        match args.source {
            SourceKind::Directory => {
                let folder = args.directory.clone();
                let folder = folder.context("--source directory needs --directory")?;
                let source = Directory::new(folder, &mut registry);
                run(&args, source, registry, log_level, stop).await
            }
            SourceKind::Kubernetes => {
                let source = Kubernetes::new(source::connect().await?, &mut registry);
                run(&args, source, registry, log_level, stop).await
            }
        }
    });
    // Nothing that is still running is worth waiting for.
    runtime.shutdown_background();
    result
}

/// Serves from `source` until `stop`.
async fn run(
    args: &RunArgs,
    source: impl Source,
    mut registry: Registry,
    log_level: LogLevel,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let authority = Authority::open(
        &args.state_dir,
        &args.trust_domain,
        args.leaf_lifetime,
        SystemTime::now(),
    )?;
    let authority = Arc::new(authority);
    let credentials = Credentials::new(Arc::clone(&authority))?;
    let tls = credentials.config();
    let bundle = authority.bundle().borrow().clone();
    if let Some(file) = &args.bundle_file {
        bundle.write(file)?;
    }

    let source = Arc::new(source);
    let events = source.watch()?;
    let hub = Arc::new(Hub::new(&args.trust_domain, bundle, &mut registry));
    let observatory = Arc::new(Observatory::new(Arc::clone(&hub), &mut registry));
    let identity = IdentityService::new(Arc::clone(&source), Arc::clone(&authority), &mut registry);
    let discovery = DiscoveryService::new(Arc::clone(&hub), &mut registry);
    let telemetry = TelemetryService {
        observatory: Arc::clone(&observatory),
        stop: stop.clone(),
    };
    let services = Services {
        identity: IdentityServer::new(identity),
        discovery: DiscoveryServer::new(discovery),
        telemetry: TelemetryServer::new(telemetry),
    };

    // Bound before anything is served: a second controller finds out at once.
    let proxies = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("listening on {} for proxies", args.listen))?;
    let probes = TcpListener::bind(args.admin_listen).await;
    let probes =
        probes.with_context(|| format!("listening on {} for probes", args.admin_listen))?;
    let observers = match &args.observe_listen {
        None => None,
        Some(place) => Some(
            Listener::bind(place)
                .await
                .with_context(|| format!("listening on {place} for the CLI"))?,
        ),
    };
    let ready = Arc::new(AtomicBool::new(false));
    let admin = Arc::new(Admin {
        registry,
        ready: Arc::clone(&ready),
        log_level,
    });
    tokio::spawn(admin::serve(probes, admin));

    let (synced, mut is_synced) = watch::channel(false);
    tokio::spawn(follow_source(events, Arc::clone(&hub), synced));
    tokio::spawn(follow_bundle(
        authority.bundle(),
        Arc::clone(&hub),
        args.bundle_file.clone(),
    ));
    tokio::spawn(credentials.keep());
    tokio::spawn(age(Arc::clone(&observatory)));

    let connections = TaskTracker::new();
    if let Some(observers) = observers {
        let service = ObserveServer::new(ObserveService(observatory));
        tokio::spawn(observers.serve(service, stop.clone(), connections.clone()));
    }
    // A proxy that asks before everything has been read would hear that nothing is there. It can connect and
    // waits in the socket's queue.
    tokio::select! {
        result = is_synced.wait_for(|synced| *synced) => { result.context("the source ended before it was read")?; }
        () = stop.cancelled() => return Ok(()),
    }
    ready.store(true, Ordering::Release);
    tracing::info!(listen = %args.listen, trust_domain = args.trust_domain, "ready");
    server::serve_proxies(proxies, tls, services, stop, connections.clone()).await;

    hub.close();
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait())
        .await
        .is_err()
    {
        tracing::info!(connections = connections.len(), "connections were cut");
    }
    Ok(())
}

async fn follow_source(
    mut events: mpsc::Receiver<Event>,
    hub: Arc<Hub>,
    synced: watch::Sender<bool>,
) {
    while let Some(event) = events.recv().await {
        if event == Event::Synced {
            synced.send_replace(true);
        }
        hub.apply(event);
    }
    tracing::error!("the source has ended: changes are not seen any more; restart the controller");
}

async fn follow_bundle(
    mut bundle: watch::Receiver<Arc<Bundle>>,
    hub: Arc<Hub>,
    file: Option<PathBuf>,
) {
    while bundle.changed().await.is_ok() {
        let current = bundle.borrow_and_update().clone();
        tracing::info!(roots = current.roots.len(), "the trust bundle has changed");
        if let Some(file) = &file
            && let Err(error) = current.write(file)
        {
            tracing::error!(%error, "proxies that start will not know the new root");
        }
        hub.trust(current);
    }
}

async fn age(observatory: Arc<Observatory>) {
    let mut every = tokio::time::interval(AGING);
    loop {
        every.tick().await;
        observatory.age(Instant::now());
    }
}

fn start_logging(args: &RunArgs) -> anyhow::Result<LogLevel> {
    let filter: EnvFilter = args.log_level.parse().context("--log-level")?;
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // A process that contains several programs has one logger: the first.
    let _ = match args.log_format {
        LogFormat::Plain => registry.with(layer.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(layer.json()).try_init(),
    };
    Ok(handle)
}

#[cfg(test)]
mod tests;
