//! `mesh upgrade`: this program's version of the manifests, with the options of the installed mesh.

use anyhow::{Result, bail};
use mesh_api::names;

use super::{How, Manifests, apply::delete, installed, object::Reference, options::Options};
use crate::{client::block_on, cluster::Cluster};

/// What `mesh upgrade` takes.
#[derive(Debug, clap::Args)]
pub struct UpgradeArgs {
    // What is not said stays as it was.
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    how: How,
}

/// Runs `mesh upgrade`.
///
/// # Errors
/// No mesh is installed, another trust domain, options that can't work, or a cluster that refuses.
pub fn run(args: UpgradeArgs) -> Result<()> {
    block_on(async {
        let cluster = Cluster::connect(&args.how.cluster).await?;
        let Some(kept) = installed::options(&cluster).await? else {
            bail!(
                "No mesh is installed in the cluster of context {:?}: install one with mesh install",
                cluster.context()
            );
        };
        let domain = kept.trust_domain.clone();
        let options = args.options.or(kept);
        if options
            .trust_domain
            .as_deref()
            .unwrap_or(names::TRUST_DOMAIN)
            != domain.as_deref().unwrap_or(names::TRUST_DOMAIN)
        {
            bail!(
                "The trust domain of an installed mesh can't change, because no proxy would know another one any more: \
                 leave --trust-domain out, or uninstall the mesh and install it anew"
            );
        }
        let manifests = Manifests::render(&options)?;
        let leftovers = leftovers(&manifests, installed::objects(&cluster).await?)?;
        if args.how.apply {
            manifests.apply(&cluster, args.how.wait).await?;
            return delete(&cluster, &leftovers, &mut std::io::stdout()).await;
        }
        manifests.print()?;
        for leftover in leftovers {
            eprintln!(
                "mesh: {leftover} is no longer part of the mesh; when this is applied: kubectl delete {leftover}"
            );
        }
        Ok(())
    })
}

/// The installed objects that the manifests no longer have.
fn leftovers(manifests: &Manifests, installed: Vec<Reference>) -> Result<Vec<Reference>> {
    let wanted = manifests.objects.iter().map(Reference::of);
    let wanted: Vec<_> = wanted.collect::<Result<_>>()?;
    Ok(installed
        .into_iter()
        .filter(|reference| !wanted.contains(reference))
        .collect())
}
