//! A mesh on Kubernetes, as the command line reaches it: everything goes through the API server.
//!
//! In: a kubeconfig and a context. Out: a `kube` client, the context's namespace, and byte streams into pods
//! (`pods/portforward`), so that the cluster's own access rules guard the mesh. What fails, fails with a
//! sentence that says what to do (`Cluster::explain`).

mod controllers;
mod forward;
mod kubeconfig;
mod labels;

use std::{fmt, future::Future, time::Duration};

use anyhow::{Context, Result, anyhow};
use kube::Client;

pub use controllers::{Controller, Controllers};
pub use forward::Complaint;
pub use kubeconfig::is_configured;

/// The API server is asked again by the caller, if at all.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Which cluster to talk to.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ClusterArgs {
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "CONTEXT")]
    pub context: Option<String>,
    /// File that says how to reach the cluster [default: KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<std::path::PathBuf>,
}

impl ClusterArgs {
    /// Whether the user has named a cluster.
    pub fn is_named(&self) -> bool {
        self.context.is_some() || self.kubeconfig.is_some()
    }
}

/// A cluster, and how to talk to it.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    context: String,
    server: String,
    namespace: String,
}

impl Cluster {
    /// The cluster that the arguments mean. Nothing is sent to it yet.
    ///
    /// # Errors
    /// There is no kubeconfig, or it can't be used.
    pub async fn connect(args: &ClusterArgs) -> Result<Self> {
        let (mut config, context) = kubeconfig::load(args).await?;
        config.connect_timeout = Some(TIMEOUT);
        // Whoever waits in front of a terminal wants to hear of it at once.
        config.default_retry = false;
        let (server, namespace) = (
            config.cluster_url.to_string(),
            config.default_namespace.clone(),
        );
        let client = Client::try_from(config)
            .with_context(|| format!("The context {context:?} of the kubeconfig can't be used"))?;
        Ok(Self {
            client,
            context,
            server: server.trim_end_matches('/').to_owned(),
            namespace,
        })
    }

    /// Talks to the API server.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The name of the context.
    pub fn context(&self) -> &str {
        &self.context
    }

    /// The URL of the API server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The context's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Waits for an answer of the API server, but not for ever. `what` was tried, as in "list pods in shop".
    ///
    /// # Errors
    /// See [`Cluster::explain`].
    pub async fn ask<T>(
        &self,
        what: &str,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(TIMEOUT, request).await {
            Ok(answer) => answer.map_err(|error| self.explain(what, &error)),
            Err(_) => Err(anyhow!(
                "Can't reach the cluster of context {:?} at {}: no answer within {} s. Is it running, and are you on its network?",
                self.context,
                self.server,
                TIMEOUT.as_secs()
            )),
        }
    }

    /// What a failed request means to its user. `what` was tried, as in "list pods in shop".
    pub fn explain(&self, what: &str, error: &kube::Error) -> anyhow::Error {
        use kube::Error;
        match error {
            // Admission (Pod Security, quotas) refuses with the same code, and other words.
            Error::Api(status) if status.code == 403 && status.message.contains(" cannot ") => {
                anyhow!(
                    "You have no right to {what} in the cluster of context {:?}: {}. Ask who administers it for that right.",
                    self.context,
                    status.message.trim_end_matches('.')
                )
            }
            Error::Api(status) if status.code == 401 => anyhow!(
                "The cluster of context {:?} does not accept your credentials: log in again, or take another --context.",
                self.context
            ),
            Error::Api(status) => anyhow!(
                "The API server of context {:?} refused to {what}: {}",
                self.context,
                status.message
            ),
            Error::Auth(error) => anyhow!(
                "There are no credentials for the cluster of context {:?}: {error}. Log in again.",
                self.context
            ),
            Error::UpgradeConnection(error) => anyhow!(
                "The API server of context {:?} does not forward to pods ({error}). Is a proxy between that does not pass WebSockets?",
                self.context
            ),
            Error::SerdeError(error) => anyhow!(
                "What answers at {} is not an API server: {error}. Check the kubeconfig.",
                self.server
            ),
            error => anyhow!(
                "Can't reach the cluster of context {:?} at {}: {}. Is it running, and are you on its network?",
                self.context,
                self.server,
                root_cause(error)
            ),
        }
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("context", &self.context)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// "client error (Connect)" says nothing, "Connection refused (os error 111)" does.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests;
