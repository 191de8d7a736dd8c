//! `mesh check`: is everything as it has to be, and if not, why, and what to do.
//!
//! Three steps that know nothing of each other: what is so (`gather`), what that means (`judge`, pure), and how it is told
//! (`report`). The codes of the checks and what `--explain` says of them are in `codes`.

pub mod codes;
pub mod facts;
mod gather;
mod judge;
mod line;
mod report;
mod spinner;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

pub use line::{Advice, Line, Outcome};

use self::{gather::Asked, spinner::Spinner};
use crate::{
    client::{self, LocalMesh, Mesh, Target},
    cluster::Cluster,
    output::{Format, Output},
    resource,
};

/// Between two looks while waiting.
const AGAIN: Duration = Duration::from_secs(1);

/// Arguments of `mesh check`.
///
/// The exit status is 0 when no check fails (warnings are no failures), else 1.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Before an installation: is this cluster fit for a mesh, and may you install one
    #[arg(long, conflicts_with = "proxy")]
    pre: bool,
    /// The data plane, too: proxies, their certificates and versions, namespaces
    #[arg(long)]
    proxy: bool,
    /// The data plane of this namespace only; means --proxy
    #[arg(short, long, value_name = "NAMESPACE", conflicts_with = "pre")]
    namespace: Option<String>,
    /// Go on looking for so long until nothing fails
    #[arg(long, value_name = "DURATION", value_parser = resource::parse_duration)]
    wait: Option<Duration>,
    /// Say what a check is about, and what to do when it fails
    #[arg(long, value_name = "CODE", exclusive = true)]
    explain: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    mesh: Target,
}

/// Runs `mesh check`.
///
/// # Errors
/// There is nothing to check, or no such code to explain.
pub fn run(args: Args) -> Result<ExitCode> {
    let mut output = Output::stdout();
    if let Some(code) = &args.explain {
        let Some(code) = codes::find(code) else {
            let known: Vec<&str> = codes::ALL.iter().map(|code| code.code).collect();
            bail!(
                "There is no check {code:?}. There are: {}.",
                known.join(" ")
            );
        };
        output.text(&report::explanation(code))?;
        return Ok(ExitCode::SUCCESS);
    }
    client::block_on(async {
        let subject = Subject::of(&args).await?;
        let lines = watch(&subject, &args).await;
        match args.output {
            Format::Json => output.json(&report::Report::of(&lines), false)?,
            _ => output.text(&report::text(&lines, output.color))?,
        }
        Ok(match lines.iter().any(Line::is_failure) {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        })
    })
}

/// What is checked.
enum Subject {
    Cluster(Cluster),
    Machine(LocalMesh),
}

impl Subject {
    async fn of(args: &Args) -> Result<Self> {
        // A cluster is what is looked at before an installation, whatever runs here.
        if args.pre && args.mesh.local.name.is_none() {
            return Ok(Self::Cluster(Cluster::connect(&args.mesh.cluster).await?));
        }
        match Mesh::find(&args.mesh).await? {
            Mesh::Cluster(cluster) => Ok(Self::Cluster(cluster)),
            Mesh::Local(_) if args.pre => {
                bail!(
                    "--pre is about a cluster; the name of a mesh on this machine says otherwise."
                )
            }
            Mesh::Local(mesh) => Ok(Self::Machine(mesh)),
        }
    }

    async fn look(&self, asked: Asked<'_>) -> Vec<Line> {
        match self {
            Self::Cluster(cluster) => judge::all(&gather::cluster(cluster, asked).await),
            Self::Machine(mesh) => judge::machine::lines(&gather::machine(mesh).await),
        }
    }
}

/// Looks until nothing fails, or the time is over.
async fn watch(subject: &Subject, args: &Args) -> Vec<Line> {
    let asked = Asked {
        pre: args.pre,
        proxy: args.proxy || args.namespace.is_some(),
        namespace: args.namespace.as_deref(),
    };
    let end = args.wait.map(|wait| Instant::now() + wait);
    let mut spinner = Spinner::new(args.output != Format::Json);
    loop {
        let lines = spinner.during(subject.look(asked)).await;
        let failure = lines.iter().find(|line| line.is_failure());
        let (Some(failure), Some(end)) = (failure, end) else {
            return lines;
        };
        if Instant::now() >= end {
            return lines;
        }
        spinner.say(report::reason(failure));
        spinner.during(tokio::time::sleep(AGAIN)).await;
    }
}

#[cfg(test)]
mod tests;
