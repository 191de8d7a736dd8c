//! `mesh up`: runs manifests as a mesh on this machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use jiff::SignedDuration;
use mesh_api::local::{ListRequest, ListResponse, LogsRequest};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};

use crate::{
    client::{LocalMesh, block_on, call},
    local::{self, Inject, Mesh, Options, Source},
};

/// How often the mesh is looked at, before and after it is ready.
const EAGER: Duration = Duration::from_millis(50);
const CALM: Duration = Duration::from_secs(1);
/// When to say that something is slow.
const SLOW: Duration = Duration::from_secs(15);
/// Between the end of the mesh's sockets and of its processes.
const MOMENT: Duration = Duration::from_millis(300);

/// What to run, and how.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file or folder with manifests; "-" is the standard input. May be given more than once.
    #[arg(short, long = "file", value_name = "FILE|DIR", required = true)]
    files: Vec<PathBuf>,
    /// The name of this mesh, if several run on one machine.
    #[arg(long, default_value = "default", env = "MESH_NAME")]
    name: String,
    /// The namespace of objects that name none.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Which pods get a proxy: all but those labelled mesh.internal/inject: disabled, only those labelled enabled,
    /// or none.
    #[arg(long, default_value = "all")]
    inject: Inject,
    /// Return when everything is ready, and let it run until `mesh down`.
    #[arg(short, long)]
    detach: bool,
    /// Fail if not everything is ready after this time.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "60s")]
    wait: Option<SignedDuration>,
    /// Print what the pods print.
    #[arg(long, conflicts_with = "detach")]
    logs: bool,
    /// The lifetime of certificates.
    #[arg(long, value_name = "TIME")]
    leaf_lifetime: Option<SignedDuration>,
    /// The lifetime of root certificates.
    #[arg(long, value_name = "TIME")]
    root_lifetime: Option<SignedDuration>,
    /// The log level of the proxies and the controller.
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    log_level: String,
}

/// Starts the mesh, and ends it with Ctrl-C.
///
/// # Errors
/// The manifests can't be read, or the mesh does not start or ends badly.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    block_on(async { up(args).await.map(|()| ExitCode::SUCCESS) })
}

async fn up(args: Args) -> anyhow::Result<()> {
    // Before anything is started: a signal from here on ends the mesh in order.
    let mut signals = [
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    ];
    let options = Options {
        name: args.name.clone(),
        manifests: args
            .files
            .iter()
            .map(|path| source(path))
            .collect::<Result<_, _>>()?,
        namespace: args.namespace.clone(),
        inject: args.inject,
        leaf_lifetime: args.leaf_lifetime.map(lifetime),
        root_lifetime: args.root_lifetime.map(lifetime),
        log_level: args.log_level.clone(),
        detached: args.detach,
        ..Options::default()
    };
    let mut mesh = Mesh::start(options).await?;
    let address = mesh.address().clone();
    let [interrupt, terminate, hangup] = &mut signals;
    let result = tokio::select! {
        result = serve(&args, &address) => result,
        ended = mesh.ended() => return ended.map(|()| println!("The mesh has ended.")),
        _ = interrupt.recv() => return mesh.stop().await,
        _ = terminate.recv() => return mesh.stop().await,
        _ = hangup.recv() => return mesh.stop().await,
    };
    match result {
        // Ready, and to be left alone.
        Ok(()) => Ok(()),
        // A call that failed because the mesh has ended says less than the end itself.
        Err(error) => match timeout(MOMENT, mesh.ended()).await {
            Ok(ended) => ended,
            Err(_) => mesh.stop().await.and(Err(error)),
        },
    }
}

/// Tells how the mesh is, until the end; or until it is ready, where it is to be left alone then.
async fn serve(args: &Args, address: &LocalMesh) -> anyhow::Result<()> {
    let patience = match args.wait {
        Some(wait) => wait.try_into().context("--wait must not be negative")?,
        None => SLOW,
    };
    let mut client = address.local().await?;
    let mut told = Told::default();
    let deadline = Instant::now() + patience;
    let (mut ready, mut slow) = (false, false);
    loop {
        let list = call(client.list(ListRequest {})).await?;
        told.tell(&list);
        if !ready && list.ready {
            ready = true;
            tell_ready(args, &list);
            if args.detach {
                return Ok(());
            }
            if args.logs {
                tokio::spawn(follow(address.clone()));
            }
        }
        if !ready && !slow && Instant::now() > deadline {
            let unready = format!("not ready after {patience:?}:\n{}", local::unready(&list));
            if args.wait.is_some() {
                bail!("{unready}");
            }
            slow = true;
            eprintln!(
                "{unready}\nStill waiting. See what they print: mesh local logs NAMESPACE/POD"
            );
        }
        sleep(if ready { CALM } else { EAGER }).await;
    }
}

/// What the user has been told already.
#[derive(Default)]
struct Told {
    warnings: BTreeSet<String>,
    /// Why each pod was restarted last.
    restarts: BTreeMap<String, String>,
}

impl Told {
    fn tell(&mut self, list: &ListResponse) {
        for warning in &list.warnings {
            if self.warnings.insert(warning.clone()) {
                eprintln!("Warning: {warning}");
            }
        }
        // One that was repaired and comes back is news.
        self.warnings
            .retain(|warning| list.warnings.contains(warning));
        for pod in list.pods.iter().filter(|pod| pod.restarts > 0) {
            let name = format!("{}/{}", pod.namespace, pod.name);
            if !pod.reason.is_empty() && self.restarts.get(&name) != Some(&pod.reason) {
                eprintln!("{name} is restarted: {}", pod.reason);
                self.restarts.insert(name, pod.reason.clone());
            }
        }
    }
}

fn tell_ready(args: &Args, list: &ListResponse) {
    let meshed = list.pods.iter().filter(|pod| pod.meshed).count();
    match list.pods.len() {
        1 => println!(
            "1 pod is ready, {}.",
            if meshed == 1 { "meshed" } else { "not meshed" }
        ),
        pods => println!("{pods} pods are ready, {meshed} of them meshed."),
    }
    let name = match args.name.as_str() {
        "default" => String::new(),
        name => format!(" --name {name}"),
    };
    let pod = list.pods.first().map_or_else(
        || "NAMESPACE/POD".to_owned(),
        |pod| format!("{}/{}", pod.namespace, pod.name),
    );
    let workload = list
        .pods
        .first()
        .map_or("NAME", |pod| pod.workload.as_str());
    let namespace = list
        .pods
        .first()
        .map_or("default", |pod| pod.namespace.as_str());
    let namespace = match namespace {
        "default" => String::new(),
        namespace => format!(" -n {namespace}"),
    };
    println!(
        "  mesh stat{name}                        success rate, requests per second, latency\n  \
         mesh local ps{name}                    the pods\n  \
         mesh local exec{name} {pod} -- sh\n  \
         mesh local scale{name}{namespace} {workload} 3\n  \
         mesh local restart{name}{namespace} {workload}\n  \
         mesh local delete{name} {pod}"
    );
    match args.detach {
        true => println!("mesh down{name} ends it."),
        false => println!("Ctrl-C ends it."),
    }
}

/// Prints what all pods print.
async fn follow(address: LocalMesh) -> anyhow::Result<()> {
    let request = LogsRequest {
        follow: true,
        ..LogsRequest::default()
    };
    let mut lines = address.local().await?.logs(request).await?.into_inner();
    while let Some(line) = lines.message().await? {
        println!("{} | {}", line.source, line.line);
    }
    Ok(())
}

/// As the controller's flags take it.
fn lifetime(time: SignedDuration) -> String {
    format!("{}s", time.as_secs())
}

fn source(path: &Path) -> anyhow::Result<Source> {
    if path != Path::new("-") {
        return Ok(Source::Path(path.to_owned()));
    }
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .context("cannot read the standard input")?;
    Ok(Source::Text {
        name: "the standard input".into(),
        text,
    })
}
