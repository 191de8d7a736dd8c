//! Finds the mesh that a command talks to, and connects to it.
//!
//! In: `--name`, `--context`, `--kubeconfig`, and what runs here. Out: `Mesh`, one of two kinds, and
//! `Replicas`: its controller, however many replicas of it there are. What is behind these knows no difference
//! between a mesh on this machine and one on Kubernetes.

mod local;
pub(crate) mod merge;
mod replicas;

use std::{error::Error, future::Future, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use tonic::{Code, Status};

pub use local::{LocalMesh, MeshArgs};
pub use replicas::{Inventory, Replicas, Tap};

use crate::cluster::{self, Cluster, ClusterArgs};

// A stat of every workload over ten minutes can pass tonic's default of 4 MiB.
const MAX_MESSAGE: usize = 64 << 20;
/// An answer that takes longer means that nobody is there.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Which mesh to talk to, on this machine or on Kubernetes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Target {
    /// Of those on this machine.
    #[command(flatten)]
    pub local: MeshArgs,
    /// Of those on Kubernetes.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// A mesh.
#[derive(Clone, Debug)]
pub enum Mesh {
    /// On this machine.
    Local(LocalMesh),
    /// On Kubernetes.
    Cluster(Cluster),
}

/// Where a mesh is to be looked for.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Local,
    Cluster,
    /// There is a cluster as well; the user is told.
    LocalOfBoth,
}

impl Mesh {
    /// The mesh that the arguments mean: without any, the one that this user runs on this machine, else the
    /// cluster of the current context.
    ///
    /// # Errors
    /// There is none, or several could be meant.
    pub async fn find(target: &Target) -> Result<Self> {
        let place = place(target, LocalMesh::any_of_this_user, cluster::is_configured)?;
        if place == Place::Cluster {
            return Ok(Self::Cluster(Cluster::connect(&target.cluster).await?));
        }
        let mesh = LocalMesh::find(&target.local)?;
        if place == Place::LocalOfBoth {
            eprintln!(
                "mesh: this is the mesh {:?} on this machine; for the one on Kubernetes: --context NAME",
                mesh.name
            );
        }
        Ok(Self::Local(mesh))
    }

    /// Its name on this machine, or the name of the cluster's context.
    pub fn name(&self) -> &str {
        match self {
            Self::Local(mesh) => &mesh.name,
            Self::Cluster(cluster) => cluster.context(),
        }
    }

    /// The namespace that is meant where none is said; empty for all.
    pub fn namespace(&self) -> &str {
        match self {
            Self::Local(_) => "",
            Self::Cluster(cluster) => cluster.namespace(),
        }
    }

    /// Connects to all replicas of its controller.
    ///
    /// # Errors
    /// None of them is there.
    pub async fn observe(&self) -> Result<Replicas> {
        Replicas::connect(self.clone()).await
    }

    /// Where to read why the controller does not answer.
    fn logs(&self) -> &'static str {
        match self {
            Self::Local(_) => "mesh local logs controller",
            Self::Cluster(_) => "kubectl -n mesh-system logs deploy/mesh-controller",
        }
    }
}

impl From<LocalMesh> for Mesh {
    fn from(mesh: LocalMesh) -> Self {
        Self::Local(mesh)
    }
}

fn place(
    target: &Target,
    runs_here: impl FnOnce() -> bool,
    has_cluster: impl FnOnce() -> bool,
) -> Result<Place> {
    match (&target.local.name, target.cluster.is_named()) {
        (Some(name), true) => bail!(
            "The name {name:?} (--name or MESH_NAME) is of a mesh on this machine, --context and --kubeconfig are of a cluster: take one of them."
        ),
        (Some(_), false) => Ok(Place::Local),
        (None, true) => Ok(Place::Cluster),
        (None, false) => match (runs_here(), has_cluster()) {
            (true, true) => Ok(Place::LocalOfBoth),
            (true, false) => Ok(Place::Local),
            (false, true) => Ok(Place::Cluster),
            (false, false) => bail!(
                "No mesh of yours is running on this machine, and there is no kubeconfig. Start one: mesh demo, or mesh up -f FILE; for a cluster, set KUBECONFIG or say --kubeconfig FILE."
            ),
        },
    }
}

/// Runs a command's future on a runtime of its own.
///
/// # Errors
/// Those of the future.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("Can't start the async runtime")?
        .block_on(future)
}

/// Waits for an answer of a mesh on this machine, but not for ever.
///
/// # Errors
/// The server's own words, or that it did not answer.
pub async fn call<T>(
    request: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T> {
    match tokio::time::timeout(CALL_TIMEOUT, request).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(explain(&status)),
        Err(_) => bail!(
            "The controller did not answer within {} s. Is it running? See: mesh local logs controller",
            CALL_TIMEOUT.as_secs()
        ),
    }
}

/// What a failed call means to its user.
pub fn explain(status: &Status) -> anyhow::Error {
    // The server's own answers come without a source: this one was made here, of a connection that failed.
    if status.source().is_some() {
        return anyhow!(
            "The mesh does not answer any more: it has ended, or is just starting again."
        );
    }
    match status.code() {
        Code::NotFound
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::ResourceExhausted => {
            anyhow!("{}", status.message())
        }
        Code::Unavailable => anyhow!("The mesh does not answer: {}", status.message()),
        Code::PermissionDenied => anyhow!(
            "This mesh belongs to another user: {}. Try again as that user or as root.",
            status.message()
        ),
        Code::Unimplemented => anyhow!(
            "The controller does not know this question: it is older than this command (mesh version tells). Upgrade it: mesh upgrade | kubectl apply -f -"
        ),
        code => anyhow!("{}: {}", code.description(), status.message()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use mesh_api::v1::{Selector, StatRequest};

    use super::*;

    fn target(name: Option<&str>, context: Option<&str>, file: Option<&str>) -> Target {
        Target {
            local: MeshArgs {
                name: name.map(str::to_owned),
            },
            cluster: ClusterArgs {
                context: context.map(str::to_owned),
                kubeconfig: file.map(PathBuf::from),
            },
        }
    }

    #[test]
    fn which_mesh_is_meant() {
        let of = |target, here, cluster| place(&target, || here, || cluster);
        let plain = || target(None, None, None);
        assert_eq!(of(plain(), true, false).unwrap(), Place::Local);
        assert_eq!(of(plain(), true, true).unwrap(), Place::LocalOfBoth);
        assert_eq!(of(plain(), false, true).unwrap(), Place::Cluster);
        let error = of(plain(), false, false).unwrap_err().to_string();
        assert!(error.contains("no kubeconfig"), "{error}");
        let named = target(Some("demo"), None, None);
        assert_eq!(of(named, false, true).unwrap(), Place::Local);
        for cluster in [
            target(None, Some("kind"), None),
            target(None, None, Some("f")),
        ] {
            assert_eq!(of(cluster, true, false).unwrap(), Place::Cluster);
        }
        let error = of(target(Some("demo"), Some("kind"), None), true, true).unwrap_err();
        assert!(error.to_string().contains("take one of them"), "{error}");
    }

    #[tokio::test]
    async fn a_running_mesh_is_found_by_its_socket_and_answers() {
        let mesh = crate::fake::start("client");
        let target = target(Some(&mesh.name), None, None);
        let mut replicas = Mesh::find(&target).await.unwrap().observe().await.unwrap();
        let answer = replicas.stat(StatRequest::default()).await.unwrap();
        assert_eq!(answer.window_s, 42);
    }

    #[test]
    fn a_mesh_that_has_ended_is_no_unknown_error() {
        let runtime = || {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap()
        };
        let (server, own) = (runtime(), runtime());
        let mesh = server.block_on(async { crate::fake::start("ended") });
        let mut replicas = own.block_on(mesh.observe()).unwrap();
        drop(server);
        let answer = own.block_on(replicas.stat(StatRequest::default()));
        assert_eq!(
            answer.unwrap_err().to_string(),
            "The mesh does not answer any more: it has ended, or is just starting again."
        );
    }

    #[tokio::test]
    async fn the_servers_suggestion_reaches_the_user() {
        let mut replicas = crate::fake::start("suggestion").observe().await.unwrap();
        let request = StatRequest {
            selector: Some(Selector {
                name: "wbe".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let error = replicas.stat(request).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no \"wbe\": did you mean \"web\"?"
        );
    }
}
