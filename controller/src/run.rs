//! The controller's life: open the authority, read the source, serve, stop.

mod cluster;
mod sockets;

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use kube::Client;
use mesh_api::{
    log_filter,
    v1::{
        discovery_server::DiscoveryServer, identity_server::IdentityServer,
        observe_server::ObserveServer, telemetry_server::TelemetryServer,
    },
};
use prometheus_client::{
    metrics::gauge::Gauge,
    registry::{Registry, Unit},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing_subscriber::{layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::{
    admin::{self, Admin, LogLevel, Readiness},
    ca::{Authority, Bundle, SecretStore, Store, Terms},
    config::{Command, LogFormat, RunArgs, SourceKind},
    credentials::Credentials,
    discovery::{DiscoveryService, Hub},
    duties::Census,
    identity::IdentityService,
    observe::{Observatory, ObserveService},
    server::{self, Services},
    source::{self, Directory, Event, Kubernetes, Source},
    telemetry::TelemetryService,
};
use cluster::Cluster;
pub(crate) use cluster::Parts;
use sockets::Sockets;

/// How long streams may take to end after SIGTERM.
const DRAIN: Duration = Duration::from_secs(2);
/// How often old figures are forgotten.
const AGING: Duration = Duration::from_secs(10);
/// Between attempts to read the roots from the API server.
const OPEN_AGAIN: Duration = Duration::from_secs(2);

// What `/ready` says is being waited for.
const ROOTS: &str = "the roots of the certificate authority are still being read";
const OBJECTS: &str = "the source is still being read";
const STOPPING: &str = "the controller is stopping";

/// What the controller runs on.
enum Platform {
    /// One machine: roots are in a folder.
    Machine { state_dir: PathBuf },
    /// A cluster, in which this is one of several replicas.
    Cluster { client: Client, pod: String },
}

/// Runs the command until it is done. Installs the process's crypto provider and builds its own runtime.
///
/// # Errors
/// What could not be opened or bound.
pub fn main(command: Command) -> anyhow::Result<()> {
    let Command::Run(args) = command;
    args.check()?;
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
                let directory = args.directory.clone().context("--directory")?;
                let state_dir = args.state_dir.clone().context("--state-dir")?;
                let source = Directory::new(directory, &mut registry);
                let platform = Platform::Machine { state_dir };
                run(&args, source, platform, registry, log_level, stop).await
            }
            SourceKind::Kubernetes => {
                let pod = args.pod.clone().context("--pod")?;
                let client = source::connect().await?;
                let source = Kubernetes::new(client.clone(), &mut registry);
                let platform = Platform::Cluster { client, pod };
                run(&args, source, platform, registry, log_level, stop).await
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
    platform: Platform,
    mut registry: Registry,
    log_level: LogLevel,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // Bound before anything else: a second controller finds out at once, and probes are answered from the start.
    let sockets = Sockets::bind(args, matches!(platform, Platform::Cluster { .. })).await?;
    let readiness = Readiness::waiting_for([ROOTS, OBJECTS]);
    let admin = Arc::new(Admin {
        registry: OnceLock::new(),
        readiness: readiness.clone(),
        log_level,
    });
    tokio::spawn(admin::serve(sockets.probes, Arc::clone(&admin)));

    let Some(authority) = open_authority(args, &platform, &stop).await? else {
        return Ok(());
    };
    readiness.has(ROOTS);
    let credentials = Credentials::for_proxies(Arc::clone(&authority))?;
    let tls = credentials.config();
    let bundle = authority.bundle().borrow().clone();
    if let Some(file) = &args.bundle_file {
        bundle.write(file)?;
    }

    let source = Arc::new(source);
    let events = source.watch()?;
    let hub = Arc::new(Hub::new(&args.trust_domain, bundle, &mut registry));
    let census = Arc::new(Census::new());
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
    let (synced, mut is_synced) = watch::channel(false);
    let mut others = match (platform, sockets.webhook) {
        (Platform::Cluster { client, pod }, Some(webhook)) => {
            let parts = Parts {
                client,
                pod,
                authority: Arc::clone(&authority),
                census: Arc::clone(&census),
                hub: Arc::clone(&hub),
            };
            let cluster = Cluster::new(args, parts, &mut registry)?;
            tokio::spawn(cluster.run(webhook, is_synced.clone(), stop.clone()))
        }
        // Nobody else has these roots.
        _ => {
            let authority = Arc::clone(&authority);
            let stop = stop.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = authority.keep() => {}
                    () = stop.cancelled() => {}
                }
            })
        }
    };
    let expiry: Gauge = Gauge::default();
    registry.register_with_unit(
        "root_expiry_timestamp",
        "When the root that issues certificates expires, since the Unix epoch",
        Unit::Seconds,
        expiry.clone(),
    );
    // Everything has registered.
    let _ = admin.registry.set(registry);

    tokio::spawn(follow_source(events, Arc::clone(&hub), census, synced));
    tokio::spawn(follow_bundle(
        authority.bundle(),
        Arc::clone(&hub),
        args.bundle_file.clone(),
    ));
    tokio::spawn(credentials.keep());
    tokio::spawn(age(
        Arc::clone(&observatory),
        Arc::clone(&authority),
        expiry,
    ));
    tokio::spawn(async move { authority.follow().await });

    let connections = TaskTracker::new();
    if let Some(observers) = sockets.observers {
        let service = ObserveServer::new(ObserveService(observatory));
        tokio::spawn(observers.serve(service, stop.clone(), connections.clone()));
    }
    // A proxy that asks before everything has been read would hear that nothing is there. It can connect and
    // waits in the socket's queue.
    let read_all = tokio::select! {
        result = is_synced.wait_for(|synced| *synced) => result.map(|_| true).context("the source ended before it was read")?,
        () = stop.cancelled() => false,
    };
    if read_all {
        readiness.has(OBJECTS);
        tracing::info!(listen = %args.listen, trust_domain = args.trust_domain, "ready");
        let proxies = sockets.proxies;
        let serve = server::serve_proxies(proxies, tls, services, stop, connections.clone());
        tokio::select! {
            () = serve => {}
            // Without its other half it had better start again.
            result = &mut others => result.context("a part of the controller has failed")?,
        }
    }

    readiness.wait(STOPPING);
    hub.close();
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait())
        .await
        .is_err()
    {
        tracing::info!(connections = connections.len(), "connections were cut");
    }
    if !others.is_finished() {
        others
            .await
            .context("a part of the controller has failed")?;
    }
    Ok(())
}

/// On a cluster the roots are waited for, until `stop`: a controller that can't reach the API server stays
/// alive and says what it waits for.
async fn open_authority(
    args: &RunArgs,
    platform: &Platform,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Arc<Authority>>> {
    let terms = Terms {
        trust_domain: args.trust_domain.clone(),
        leaf_lifetime: args.leaf_lifetime,
        root_lifetime: args.root_lifetime,
    };
    loop {
        let store = match platform {
            Platform::Machine { state_dir } => Store::File(state_dir.join("ca.json")),
            Platform::Cluster { client, .. } => {
                let provided = args.ca_secret.as_deref();
                Store::Secret(SecretStore::new(client.clone(), &args.namespace, provided))
            }
        };
        let error = match Authority::open(store, terms.clone(), SystemTime::now()).await {
            Ok(authority) => return Ok(Some(Arc::new(authority))),
            Err(error) => error,
        };
        if matches!(platform, Platform::Machine { .. }) {
            return Err(error.into());
        }
        tracing::error!(%error, "there are no roots to issue certificates with; it is tried again");
        tokio::select! {
            () = tokio::time::sleep(OPEN_AGAIN) => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
}

async fn follow_source(
    mut events: mpsc::Receiver<Event>,
    hub: Arc<Hub>,
    census: Arc<Census>,
    synced: watch::Sender<bool>,
) {
    while let Some(event) = events.recv().await {
        census.apply(&event);
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

async fn age(observatory: Arc<Observatory>, authority: Arc<Authority>, expiry: Gauge) {
    let mut every = tokio::time::interval(AGING);
    loop {
        every.tick().await;
        observatory.age(Instant::now());
        let expires = authority.expires().unwrap_or_default();
        expiry.set(expires.try_into().unwrap_or(i64::MAX));
    }
}

fn start_logging(args: &RunArgs) -> anyhow::Result<LogLevel> {
    let filter = log_filter::parse(&args.log_level, admin::PROGRAM).context("--log-level")?;
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
