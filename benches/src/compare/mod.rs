//! `compare`: the same work through every peer, in alternating rounds, on one machine.
//!
//! The path is always: load generator → (redirection → outbound proxy → mTLS → redirection → inbound
//! proxy) → nginx, in two network namespaces with a routing node between them.

mod app;
mod chart;
mod peer;
mod report;
mod scenario;
mod topology;

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Context as _;

use peer::Peer;
use scenario::{Measured, Scenario};

/// Compares proxies side by side.
#[derive(clap::Args, Debug)]
pub(crate) struct CompareArgs {
    /// Fewer and shorter rounds: under three minutes.
    #[arg(long)]
    quick: bool,
    /// Only these built-in peers (direct, mesh, haproxy, envoy). Default: those that are installed.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// A further pair of proxies, described in YAML; see README.md.
    #[arg(long)]
    peer_file: Vec<PathBuf>,
    /// Only these scenarios.
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<String>,
    /// Rounds; each runs every peer once, in the reverse order of the round before.
    #[arg(long)]
    rounds: Option<usize>,
    /// The `mesh` binary. Default: beside this one.
    #[arg(long)]
    mesh: Option<PathBuf>,
    /// Write all figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw CPU per request as SVG.
    #[arg(long)]
    svg: Option<PathBuf>,
}

/// Runs the comparison and prints its tables.
pub(crate) fn run(args: &CompareArgs) -> anyhow::Result<()> {
    let mesh = match &args.mesh {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("mesh"),
    };
    let mesh = mesh.canonicalize().with_context(|| {
        format!(
            "{} is missing: run cargo build --release -p mesh first",
            mesh.display()
        )
    })?;
    topology::enter()?;
    let mut peers = Peer::named(&args.peers, &mesh)?;
    for path in &args.peer_file {
        peers.push(Peer::from_file(path)?);
    }
    let scenarios = Scenario::named(&args.scenarios, args.quick)?;
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 5 });
    let mut results: BTreeMap<String, BTreeMap<String, Vec<Measured>>> = BTreeMap::new();
    for round in 0..rounds {
        // What ran just before warms or cools the machine: every other round runs backwards.
        peers.reverse();
        for peer in &peers {
            eprint!("\rround {}/{rounds}  {:<20}\x1b[K", round + 1, peer.name);
            let mut running = peer.start(&mesh)?;
            for scenario in &scenarios {
                eprint!(
                    "\rround {}/{rounds}  {:<20} {}\x1b[K",
                    round + 1,
                    peer.name,
                    scenario.name
                );
                let measured = scenario
                    .run(&mut running)
                    .with_context(|| format!("{} through {}", scenario.name, peer.name))?;
                let by_peer = results.entry(scenario.name.to_owned()).or_default();
                by_peer.entry(peer.name.clone()).or_default().push(measured);
            }
        }
    }
    eprintln!("\r\x1b[K");
    report::print(&scenarios, &results);
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&results)?)?;
    }
    if let Some(path) = &args.svg {
        std::fs::write(path, chart::draw(&scenarios, &results))?;
    }
    Ok(())
}
