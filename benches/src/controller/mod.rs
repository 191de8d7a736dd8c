//! `controller`: what the streams and the telemetry of many proxies cost one controller.
//!
//! The proxies are as small as can be (a TLS connection, a discovery stream and a telemetry stream each) and all live
//! in this process; the controller is the real one, in a process of its own, whose memory and CPU time the
//! kernel tells.

mod objects;
mod process;
mod proxy;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};

use objects::Objects;
use process::Controller;
use proxy::{Arrivals, Identity, Network, Proxy};

/// Handshakes at a time.
const CONCURRENT: usize = 64;
/// How long CPU time is taken.
const PERIOD: Duration = Duration::from_secs(10);
/// Changes of an endpoint that every proxy watches.
const FAN_OUTS: usize = 50;
/// Changes a second of endpoints that 1 in 20 proxies watches, as in a rollout.
const CHANGES_PER_SECOND: u32 = 20;

/// Measures one controller.
#[derive(clap::Args, Debug)]
pub(crate) struct ControllerArgs {
    /// How many proxies.
    #[arg(long, default_value_t = 2000)]
    proxies: usize,
    /// Services, of ten pods each.
    #[arg(long, default_value_t = 200)]
    services: usize,
    /// Destinations that each proxy watches.
    #[arg(long, default_value_t = 20)]
    watched: usize,
    /// Series in each proxy's report, once a second.
    #[arg(long, default_value_t = 20)]
    series: usize,
    /// The `mesh-controller` binary. Default: beside this one.
    #[arg(long)]
    controller: Option<PathBuf>,
}

/// Runs it and prints its figures.
pub(crate) fn run(args: &ControllerArgs) -> anyhow::Result<()> {
    let binary = match &args.controller {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("mesh-controller"),
    };
    let binary = binary.canonicalize().with_context(|| {
        format!(
            "{} is missing: run cargo build --release -p mesh-controller first",
            binary.display()
        )
    })?;
    // A provider that somebody else has installed is the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    // Two sockets a proxy are more than the usual 1024.
    crate::open_files::raise()?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(measure(args, &binary))
}

async fn measure(args: &ControllerArgs, binary: &std::path::Path) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("a scratch folder")?;
    let objects = Objects {
        folder: folder.path().join("objects"),
        services: args.services.max(1),
    };
    objects.write().context("writing the objects")?;
    let controller = Controller::start(binary, folder.path()).await?;
    println!(
        "{} services, {} pods read: {}",
        objects.services,
        objects.pods(),
        controller.memory()?
    );

    let started = Instant::now();
    let cpu = controller.cpu()?;
    let network = Arc::new(Network::new(
        controller.address(),
        folder.path().join("bundle.pem"),
    ));
    let proxies = connect(args, &objects, &network).await?;
    let took = started.elapsed();
    println!(
        "{} proxies certified, connected and told of {} destinations each in {:.1} s, {:.2} ms of CPU each: {}",
        args.proxies,
        args.watched,
        took.as_secs_f64(),
        (controller.cpu()? - cpu).as_secs_f64() * 1e3 / args.proxies as f64,
        controller.memory()?
    );

    sleep(Duration::from_secs(2)).await;
    load(&controller, "idle", sleep(PERIOD)).await?;
    fan_out(&objects, &network.arrivals, args.proxies).await?;
    let changes = async {
        let mut every = tokio::time::interval(Duration::from_secs(1) / CHANGES_PER_SECOND);
        for change in 0..PERIOD.as_secs() as usize * CHANGES_PER_SECOND as usize {
            every.tick().await;
            // The first service is the one that everybody watches.
            let service = 1 + change % (objects.services - 1).max(1);
            // The next round brings back what this one took away.
            let ready = change / (objects.services - 1).max(1) % 2 == 1;
            if let Err(error) = objects.write_slice(service, ready) {
                eprintln!("writing a slice: {error}");
            }
        }
    };
    load(
        &controller,
        &format!("{CHANGES_PER_SECOND} endpoints a second change"),
        changes,
    )
    .await?;
    let reporting: Vec<_> = proxies
        .iter()
        .enumerate()
        .map(|(n, proxy)| proxy.report(args.series, n as u32))
        .collect();
    sleep(Duration::from_secs(3)).await;
    load(
        &controller,
        &format!("each reports {} series a second", args.series),
        sleep(PERIOD),
    )
    .await?;
    drop(reporting);
    drop(proxies);
    sleep(Duration::from_secs(3)).await;
    println!("all proxies gone: {}", controller.memory()?);
    Ok(())
}

/// All proxies at once, as after a power cut; returns when each knows all that it asked for.
async fn connect(
    args: &ControllerArgs,
    objects: &Objects,
    network: &Arc<Network>,
) -> anyhow::Result<Vec<Proxy>> {
    let permits = Arc::new(Semaphore::new(CONCURRENT));
    let mut joining = JoinSet::new();
    for n in 0..args.proxies {
        let (network, permits) = (Arc::clone(network), Arc::clone(&permits));
        let pod = objects.pod(n);
        let destinations =
            (0..args.watched).map(|k| objects.destination(if k == 0 { 0 } else { n + k * 7 }));
        let destinations: Vec<_> = destinations.collect();
        joining.spawn(async move {
            let _permit = permits.acquire_owned().await?;
            let identity = Identity::certified(&network, &pod.token).await?;
            Proxy::join(&network, identity, pod, destinations).await
        });
    }
    let mut proxies = Vec::with_capacity(args.proxies);
    while let Some(joined) = joining.join_next().await {
        proxies.push(joined??);
        eprint!("\r{}/{} proxies\x1b[K", proxies.len(), args.proxies);
    }
    eprint!("\r\x1b[K");
    Ok(proxies)
}

/// CPU and memory while something happens.
async fn load(
    controller: &Controller,
    what: &str,
    happens: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (started, cpu) = (Instant::now(), controller.cpu()?);
    happens.await;
    let share = (controller.cpu()? - cpu).as_secs_f64() / started.elapsed().as_secs_f64();
    println!(
        "{what}: {:.1} % of a CPU, {}",
        share * 100.0,
        controller.memory()?
    );
    Ok(())
}

/// One endpoint changes, and every proxy hears of it.
async fn fan_out(objects: &Objects, arrivals: &Arrivals, proxies: usize) -> anyhow::Result<()> {
    let (mut halves, mut lasts) = (Vec::new(), Vec::new());
    for change in 0..FAN_OUTS {
        arrivals.expect(proxies);
        let sent = Instant::now();
        objects.write_slice(0, change % 2 == 1)?;
        let all = tokio::time::timeout(PERIOD, arrivals.all());
        let all = all.await.context("not every proxy heard of a change")?;
        halves.push(all[proxies / 2].duration_since(sent));
        lasts.push(all[proxies - 1].duration_since(sent));
        sleep(Duration::from_millis(100)).await;
    }
    halves.sort();
    lasts.sort();
    let ms = |times: &[Duration], percent: usize| {
        times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3
    };
    println!(
        "one endpoint that all {proxies} watch changes: half of them know in {:.0} ms, the last in {:.0} ms \
         (medians of {FAN_OUTS}); 99th percentile of the last {:.0} ms",
        ms(&halves, 50),
        ms(&lasts, 50),
        ms(&lasts, 99)
    );
    Ok(())
}
