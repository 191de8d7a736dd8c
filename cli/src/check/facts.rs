//! What was found out about a mesh. Plain data, gathered elsewhere and judged elsewhere.
//!
//! What could not be found out is an `Err` with a sentence for people.

use jiff::Timestamp;
use mesh_api::v1::ProxyInfo;

/// Something that was looked for, or why it could not be.
pub type Found<T> = Result<T, String>;

/// Everything about a cluster and the mesh in it. Parts that were not asked for are `None`.
#[derive(Clone, Debug)]
pub struct Facts {
    /// When it was so.
    pub now: Timestamp,
    /// Version of this command.
    pub client_version: String,
    /// The cluster itself.
    pub cluster: Cluster,
    /// The control plane.
    pub control: Option<Control>,
    /// Pods, namespaces and services.
    pub data: Option<Data>,
}

/// A cluster, whatever is installed in it.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Name of the kubeconfig's context.
    pub context: String,
    /// `v1.36.0`, and the server's clock where it tells it.
    pub version: Found<(String, Option<Timestamp>)>,
    /// What the user may do, of what the check is about.
    pub rights: Found<Vec<Right>>,
    /// Versions of the Gateway API that are served; empty without it.
    pub gateway_api: Found<Vec<String>>,
}

/// Something that a user may do or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// "list".
    pub verb: String,
    /// "pods/portforward".
    pub resource: String,
    /// Empty for all, or where the resource is in none.
    pub namespace: String,
    /// The API server's answer.
    pub allowed: bool,
    /// Without it nothing works, rather than some checks.
    pub needed: bool,
}

/// The control plane.
#[derive(Clone, Debug)]
pub struct Control {
    /// The Deployment of the controller: replicas wanted and ready.
    pub deployment: Found<Option<(i32, i32)>>,
    /// Its pods.
    pub replicas: Vec<Replica>,
    /// Who leads.
    pub lease: Found<Option<Lease>>,
    /// The webhook's configuration.
    pub webhook: Found<Option<Webhook>>,
    /// Whether the API server has a pod injected that asks for it; `None` where it was not tried.
    pub dry_run: Option<Found<bool>>,
}

/// A pod of the controller.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    /// Its name.
    pub pod: String,
    /// Why it is not ready.
    pub not_ready: Option<String>,
    /// How often it was started again.
    pub restarts: i32,
    /// The version that it says it is; `None` where it was not asked.
    pub version: Option<Found<String>>,
    /// Whether it serves the webhook with a certificate that `caBundle` vouches for; `None` where it was not tried.
    pub webhook: Option<Found<()>>,
}

/// The lease of the leader among the controller's replicas.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The pod that holds it.
    pub holder: String,
    /// When it was renewed last.
    pub renewed: Option<Timestamp>,
    /// How long it lasts after that, seconds.
    pub duration_s: i32,
}

/// The webhook's configuration.
#[derive(Clone, Debug, Default)]
pub struct Webhook {
    /// `caBundle`, PEM.
    pub ca_bundle: String,
    /// The roots in it, as far as it can be read.
    pub roots: Vec<Root>,
    /// "Ignore" or "Fail".
    pub failure_policy: String,
}

/// A root certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Start of its validity.
    pub not_before: Timestamp,
    /// End of its validity.
    pub not_after: Timestamp,
}

/// The data plane.
#[derive(Clone, Debug)]
pub struct Data {
    /// Of the whole cluster, or the one that was asked for.
    pub namespaces: Found<Vec<Namespace>>,
    /// In them.
    pub pods: Found<Vec<Pod>>,
    /// Annotations of Services that can't be read, as sentences.
    pub bad_annotations: Vec<String>,
    /// Proxies that report to the controller; `None` without a controller.
    pub proxies: Option<Vec<ProxyInfo>>,
    /// Ports of Services whose number says that they are opaque, and whose appProtocol says HTTP: "shop/search:9300".
    pub contradictions: Vec<String>,
    /// Ports of Services whose name is that of a protocol in which the server speaks first: "shop/db:3307 (mysql)".
    pub server_first: Vec<String>,
}

/// A namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its label says "enabled".
    pub opted_in: bool,
    /// The trust bundle that is kept there, PEM.
    pub trust: Found<Option<String>>,
}

/// A pod that has a proxy, or that was meant to have one.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its proxy, or why there is none.
    pub proxy: Result<Proxy, Without>,
}

/// Why an opted-in pod has no proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Without {
    /// The injector would give it one, if it were created now.
    Missed,
    /// It can't have one: half a sentence about the pod.
    Impossible(String),
    /// An annotation can't be read.
    Annotation(String),
}

/// A proxy's container.
#[derive(Clone, Debug, Default)]
pub struct Proxy {
    /// It starts before the app and ends after it.
    pub native: bool,
    /// Why it is not ready.
    pub not_ready: Option<String>,
}
