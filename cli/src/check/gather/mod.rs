//! Finds the facts out: asks the API server, the controller's replicas, and a mesh on this machine.
//!
//! Nothing here fails as a whole. What can't be found out is a sentence among the facts.

mod cluster;
mod control;
mod data;
mod webhook;

use jiff::Timestamp;

use super::{facts::Facts, judge::machine};
use crate::{
    client::{LocalMesh, Mesh, call},
    cluster::Cluster,
};

/// What to look at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked<'a> {
    /// Before anything is installed.
    pub(super) pre: bool,
    /// The data plane, too.
    pub(super) proxy: bool,
    /// The data plane of this namespace only.
    pub(super) namespace: Option<&'a str>,
}

/// Everything about a cluster that was asked for.
pub(super) async fn cluster(cluster: &Cluster, asked: Asked<'_>) -> Facts {
    let mut facts = Facts {
        now: Timestamp::now(),
        client_version: env!("CARGO_PKG_VERSION").into(),
        cluster: cluster::facts(cluster, asked).await,
        control: None,
        data: None,
    };
    // The clocks are compared at the moment of the answer, not before it.
    facts.now = Timestamp::now();
    if asked.pre || facts.cluster.version.is_err() {
        return facts;
    }
    let (control, proxies) = control::facts(cluster, asked).await;
    let is_installed = !control.replicas.is_empty() || matches!(control.deployment, Ok(Some(_)));
    facts.control = Some(control);
    if asked.proxy && is_installed {
        facts.data = Some(data::facts(cluster, asked, proxies).await);
    }
    facts
}

/// Everything about a mesh on this machine.
pub(super) async fn machine(mesh: &LocalMesh) -> machine::Facts {
    let inventory = async { Mesh::Local(mesh.clone()).observe().await?.inventory().await };
    let pods = async {
        let list = mesh
            .local()
            .await?
            .list(mesh_api::local::ListRequest {})
            .await;
        anyhow::Ok(call(std::future::ready(list)).await?.pods)
    };
    let (inventory, pods) = tokio::join!(inventory, pods);
    machine::Facts {
        now: Timestamp::now(),
        name: mesh.name.clone(),
        pods: pods.map_err(sentence),
        inventory: inventory.map_err(sentence),
    }
}

/// An error as one sentence.
fn sentence(error: anyhow::Error) -> String {
    format!("{error:#}")
}
