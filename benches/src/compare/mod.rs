//! `compare`: the same work through every peer, in alternating rounds, on one machine.
//!
//! The path is always: load generator → (redirection → outbound proxy → mTLS → redirection → inbound
//! proxy) → nginx, in two network namespaces with a routing node between them.

mod app;
mod chart;
mod footprint;
mod peer;
mod process;
mod report;
mod results;
mod running;
mod scenario;
mod topology;

use std::{collections::BTreeSet, path::PathBuf};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};

use footprint::Footprint;
use peer::{Binaries, Peer};
use results::Results;
use running::Running;
use scenario::Scenario;

/// Compares proxies side by side.
#[derive(clap::Args, Debug)]
pub(crate) struct CompareArgs {
    /// One short round: under three minutes.
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
    /// Data threads of mesh; it takes part once with each number.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    workers: Vec<u8>,
    /// Folder with `mesh-proxy` and `mesh-controller`. Default: where this program is.
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// Leave out what takes longest and is not about speed: idle connections, and memory when all is over.
    #[arg(long)]
    no_footprint: bool,
    /// Write all figures as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw CPU per request as SVG.
    #[arg(long)]
    svg: Option<PathBuf>,
}

/// Runs the comparison and prints its tables.
pub(crate) fn run(args: &CompareArgs) -> anyhow::Result<()> {
    let mesh = Binaries::find(args.binaries.as_deref())?;
    // Inherited by the proxies, the load generator and nginx, which have ten thousand connections for a while.
    crate::open_files::raise()?;
    topology::enter()?;
    let mut peers = Peer::named(&args.peers, &mesh, &args.workers)?;
    for path in &args.peer_file {
        peers.push(Peer::from_file(path)?);
    }
    let scenarios = Scenario::named(&args.scenarios, args.quick)?;
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 5 });
    let mut results = Results::new(&peers);
    let bar = ProgressBar::new((rounds * peers.len() * (scenarios.len() + 2)) as u64);
    bar.set_style(ProgressStyle::with_template(
        "{elapsed:>4} {wide_bar} {pos}/{len} {msg}",
    )?);
    let mut failed = BTreeSet::new();
    for round in 0..rounds {
        // What ran just before warms or cools the machine: every other round runs backwards.
        if round > 0 {
            peers.reverse();
        }
        for peer in &peers {
            if failed.contains(&peer.name) {
                continue;
            }
            let step = |what: &str| {
                bar.set_message(format!("{} {what}", peer.name));
                bar.inc(1);
            };
            let round = run_peer(peer, &mesh, &scenarios, args, round, &mut results, step);
            if let Err(error) = round {
                // The others' figures are not worth less.
                bar.suspend(|| eprintln!("{} is left out: {error:#}", peer.name));
                failed.insert(peer.name.clone());
            }
        }
    }
    bar.finish_and_clear();
    report::print(&scenarios, &results);
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&results)?)?;
    }
    if let Some(path) = &args.svg {
        std::fs::write(path, chart::draw(&scenarios, &results))?;
    }
    anyhow::ensure!(failed.is_empty(), "without {failed:?}");
    Ok(())
}

/// One round of one peer, from its start to its end.
fn run_peer(
    peer: &Peer,
    mesh: &Binaries,
    scenarios: &[Scenario],
    args: &CompareArgs,
    round: usize,
    results: &mut Results,
    step: impl Fn(&str),
) -> anyhow::Result<()> {
    step("starts");
    let mut running = Running::start(peer, mesh).context("starting it")?;
    for scenario in scenarios {
        step(scenario.name);
        if peer.without.iter().any(|name| name == scenario.name) {
            continue;
        }
        let measured = scenario.run(&mut running).context(scenario.name)?;
        results.add(scenario.name, &peer.name, measured);
    }
    drop(running);
    step("at rest");
    // Once is enough: memory does not depend on what else the machine does.
    if round == 0 && peer.proxies.is_some() && !args.no_footprint {
        let mut running = Running::start(peer, mesh).context("starting it again")?;
        let footprint =
            Footprint::measure(peer, &mut running, args.quick).context("its footprint")?;
        results.add_footprint(&peer.name, footprint);
    }
    Ok(())
}
