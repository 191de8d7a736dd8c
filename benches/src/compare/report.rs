//! Tables: median (minimum–maximum), and ratios to direct and to mesh.

use super::{
    footprint::Footprint,
    results::{Results, Spread},
    scenario::{Measured, Scenario},
};

/// What ratios are to.
const DIRECT: &str = "direct";
const OURS: &str = "mesh";

/// A heading, and a row for each peer. Columns are as wide as what is in them.
struct Table {
    rows: Vec<Vec<String>>,
}

/// One table a scenario, one of the footprints, and one of all in short, on standard output.
pub(super) fn print(scenarios: &[Scenario], results: &Results) {
    for scenario in scenarios {
        let title = format!("{}: {}", scenario.name, scenario.what);
        scenario_table(scenario, results).print(&title);
    }
    footprint_table(results).print("footprint: outbound + inbound proxy");
    summary(results).print("in short: medians");
}

fn scenario_table(scenario: &Scenario, results: &Results) -> Table {
    let mut table = Table::new([
        "",
        "requests/s",
        "× direct",
        "p50 ms",
        "p99 ms",
        "≥ 40 ms",
        "CPU µs/request",
        "CPU s/GB",
        "× mesh",
        "errors",
    ]);
    let median = |peer: &str, figure: fn(&Measured) -> f64| {
        let runs = results.runs(scenario.name, peer)?;
        Spread::of(runs, figure).map(|spread| spread.median)
    };
    for peer in results.peers() {
        let Some(runs) = results.runs(scenario.name, peer) else {
            continue;
        };
        let spread = |figure: fn(&Measured) -> f64, digits| show(Spread::of(runs, figure), digits);
        let ratio = |to: &str, figure: fn(&Measured) -> f64| match (
            median(peer, figure),
            median(to, figure),
        ) {
            (Some(own), Some(to)) if to > 0.0 => format!("{:.2}", own / to),
            _ => String::new(),
        };
        table.rows.push(vec![
            peer.clone(),
            spread(|run| run.requests_per_s, 0),
            ratio(DIRECT, |run| run.requests_per_s),
            spread(|run| run.p50_us as f64 / 1e3, 2),
            spread(|run| run.p99_us as f64 / 1e3, 2),
            runs.iter().map(|run| run.delayed).sum::<u64>().to_string(),
            spread(|run| run.cpu_us, 1),
            spread(|run| run.cpu_s_per_gb, 2),
            ratio(OURS, |run| run.cpu_us),
            runs.iter().map(|run| run.errors).sum::<u64>().to_string(),
        ]);
    }
    table
}

fn footprint_table(results: &Results) -> Table {
    let mut table = Table::new([
        "",
        "ready ms",
        "stripped MB",
        "idle MB",
        "after h1 MB",
        "when it is gone MB",
        "× idle",
        "KB per idle connection",
    ]);
    let both = |rss: [Option<Spread>; 2], digits| {
        let [client, server] = rss.map(|side| side.map(|side| side.median));
        match (client, server) {
            (Some(client), Some(server)) => format!("{client:.digits$} + {server:.digits$}"),
            _ => String::new(),
        }
    };
    let sides = [0, 1];
    for peer in results.peers().iter().filter(|peer| *peer != DIRECT) {
        let Some(runs) = results.footprints(peer) else {
            continue;
        };
        let mb = |figure: fn(&Footprint) -> [u64; 2]| {
            both(
                sides.map(|side| Spread::of(runs, |run| figure(run)[side] as f64 / 1e6)),
                1,
            )
        };
        let after = results.runs("h1", peer).unwrap_or_default();
        let grown = Spread::of(runs, |run| {
            run.settled.iter().sum::<u64>() as f64 / run.idle.iter().sum::<u64>().max(1) as f64
        });
        let held: Vec<_> = runs.iter().filter_map(|run| run.per_connection).collect();
        let ready: Vec<_> = runs.iter().filter_map(|run| run.ready_ms).collect();
        let binary: Vec<_> = runs.iter().filter_map(|run| run.binary).collect();
        table.rows.push(vec![
            peer.clone(),
            show(Spread::of(&ready, |ms| *ms), 1),
            binary
                .first()
                .map_or_else(String::new, |bytes| format!("{:.1}", *bytes as f64 / 1e6)),
            mb(|run| run.idle),
            both(
                sides.map(|side| Spread::of(after, |run| run.rss[side] as f64 / 1e6)),
                1,
            ),
            mb(|run| run.settled),
            show(grown, 2),
            both(
                sides.map(|side| Spread::of(&held, |bytes| bytes[side] / 1e3)),
                1,
            ),
        ]);
    }
    table
}

fn summary(results: &Results) -> Table {
    let mut table = Table::new([
        "",
        "h1: requests/s · CPU µs",
        "1000 rps: p50 / p99 ms · CPU µs",
        "h2: CPU µs",
        "100 KB: CPU s/GB",
        "connect: CPU µs",
        "1000 connections: CPU µs",
    ]);
    for peer in results.peers() {
        let median = |scenario, digits: usize, figure: fn(&Measured) -> f64| {
            let spread = results
                .runs(scenario, peer)
                .and_then(|runs| Spread::of(runs, figure));
            spread.map_or_else(|| "-".to_owned(), |s| format!("{:.digits$}", s.median))
        };
        let cpu = |scenario| median(scenario, 0, |run| run.cpu_us);
        table.rows.push(vec![
            peer.clone(),
            format!(
                "{} · {}",
                median("h1", 0, |run| run.requests_per_s),
                cpu("h1")
            ),
            format!(
                "{} / {} · {}",
                median("open", 2, |run| run.p50_us as f64 / 1e3),
                median("open", 2, |run| run.p99_us as f64 / 1e3),
                cpu("open")
            ),
            cpu("h2"),
            median("bulk", 2, |run| run.cpu_s_per_gb),
            cpu("connect"),
            cpu("busy"),
        ]);
    }
    table
}

/// "12.3 (11.9–13.0)"; without what is the same in every round.
fn show(spread: Option<Spread>, digits: usize) -> String {
    let Some(Spread { median, min, max }) = spread else {
        return String::new();
    };
    if min == max {
        return format!("{median:.digits$}");
    }
    format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
}

impl Table {
    fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self {
            rows: vec![heading.map(str::to_owned).to_vec()],
        }
    }

    /// Prints it, unless it has a heading only.
    fn print(&self, title: &str) {
        let [heading, _, ..] = self.rows.as_slice() else {
            return;
        };
        println!("{title}");
        let width = |column: usize| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<_> = (0..heading.len()).map(width).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).enumerate();
            let cells = cells.map(|(column, (cell, width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
        println!();
    }
}
