//! `mesh version`: of this command, of the controller's replicas, and of the proxies.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use crate::{
    client::{self, Inventory, Mesh, Target},
    output::{Format, Output},
};

/// Arguments of `mesh version`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Of this command only
    #[arg(long)]
    client: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    #[command(flatten)]
    mesh: Target,
}

/// What `mesh version -o json` prints.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Versions {
    client: String,
    /// Replicas by pod; on this machine the name is empty.
    controller: BTreeMap<String, String>,
    /// How many proxies have each version.
    proxies: BTreeMap<String, usize>,
    /// Not all are the same.
    skew: bool,
}

/// Runs `mesh version`.
///
/// # Errors
/// There is no mesh, or its controller does not answer; the version of this command is printed nevertheless.
pub fn run(args: Args) -> Result<()> {
    let client = env!("CARGO_PKG_VERSION");
    client::block_on(async {
        let inventory = match args.client {
            true => Ok(Inventory::default()),
            false => inventory(&args.mesh).await,
        };
        let known = inventory.as_ref().ok().cloned().unwrap_or_default();
        let versions = Versions::of(client, &known);
        let mut output = Output::stdout();
        match args.output {
            Format::Json => output.json(&versions, false)?,
            _ => output.text(&versions.text())?,
        }
        inventory.map(|_| ())
    })
}

async fn inventory(target: &Target) -> Result<Inventory> {
    Mesh::find(target).await?.observe().await?.inventory().await
}

impl Versions {
    fn of(client: &str, inventory: &Inventory) -> Self {
        let controller: BTreeMap<_, _> = inventory.replicas.iter().cloned().collect();
        let mut proxies = BTreeMap::new();
        for proxy in &inventory.all.proxies {
            *proxies.entry(proxy.version.clone()).or_default() += 1;
        }
        let others = controller.values().chain(proxies.keys());
        Self {
            skew: others.clone().any(|version| version != client),
            client: client.into(),
            controller,
            proxies,
        }
    }

    fn text(&self) -> String {
        let mut replicas: BTreeMap<&str, usize> = BTreeMap::new();
        for version in self.controller.values() {
            *replicas.entry(version).or_default() += 1;
        }
        let proxies = self
            .proxies
            .iter()
            .map(|(version, n)| (version.as_str(), *n));
        let mut text = format!("client      {}\n", self.client);
        for (what, versions) in [
            ("controller", replicas.into_iter().collect::<Vec<_>>()),
            ("proxies", proxies.collect()),
        ] {
            let parts: Vec<String> = versions
                .iter()
                .map(|(version, number)| format!("{version} ({number})"))
                .collect();
            if !parts.is_empty() {
                text.push_str(&format!("{what:<12}{}\n", parts.join(", ")));
            }
        }
        if self.skew {
            text.push_str(
                "‼ not all the same: mesh upgrade for the controller, kubectl rollout restart for pods with older proxies\n",
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use mesh_api::v1::{InventoryResponse, ProxyInfo};

    use super::*;

    fn inventory(controllers: &[&str], proxies: &[&str]) -> Inventory {
        let replicas = controllers.iter().enumerate();
        let proxy = |version: &&str| ProxyInfo {
            version: (*version).into(),
            ..ProxyInfo::default()
        };
        Inventory {
            replicas: replicas
                .map(|(i, v)| (format!("c-{i}"), (*v).to_owned()))
                .collect(),
            all: InventoryResponse {
                proxies: proxies.iter().map(proxy).collect(),
                ..InventoryResponse::default()
            },
        }
    }

    #[test]
    fn skew_shows() {
        let same = Versions::of("0.2.0", &inventory(&["0.2.0", "0.2.0"], &["0.2.0"]));
        assert!(!same.skew);
        assert_eq!(
            same.text(),
            "client      0.2.0\ncontroller  0.2.0 (2)\nproxies     0.2.0 (1)\n"
        );
        let mixed = Versions::of(
            "0.2.0",
            &inventory(&["0.2.0"], &["0.1.0", "0.2.0", "0.1.0"]),
        );
        assert!(mixed.skew);
        assert!(
            mixed.text().contains("0.1.0 (2), 0.2.0 (1)\n‼"),
            "{}",
            mixed.text()
        );
    }

    #[test]
    fn alone_it_is_short() {
        let alone = Versions::of("0.2.0", &Inventory::default());
        assert_eq!(alone.text(), "client      0.2.0\n");
    }
}
