//! Where the controller learns about pods and services: a stream of applied and deleted typed objects.
//!
//! In: whatever holds the objects (a folder of JSON files, an API server). Out: [`Event`]s in the
//! order in which they happened, and the answer to "whose token is this?". What can fail: the source as a
//! whole ([`SourceError`]); a single unreadable object is the source's own business, it keeps the last good one.

mod directory;
mod kubernetes;

use std::{future::Future, path::PathBuf};

use k8s_openapi::{
    Metadata,
    api::{
        core::v1::{Namespace, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use tokio::sync::mpsc;

pub use directory::Directory;
pub use kubernetes::{ConnectError, Kubernetes, connect};

/// A place that holds Kubernetes objects and can say whose a token is.
pub trait Source: Send + Sync + 'static {
    /// Starts to watch. First everything that exists, then [`Event::Synced`] once, then every change.
    /// The channel is bounded: a slow reader slows the source down.
    ///
    /// # Errors
    /// The source can't be read at all.
    fn watch(&self) -> Result<mpsc::Receiver<Event>, SourceError>;

    /// Finds out whose a service-account token is.
    ///
    /// # Errors
    /// See [`ReviewError`].
    fn review(&self, token: &str) -> impl Future<Output = Result<Caller, ReviewError>> + Send;
}

/// One step of a source.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The object is new or has changed; this is its whole state.
    Applied(Box<Object>),
    /// The object is gone.
    Deleted(ObjectKey),
    /// Everything that existed when watching began has been sent.
    Synced,
}

/// The kinds of objects that the index understands. They travel in the box of [`Event::Applied`].
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "they travel in a box")]
pub enum Object {
    /// Its labels say what its pods inherit.
    Namespace(Namespace),
    /// An address with an identity.
    Pod(Pod),
    /// A name, addresses and ports that lead to pods.
    Service(Service),
    /// Some of the pods behind a Service.
    EndpointSlice(EndpointSlice),
    /// Only whose it is matters.
    ReplicaSet(ObjectMeta),
    /// Only whose it is matters.
    Job(ObjectMeta),
}

/// The kind of an [`Object`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Pod.
    Pod,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `apps/v1` ReplicaSet.
    ReplicaSet,
    /// `batch/v1` Job.
    Job,
}

/// Names one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// What it is.
    pub kind: Kind,
    /// Empty for a namespace.
    pub namespace: String,
    /// Its name in the namespace.
    pub name: String,
}

/// Whose a token is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Caller {
    /// The service account's namespace.
    pub namespace: String,
    /// The service account's name.
    pub service_account: String,
    /// The pod that the token was made for.
    pub pod: String,
}

/// Why it is not known whose a token is.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// Nobody's: forged, expired or of another mesh.
    #[error("the token is not known: it was not issued for this mesh, or its pod is gone")]
    Invalid,
    /// The check itself failed; it may succeed later.
    #[error("the token could not be checked: {0}")]
    Unavailable(String),
}

/// A source can't be read at all.
#[derive(Debug, thiserror::Error)]
#[error("watching {path:?} for objects failed: {reason}")]
pub struct SourceError {
    path: PathBuf,
    reason: String,
}

impl Object {
    /// The object's name.
    pub fn key(&self) -> ObjectKey {
        let meta = self.metadata();
        ObjectKey {
            kind: self.kind(),
            namespace: match self.kind() {
                Kind::Namespace => String::new(),
                // What the API server does with an object that names no namespace.
                _ => meta.namespace.clone().unwrap_or_else(|| "default".into()),
            },
            name: meta.name.clone().unwrap_or_default(),
        }
    }

    /// The object's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Pod(_) => Kind::Pod,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::ReplicaSet(_) => Kind::ReplicaSet,
            Self::Job(_) => Kind::Job,
        }
    }

    fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Namespace(object) => object.metadata(),
            Self::Pod(object) => object.metadata(),
            Self::Service(object) => object.metadata(),
            Self::EndpointSlice(object) => object.metadata(),
            Self::ReplicaSet(metadata) | Self::Job(metadata) => metadata,
        }
    }
}

impl Kind {
    /// All kinds, in an order in which later ones refer to earlier ones.
    pub const ALL: [Self; 6] = [
        Self::Namespace,
        Self::ReplicaSet,
        Self::Job,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
    ];

    /// The name in URLs of the API server and in the folder of the directory source.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::Pod => "pods",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::ReplicaSet => "replicasets",
            Self::Job => "jobs",
        }
    }
}
