//! `mesh install`, `mesh upgrade`, `mesh uninstall`.
//!
//! In: a few options. Out: manifests for `kubectl apply -f -`, or, with `--apply`, the cluster as they say. The
//! manifests are those of the chart in `install/chart`, so that Helm makes the same objects.

mod apply;
mod chart;
mod installed;
mod object;
mod options;
mod ownership;
mod quantity;
mod ready;
mod settings;
mod template;
mod uninstall;
mod upgrade;

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::{Result, bail};
pub use options::Options;
use serde_json::Value;
pub use uninstall::{UninstallArgs, run as uninstall};
pub use upgrade::{UpgradeArgs, run as upgrade};

use crate::{
    client::block_on,
    cluster::{Cluster, ClusterArgs},
    resource::parse_duration,
};

/// What `mesh install` takes.
#[derive(Debug, clap::Args)]
pub struct InstallArgs {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    how: How,
}

/// Whether to print or to do.
#[derive(Debug, clap::Args)]
pub(crate) struct How {
    /// Apply to the cluster and wait until the controller is ready, instead of printing manifests
    #[arg(long)]
    apply: bool,
    /// With --apply: how long the controller may take to be ready; 0s does not wait
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    wait: Duration,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs `mesh install`.
///
/// # Errors
/// Options that can't work; with `--apply`, a cluster that refuses, or a controller that is not ready in time.
pub fn install(args: InstallArgs) -> Result<()> {
    let manifests = Manifests::render(&args.options)?;
    if !args.how.apply {
        return manifests.print();
    }
    block_on(async {
        let cluster = Cluster::connect(&args.how.cluster).await?;
        if let Some(kept) = installed::options(&cluster).await? {
            // The same command again is a repair; another one is most likely a mistake.
            let said = Options {
                version: None,
                ..args.options.clone()
            };
            if kept != said.or(Options::default()) {
                bail!(
                    "A mesh is installed in the cluster of context {:?} already, with other options. To change it: \
                     mesh upgrade --apply, which keeps the options that you don't say again",
                    cluster.context()
                );
            }
        }
        manifests.apply(&cluster, args.how.wait).await
    })
}

/// What an installation consists of.
struct Manifests {
    text: String,
    objects: Vec<Value>,
}

impl Manifests {
    fn render(options: &Options) -> Result<Self> {
        let text = chart::render(&options.values()?)?;
        let objects = chart::objects(&text)?;
        Ok(Self { text, objects })
    }

    fn print(&self) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(self.text.as_bytes())?;
        Ok(out.flush()?)
    }

    async fn apply(&self, cluster: &Cluster, wait: Duration) -> Result<()> {
        let mut out = io::stdout();
        apply::apply(cluster, &self.objects, &mut out).await?;
        if !wait.is_zero() {
            ready::wait(cluster, wait, &mut out).await?;
        }
        Ok(())
    }
}
