//! `micro`: instructions and allocations of one operation, which repeat where times do not.
//!
//! Each case runs in a process of its own under callgrind, once with N operations and once with 2N; the
//! difference is what N operations cost, so that start-up, set-up and warm-up don't count. Instructions of
//! the kernel don't count either.

mod allocations;
mod cases;
mod cores;
mod measure;
mod path;
mod pod;
mod table;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use anyhow::{Context as _, bail};
use indicatif::ProgressBar;

use cases::{CASES, Case};
use measure::Cost;
use table::Table;

/// Counts instructions and allocations.
#[derive(clap::Args, Debug)]
pub(crate) struct MicroArgs {
    /// Only cases whose names contain one of these words.
    words: Vec<String>,
    /// Fail where a case costs 5 % more than the table in benches/README.md says.
    #[arg(long)]
    check: bool,
    /// Write the figures into that table.
    #[arg(long, conflicts_with = "check")]
    accept: bool,
    /// Run one case, and nothing else: what the program calls itself with.
    #[arg(long, hide = true, requires = "operations")]
    run: Option<String>,
    /// How often.
    #[arg(long, hide = true)]
    operations: Option<u64>,
}

/// Counts, prints, and compares with the table or writes it.
pub(crate) fn run(args: &MicroArgs) -> anyhow::Result<()> {
    if let (Some(name), Some(operations)) = (&args.run, args.operations) {
        let case = CASES.iter().find(|case| case.name == name);
        let case = case.with_context(|| format!("no case is called {name:?}"))?;
        println!("{}", (case.work)(operations));
        return Ok(());
    }
    let chosen = |case: &&Case| {
        args.words.is_empty() || args.words.iter().any(|word| case.name.contains(word))
    };
    let chosen: Vec<_> = CASES.iter().filter(chosen).collect();
    if chosen.is_empty() {
        let known: Vec<_> = CASES.iter().map(|case| case.name).collect();
        bail!(
            "no case has {} in its name: known are {}",
            args.words.join(" or "),
            known.join(", ")
        );
    }
    if let Err(reason) = measure::can_count() {
        // Not a failure: the figures are for those who can take them.
        eprintln!("micro: skipped, {reason}");
        return Ok(());
    }
    let costs = measure_all(&chosen)?;
    let mut table = Table::read()?;
    table.print(&chosen, &costs);
    if args.accept {
        table.accept(&costs)?;
    } else if args.check {
        let worse = table.worse(&costs);
        if !worse.is_empty() {
            bail!(
                "{}\nwhere that is worth it: cargo run --profile micro -p mesh-bench -- micro --accept",
                worse.join("\n")
            );
        }
    }
    Ok(())
}

/// As many cases at a time as there are CPUs: counts do not depend on who else runs.
fn measure_all(cases: &[&Case]) -> anyhow::Result<BTreeMap<&'static str, Cost>> {
    let (next, costs) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    // Draws on a terminal only.
    let bar = ProgressBar::new(cases.len() as u64);
    let work = || {
        while let Some(case) = cases.get(next.fetch_add(1, Relaxed)) {
            let cost = measure::cost(case).with_context(|| format!("the case {}", case.name))?;
            let mut costs = costs.lock().unwrap_or_else(PoisonError::into_inner);
            costs.insert(case.name, cost);
            bar.inc(1);
        }
        anyhow::Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        // A panic of a thread goes on here when the scope ends.
        handles
            .into_iter()
            .filter_map(|handle| handle.join().ok())
            .collect()
    });
    bar.finish_and_clear();
    results.into_iter().collect::<anyhow::Result<()>>()?;
    Ok(costs.into_inner().unwrap_or_else(PoisonError::into_inner))
}
