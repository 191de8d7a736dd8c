//! Why a pod gets no proxy.

use mesh_api::names;
use serde_json::Value;

use super::{
    pod::{NamespaceFacts, containers, is_proxied, label, name},
    sidecar::VOLUMES,
};

/// Containers of other meshes: two redirections in one pod would send its traffic in circles.
const OTHER_MESHES: [&str; 5] = [
    "istio-proxy",
    "linkerd-proxy",
    "consul-dataplane",
    "kuma-sidecar",
    "osm-envoy",
];
/// Of a pod that the kubelet read from a file of its node (`kubernetes.io/config.mirror`).
const MIRROR_POD: &str = "kubernetes.io/config.mirror";
/// Label of a node's operating system.
const OS: &str = "kubernetes.io/os";

/// Why a pod stays as it is; as text, half a sentence about the pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Nobody asked for it.
    #[error(
        "neither the pod nor its namespace has the label {}: enabled",
        names::LABEL_INJECT
    )]
    NotOptedIn,
    /// Its own label says so.
    #[error("its pod has the label {}: disabled", names::LABEL_INJECT)]
    OptedOut,
    /// There is a proxy.
    #[error("it has a proxy already")]
    AlreadyInjected,
    /// The controller can't wait for itself.
    #[error("it is a part of the mesh's control plane")]
    ControlPlane,
    /// Redirection would catch the node's traffic.
    #[error(
        "it uses its node's network (hostNetwork): redirection would catch the whole node's traffic"
    )]
    HostNetwork,
    /// The proxy is a Linux program.
    #[error("it runs on Windows, the proxy on Linux only")]
    Windows,
    /// Such a pod only mirrors a file of a node.
    #[error("it is a static pod, which only its node can change")]
    StaticPod,
    /// Another mesh is there.
    #[error("the container {0} of another mesh is in it")]
    OtherMesh(String),
    /// The proxy needs this port.
    #[error("its container {container} listens on port {port}, which is the proxy's")]
    PortTaken {
        /// Name of the container.
        container: String,
        /// One of the proxy's ports.
        port: u16,
    },
    /// The proxy's volume would hide one of the pod's.
    #[error("its volume {0} has the name of one of the proxy's")]
    VolumeTaken(String),
    /// Such a container's traffic would pass by the proxy.
    #[error("its container {0} runs as user {uid}, which is the proxy's", uid = names::PROXY_UID)]
    UserTaken(String),
    /// A container that never ends keeps the pod from completing.
    #[error(
        "it runs to completion, which a proxy that is no native sidecar (Kubernetes 1.29) would prevent"
    )]
    NeverCompletes,
}

/// Why `pod` gets no proxy of either form.
pub(super) fn to_skip(pod: &Value, namespace: &NamespaceFacts) -> Option<Reason> {
    let spec = &pod["spec"];
    let own = label(pod, names::LABEL_INJECT);
    let inherited = namespace
        .labels
        .get(names::LABEL_INJECT)
        .map(String::as_str);
    if own == Some("disabled") {
        return Some(Reason::OptedOut);
    }
    if is_proxied(pod) {
        return Some(Reason::AlreadyInjected);
    }
    if own.or(inherited) != Some("enabled") {
        return Some(Reason::NotOptedIn);
    }
    if label(pod, names::LABEL_COMPONENT).is_some() {
        return Some(Reason::ControlPlane);
    }
    if spec["hostNetwork"] == true {
        return Some(Reason::HostNetwork);
    }
    if spec["os"]["name"] == "windows" || spec["nodeSelector"][OS] == "windows" {
        return Some(Reason::Windows);
    }
    if !pod["metadata"]["annotations"][MIRROR_POD].is_null() {
        return Some(Reason::StaticPod);
    }
    taken(pod)
}

/// Why `pod` gets no proxy if that is an ordinary container.
pub(super) fn to_skip_unless_native(pod: &Value, native: bool) -> Option<Reason> {
    let policy = pod["spec"]["restartPolicy"].as_str();
    let completes = policy.is_some_and(|policy| policy != "Always");
    (!native && completes).then_some(Reason::NeverCompletes)
}

/// What the proxy needs and the pod has taken.
fn taken(pod: &Value) -> Option<Reason> {
    let proxy_user = i64::from(names::PROXY_UID);
    let pod_user = pod["spec"]["securityContext"]["runAsUser"].as_i64();
    for container in containers(pod) {
        let name = name(container);
        if OTHER_MESHES.contains(&name) {
            return Some(Reason::OtherMesh(name.to_owned()));
        }
        let ports = container["ports"].as_array().into_iter().flatten();
        let numbers = ports.filter_map(|port| port["containerPort"].as_u64());
        let mut own = numbers.filter_map(|number| u16::try_from(number).ok());
        let of_proxy = [names::OUTBOUND_PORT, names::INBOUND_PORT, names::ADMIN_PORT];
        if let Some(port) = own.find(|port| of_proxy.contains(port)) {
            let container = name.to_owned();
            return Some(Reason::PortTaken { container, port });
        }
        let user = container["securityContext"]["runAsUser"].as_i64();
        if user.or(pod_user) == Some(proxy_user) {
            return Some(Reason::UserTaken(name.to_owned()));
        }
    }
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let mut names = volumes.map(name);
    names
        .find(|name| VOLUMES.contains(name))
        .map(|name| Reason::VolumeTaken(name.to_owned()))
}
