//! The accepted figures: a table of benches/README.md between two marks.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use anyhow::Context as _;

use super::{
    cases::{CASES, Case},
    measure::Cost,
};

const BEGIN: &str = "<!-- micro: written by --accept -->\n";
const END: &str = "<!-- end of micro -->";
const LOST: &str = "benches/README.md has lost a mark of its table";
/// So much worse is a failure.
const TOLERANCE: f64 = 0.05;
/// What one decision of the compiler to inline or not costs; less than a thousandth of a request.
const FEW_INSTRUCTIONS: f64 = 50.0;
/// A table that grows now and then.
const FEW_ALLOCATIONS: f64 = 0.25;

/// The file, and what its table says.
pub(super) struct Table {
    path: PathBuf,
    text: String,
    accepted: BTreeMap<String, Cost>,
}

impl Table {
    pub(super) fn read() -> anyhow::Result<Self> {
        let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        let accepted = parts(&text)?.1.lines().filter_map(row).collect();
        Ok(Self {
            path,
            text,
            accepted,
        })
    }

    /// Figures beside the accepted ones.
    pub(super) fn print(&self, cases: &[&Case], costs: &BTreeMap<&'static str, Cost>) {
        println!(
            "{:<20} {:>13} {:>8} {:>12} {:>8}",
            "", "instructions", "", "allocations", ""
        );
        for case in cases {
            let Some(cost) = costs.get(case.name) else {
                continue;
            };
            let accepted = self.accepted.get(case.name);
            let change = |figure: fn(&Cost) -> f64| match accepted.map(figure) {
                Some(before) if before > 0.0 => {
                    format!("{:+.1} %", (figure(cost) / before - 1.0) * 100.0)
                }
                _ => String::new(),
            };
            println!(
                "{:<20} {:>13.0} {:>8} {:>12.2} {:>8}",
                case.name,
                cost.instructions,
                change(|cost| cost.instructions),
                cost.allocations,
                change(|cost| cost.allocations)
            );
        }
    }

    /// One line for each figure that is worse than what was accepted, by more than the tolerance.
    pub(super) fn worse(&self, costs: &BTreeMap<&'static str, Cost>) -> Vec<String> {
        let mut worse = Vec::new();
        for (name, cost) in costs {
            let Some(accepted) = self.accepted.get(*name) else {
                worse.push(format!("{name}: not in the table yet"));
                continue;
            };
            let mut compare = |what, figure: fn(&Cost) -> f64, few: f64| {
                let (now, before) = (figure(cost), figure(accepted));
                if now > before * (1.0 + TOLERANCE) + few {
                    worse.push(format!(
                        "{name}: {now:.1} {what}, {before:.1} were accepted"
                    ));
                }
            };
            compare("instructions", |cost| cost.instructions, FEW_INSTRUCTIONS);
            compare("allocations", |cost| cost.allocations, FEW_ALLOCATIONS);
        }
        worse
    }

    /// Writes the figures; cases that were not run keep theirs.
    pub(super) fn accept(&mut self, costs: &BTreeMap<&'static str, Cost>) -> anyhow::Result<()> {
        let mut table =
            "| operation | | instructions | allocations |\n|---|---|---|---|\n".to_owned();
        for case in CASES {
            let accepted = self.accepted.get(case.name);
            let Some(cost) = costs.get(case.name).or(accepted) else {
                continue;
            };
            let Cost {
                instructions,
                allocations,
            } = cost;
            let (name, what) = (case.name, case.what);
            writeln!(
                table,
                "| `{name}` | {what} | {instructions:.0} | {allocations:.2} |"
            )?;
        }
        let (before, _, after) = parts(&self.text)?;
        let text = [before, BEGIN, &table, END, after].concat();
        std::fs::write(&self.path, text).with_context(|| format!("writing {}", self.path.display()))
    }
}

/// What is before the table, the table, and what is after it, without the marks.
fn parts(text: &str) -> anyhow::Result<(&str, &str, &str)> {
    let (before, rest) = text.split_once(BEGIN).context(LOST)?;
    let (table, after) = rest.split_once(END).context(LOST)?;
    Ok((before, table, after))
}

/// "| `name` | what | instructions | allocations |".
fn row(line: &str) -> Option<(String, Cost)> {
    let mut cells = line.split('|').map(str::trim).skip(1);
    let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
    let mut figures = cells.skip(1).map(str::parse);
    let cost = Cost {
        instructions: figures.next()?.ok()?,
        allocations: figures.next()?.ok()?,
    };
    Some((name.to_owned(), cost))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_as_it_is_written() {
        let row = row("| `path/get/mtls` | both, with mutual TLS | 70123 | 21.50 |").unwrap();
        let cost = Cost {
            instructions: 70_123.0,
            allocations: 21.5,
        };
        assert_eq!(row, ("path/get/mtls".to_owned(), cost));
    }

    #[test]
    fn a_table_has_a_text_around_it() {
        let text = format!("before\n{BEGIN}{END}\nafter\n");
        assert_eq!(parts(&text).unwrap(), ("before\n", "", "\nafter\n"));
        assert!(parts("no table").is_err());
    }

    #[test]
    fn headings_are_no_rows() {
        assert_eq!(row("| operation | | instructions | allocations |"), None);
        assert_eq!(row("|---|---|---|---|"), None);
    }

    #[test]
    fn only_more_than_the_tolerance_is_worse() {
        let cost = |instructions| Cost {
            instructions,
            allocations: 10.0,
        };
        let table = Table {
            path: PathBuf::new(),
            text: String::new(),
            accepted: BTreeMap::from([("route".to_owned(), cost(10_000.0))]),
        };
        assert!(
            table
                .worse(&BTreeMap::from([("route", cost(10_549.0))]))
                .is_empty()
        );
        assert_eq!(
            table
                .worse(&BTreeMap::from([("route", cost(10_552.0))]))
                .len(),
            1
        );
        assert_eq!(table.worse(&BTreeMap::from([("new", cost(1.0))])).len(), 1);
    }
}
