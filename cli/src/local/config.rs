//! What the engine is told at start.

use std::{collections::BTreeMap, path::PathBuf};

/// Everything about one mesh on this machine. Travels as JSON from `mesh up` to the engine.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub(crate) struct Config {
    /// The mesh's name: part of its sockets' names.
    pub(crate) name: String,
    /// Where the manifests are.
    pub(crate) manifests: Vec<Source>,
    /// Namespace of the objects that name none.
    pub(crate) namespace: String,
    /// Which pods get a proxy.
    pub(crate) inject: Inject,
    /// Lifetime of leaf certificates, as the controller's flag takes it.
    pub(crate) leaf_lifetime: Option<String>,
    /// Lifetime of root certificates, as the controller's flag takes it.
    pub(crate) root_lifetime: Option<String>,
    /// Log level of the proxies and the controller.
    pub(crate) log_level: String,
    /// Lives on when the one who started it ends.
    pub(crate) detached: bool,
    /// More flags for every `mesh proxy run`.
    pub(crate) proxy_args: Vec<String>,
    /// More variables for every container.
    pub(crate) env: BTreeMap<String, String>,
}

/// Where manifests come from.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub enum Source {
    /// A file, or a folder of files; changes are picked up while the mesh runs.
    Path(PathBuf),
    /// The manifests themselves; they don't change.
    Text {
        /// What to call them in messages.
        name: String,
        /// YAML or JSON.
        text: String,
    },
}

impl Source {
    /// What to call it in messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Text { name, .. } => name.clone(),
        }
    }
}

/// Which pods get a proxy.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    clap::ValueEnum,
    serde::Deserialize,
    serde::Serialize,
)]
pub enum Inject {
    /// All, except those whose label (or whose namespace's label) `mesh.internal/inject` says `disabled`.
    #[default]
    All,
    /// Those that the label selects, as on a cluster.
    Labeled,
    /// None.
    None,
}
