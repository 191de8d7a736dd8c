//! `mesh demo`: a built-in application in a mesh on this machine, with the live view on top.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use anyhow::{Result, anyhow, bail};
use mesh_api::{local::ListRequest, v1::Selector};
use tokio::signal::unix::{SignalKind, signal};

pub mod app;
mod report;

use crate::{
    client::{self, LocalMesh},
    local::{self, Mesh, Options, Source},
    output::{Format, Output},
    resource,
    top::{self, collect::Query},
};
use report::Report;

/// The manifests of the application.
const SHOP: &str = include_str!("shop.yaml");
/// Its namespace.
const NAMESPACE: &str = "shop";
/// Starting takes two seconds; on a machine this slow nothing else works either.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// What the live view looks back.
const VIEW_WINDOW_S: u32 = 15;

/// Arguments of `mesh demo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run for so long without the live view, then print statistics
    #[arg(long = "for", value_name = "DURATION", value_parser = resource::parse_duration)]
    duration: Option<Duration>,
    /// Format of the statistics
    #[arg(
        short,
        long,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        requires = "duration"
    )]
    output: Format,
    /// Name of this mesh
    #[arg(long, default_value = "demo", value_name = "NAME")]
    name: String,
    /// Only print the application's manifests
    #[arg(long, conflicts_with = "duration")]
    print: bool,
}

/// Runs `mesh demo`.
///
/// # Errors
/// The mesh can't be started, a part of it ended by itself, or (with `--for`) something did not work.
pub fn run(args: Args) -> Result<()> {
    if args.print {
        return Ok(Output::stdout().text(SHOP)?);
    }
    let drawn = io::stdin().is_terminal() && io::stdout().is_terminal();
    if args.duration.is_none() && !drawn {
        bail!(
            "The live view needs a terminal. Without one, say how long to run: mesh demo --for 20s -o json"
        );
    }
    client::block_on(async {
        // Before anything is started: a signal from here on ends the mesh in order.
        let mut sigterm = signal(SignalKind::terminate())?;
        let mut sigint = signal(SignalKind::interrupt())?;
        let mut sighup = signal(SignalKind::hangup())?;
        let options = Options {
            name: args.name.clone(),
            manifests: vec![Source::Text {
                name: "shop.yaml".into(),
                text: SHOP.into(),
            }],
            ..Options::default()
        };
        let mut mesh = Mesh::start(options).await?;
        let address = mesh.address().clone();
        let outcome = tokio::select! {
            // The live view takes these signals too, as the wish to end it.
            biased;
            outcome = show(&args, address) => outcome,
            ended = mesh.ended() => match ended {
                Ok(()) => return Err(anyhow!("The mesh was ended: by mesh down?")),
                Err(error) => return Err(error.context("The mesh ended by itself")),
            },
            _ = sigterm.recv() => Err(anyhow!("Ended by SIGTERM.")),
            _ = sigint.recv() => Err(anyhow!("Interrupted.")),
            _ = sighup.recv() => Err(anyhow!("The terminal is gone.")),
        };
        mesh.stop().await?;
        outcome
    })
}

/// Shows the running demo until the time is over or the user has seen enough.
async fn show(args: &Args, mesh: LocalMesh) -> Result<()> {
    wait_until_ready(&mesh).await?;
    let Some(duration) = args.duration else {
        let query = Query {
            selectors: vec![Selector::default()],
            window_s: VIEW_WINDOW_S,
        };
        return top::view(mesh, query).await;
    };
    tokio::time::sleep(duration).await;
    let window_s = duration.as_secs().clamp(1, 600) as u32;
    let (mut observe, mut local) = (mesh.observe().await?, mesh.local().await?);
    let report = Report::fetch(&mut observe, &mut local, window_s).await?;
    report.print(&mut Output::stdout(), args.output)?;
    match report.failure() {
        None => Ok(()),
        Some(failure) => bail!("{failure}"),
    }
}

/// Tells on a terminal how the start goes.
async fn wait_until_ready(mesh: &LocalMesh) -> Result<()> {
    let progress = Progress {
        terminal: io::stderr().is_terminal(),
    };
    let mut client = mesh.local().await?;
    let watch = async {
        while let Ok(list) = client::call(client.list(ListRequest {})).await {
            let ready = list.pods.iter().filter(|pod| pod.ready).count();
            let all = list.pods.len();
            progress.write(&format!("starting: {ready} of {all} pods are ready"));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        std::future::pending().await
    };
    tokio::select! {
        ready = local::ready(mesh, START_TIMEOUT) => ready.map(|_| ()),
        never = watch => never,
    }
}

/// One line on a terminal that is written over and over, and wiped at the end.
struct Progress {
    terminal: bool,
}

impl Progress {
    fn write(&self, text: &str) {
        if self.terminal {
            // Carriage return, erase the line (ECMA-48 EL).
            let _ = write!(io::stderr(), "\r\x1b[K{text}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.write("");
    }
}
