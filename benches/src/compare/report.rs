//! Tables: median (minimum–maximum), and ratios to direct and to mesh.

use std::collections::BTreeMap;

use super::scenario::{Measured, Scenario};

/// Scenario → peer → one entry a round.
pub(super) type Results = BTreeMap<String, BTreeMap<String, Vec<Measured>>>;

/// One table a scenario, on standard output.
pub(super) fn print(scenarios: &[Scenario], results: &Results) {
    for scenario in scenarios {
        let Some(peers) = results.get(scenario.name) else {
            continue;
        };
        println!("{}: {}", scenario.name, scenario.what);
        println!(
            "{:<18} {:>24} {:>8} {:>8} {:>22} {:>10} {:>8} {:>15} {:>7}",
            "",
            "requests/s",
            "p50 ms",
            "p99 ms",
            "CPU µs/request",
            "CPU s/GB",
            "× mesh",
            "RSS MB",
            "errors"
        );
        let ours = peers.get("mesh").map(|runs| median(runs, |run| run.cpu_us));
        for (name, runs) in peers {
            let ratio = match ours {
                Some(ours) if name != "direct" => {
                    format!("{:.2}", median(runs, |run| run.cpu_us) / ours)
                }
                _ => "-".into(),
            };
            println!(
                "{:<18} {:>24} {:>8.2} {:>8.2} {:>22} {:>10.2} {:>8} {:>15} {:>7}",
                name,
                spread(runs, 0, |run| run.requests_per_s),
                median(runs, |run| run.p50_us as f64) / 1e3,
                median(runs, |run| run.p99_us as f64) / 1e3,
                spread(runs, 1, |run| run.cpu_us),
                median(runs, |run| run.cpu_s_per_gb),
                ratio,
                format!(
                    "{:.1} + {:.1}",
                    median(runs, |run| run.rss[0] as f64) / 1e6,
                    median(runs, |run| run.rss[1] as f64) / 1e6
                ),
                runs.iter().map(|run| run.errors).sum::<u64>(),
            );
        }
        println!();
    }
}

/// The median of a figure over the rounds.
pub(super) fn median(runs: &[Measured], figure: impl Fn(&Measured) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

fn spread(runs: &[Measured], digits: usize, figure: impl Fn(&Measured) -> f64) -> String {
    let low = runs.iter().map(&figure).fold(f64::INFINITY, f64::min);
    let high = runs.iter().map(&figure).fold(0.0, f64::max);
    format!(
        "{:.digits$} ({low:.digits$}–{high:.digits$})",
        median(runs, figure)
    )
}
