//! `mesh inject` and `mesh uninject`: manifests in, the same with proxies (or without) out.
//!
//! By default a pod template gets a label, and the webhook does the rest when its pods are made; `--manual`
//! renders the webhook's result. Documents that are not touched come out byte for byte as they went in. The
//! label is inserted into the text, which keeps comments and formatting; where that can't be done, and with
//! `--manual`, a document is written anew.

mod change;
mod document;
mod edit;
mod facts;
mod input;
mod report;
mod tree;
mod workload;

use change::{Change, Mode};
use document::Document;
use facts::{Facts, FactsArgs};
use input::Input;
use report::Report;

use crate::output::Output;

/// What to inject.
#[derive(Debug, clap::Args)]
#[command(after_help = INJECT_EXAMPLES)]
pub struct InjectArgs {
    /// Files, folders or http(s) addresses of manifests, YAML or JSON; "-" is standard input
    #[arg(required = true, value_name = "FILE")]
    sources: Vec<String>,
    /// Render the whole injected pods, as the webhook would, instead of asking it to
    #[arg(long)]
    manual: bool,
    #[command(flatten)]
    facts: FactsArgs,
}

/// What to free of the mesh.
#[derive(Debug, clap::Args)]
#[command(after_help = UNINJECT_EXAMPLES)]
pub struct UninjectArgs {
    /// Files, folders or http(s) addresses of manifests, YAML or JSON; "-" is standard input
    #[arg(required = true, value_name = "FILE")]
    sources: Vec<String>,
}

const INJECT_EXAMPLES: &str = "\
Examples:
  kubectl get deploy -o yaml | mesh inject - | kubectl apply -f -
  mesh inject app.yaml | kubectl apply -f -
  mesh inject --manual --ignore-cluster app.yaml > injected.yaml

What was injected, and what was not and why, is said on standard error. A namespace is opted in as a whole by
  kubectl label namespace NAME mesh.internal/inject=enabled";

const UNINJECT_EXAMPLES: &str = "\
Example:
  kubectl get deploy -o yaml | mesh uninject - | kubectl apply -f -";

/// Injects.
///
/// # Errors
/// A manifest can't be read, asks for what can't be done, or the cluster does not tell its settings.
pub fn inject(args: InjectArgs) -> anyhow::Result<()> {
    let inputs = input::read(&args.sources)?;
    let streams = documents(&inputs)?;
    let facts = Facts::find(args.facts, args.manual, &streams)?;
    let mode = match args.manual {
        true => Mode::Render(&facts),
        false => Mode::Label(&facts),
    };
    run(&streams, &mode)
}

/// Takes proxies and labels away.
///
/// # Errors
/// A manifest can't be read.
pub fn uninject(args: UninjectArgs) -> anyhow::Result<()> {
    let inputs = input::read(&args.sources)?;
    run(&documents(&inputs)?, &Mode::Remove)
}

fn documents(inputs: &[Input]) -> anyhow::Result<Vec<Vec<Document<'_>>>> {
    let streams = inputs
        .iter()
        .map(|input| document::split(&input.name, &input.text));
    streams.collect()
}

/// Nothing is printed unless all went well: half of the manifests must not reach a cluster.
fn run(streams: &[Vec<Document<'_>>], mode: &Mode<'_>) -> anyhow::Result<()> {
    let mut report = Report::default();
    let mut output = String::new();
    for documents in streams {
        separate(&mut output, documents);
        for document in documents {
            let Change {
                text,
                lines,
                others,
            } = change::change(document, mode)?;
            output.push_str(&text);
            report.lines.extend(lines);
            report.others += others;
        }
    }
    Output::stdout().text(&output)?;
    report.print(mode);
    Ok(())
}

/// Between two files.
fn separate(output: &mut String, next: &[Document<'_>]) {
    let has_marker = next
        .first()
        .is_some_and(|document| document.text.starts_with("---"));
    if output.is_empty() || next.is_empty() {
        return;
    }
    if !output.ends_with('\n') {
        output.push('\n');
    }
    if !has_marker {
        output.push_str("---\n");
    }
}

#[cfg(test)]
mod tests;
