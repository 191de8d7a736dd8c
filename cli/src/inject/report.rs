//! What was done, for people: on standard error, so that it is not in the way of the manifests.

use std::{fmt, io::IsTerminal};

use super::change::Mode;
use crate::output::no_color;

/// All that there is to say.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) lines: Vec<Line>,
    /// Objects without pods.
    pub(super) others: usize,
}

/// About one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) title: String,
    pub(super) namespace: Option<String>,
    pub(super) outcome: Outcome,
    pub(super) remarks: Vec<String>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Changed,
    /// It is already as it should be.
    Unchanged(String),
    /// It can't be.
    Skipped(String),
}

impl Report {
    /// Prints it to standard error.
    pub(super) fn print(&self, mode: &Mode<'_>) {
        let color = std::io::stderr().is_terminal() && !no_color();
        for line in self.text(mode).lines() {
            let tone = match line.chars().next() {
                Some('√') => "32",
                Some('‼') => "33",
                _ => "0",
            };
            match color {
                true => eprintln!("\x1b[{tone}m{line}\x1b[0m"),
                false => eprintln!("{line}"),
            }
        }
    }

    fn text(&self, mode: &Mode<'_>) -> String {
        let verb = match mode {
            Mode::Label(_) => "will be injected",
            Mode::Render(_) => "injected",
            Mode::Remove => "uninjected",
        };
        let mut text = String::new();
        for line in &self.lines {
            text += &match &line.outcome {
                Outcome::Changed => format!("√ {line}: {verb}\n"),
                Outcome::Unchanged(why) => format!("- {line}: unchanged, {why}\n"),
                Outcome::Skipped(why) => format!("‼ {line}: not injected, {why}\n"),
            };
            for remark in &line.remarks {
                text += &format!("‼ {line}: {remark}\n");
            }
        }
        text += &match (self.lines.len(), self.others) {
            (0, 0) => "- nothing was read\n".to_owned(),
            (0, _) => "- there are no workloads in it: nothing was changed\n".to_owned(),
            (_, 0) => String::new(),
            (_, 1) => "- 1 object without pods: unchanged\n".to_owned(),
            (_, others) => format!("- {others} objects without pods: unchanged\n"),
        };
        text
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)?;
        match &self.namespace {
            Some(namespace) => write!(f, " in {namespace}"),
            None => Ok(()),
        }
    }
}
