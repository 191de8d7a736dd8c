//! `mesh uninstall`: everything that the mesh has in the cluster, for `kubectl delete -f -`.

use std::io::{self, Write};

use anyhow::{Result, bail};
use mesh_api::names;

use super::{apply::delete, installed, object::NAMESPACE};
use crate::{
    client::block_on,
    cluster::{Cluster, ClusterArgs},
};

/// So many pods are named; of more, the number is said.
const NAMED: usize = 5;

/// What `mesh uninstall` takes.
#[derive(Debug, clap::Args)]
pub struct UninstallArgs {
    /// Delete from the cluster, instead of printing what to delete
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs `mesh uninstall`.
///
/// # Errors
/// No mesh is installed, or the cluster can't be asked.
pub fn run(args: UninstallArgs) -> Result<()> {
    block_on(async {
        let cluster = Cluster::connect(&args.cluster).await?;
        let options = installed::options(&cluster).await?;
        let mut objects = installed::objects(&cluster).await?;
        let made = installed::made_by_controller(&cluster).await?;
        if objects.is_empty() && made.is_empty() {
            bail!(
                "The cluster of context {:?} has nothing of the mesh",
                cluster.context()
            );
        }
        // The controller must be gone before what it would make again; the namespace goes last.
        let namespace = objects.pop_if(|last| last.kind == NAMESPACE);
        objects.extend(made);
        objects.extend(namespace);

        warn(&installed::injected_pods(&cluster).await?);
        if let Some(secret) = options.and_then(|options| options.ca_secret) {
            eprintln!(
                "mesh: your own root in the Secret {secret} goes with the namespace {}: keep a copy if you need it",
                names::SYSTEM_NAMESPACE
            );
        }
        if args.apply {
            return delete(&cluster, &objects, &mut io::stdout()).await;
        }
        let manifests: String = objects.iter().map(|object| object.manifest()).collect();
        let mut out = io::stdout().lock();
        out.write_all(manifests.as_bytes())?;
        Ok(out.flush()?)
    })
}

fn warn(injected: &[String]) {
    if injected.is_empty() {
        return;
    }
    let mut pods = injected
        .iter()
        .take(NAMED)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if injected.len() > NAMED {
        pods.push_str(&format!(" and {} more", injected.len() - NAMED));
    }
    eprintln!(
        "mesh: {} pods still have a proxy ({pods}). Without the controller, their certificates end within a day, and with \
         them their traffic: take the mesh off first (mesh uninject, or the label {}), and restart them",
        injected.len(),
        names::LABEL_INJECT
    );
}
