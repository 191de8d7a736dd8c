//! Pods as JSON values: what is read of them, and where the proxy goes.
//!
//! ```text
//! initContainers:  mesh-init   writes the redirection, and ends
//!                  mesh-proxy  native sidecar: runs before all others start, and until they have ended
//!                  …           the pod's own
//! ```
//!
//! Before Kubernetes 1.29: `mesh-init` after the pod's own init containers, `mesh-proxy` the first container.

use std::collections::BTreeMap;

use mesh_api::names;
use serde_json::{Value, json};

use super::{Invalid, overrides::Overrides, probe, settings::Settings, sidecar};

/// Which container `kubectl logs` and `kubectl exec` mean where none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
const CONTAINER_LISTS: [&str; 2] = ["initContainers", "containers"];

/// What a pod inherits from its namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Whether `pod` has the shape of a pod, so that fields can be set in it.
pub(super) fn check_shape(pod: &Value) -> Result<(), Invalid> {
    let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
    let is_map = |value: &Value| value.is_null() || value.is_object();
    let is_list = |value: &Value| value.is_null() || value.is_array();
    let maps = [metadata, &metadata["labels"], &metadata["annotations"]];
    let lists = [&spec["initContainers"], &spec["volumes"]];
    let has_containers = spec["containers"]
        .as_array()
        .is_some_and(|list| !list.is_empty());
    let fits = has_containers && maps.into_iter().all(is_map) && lists.into_iter().all(is_list);
    fits.then_some(()).ok_or(Invalid::NotAPod)
}

/// The pod, whose shape was checked, with its proxy.
pub(super) fn with_proxy(pod: &Value, overrides: &Overrides, settings: &Settings) -> Value {
    let mut pod = pod.clone();
    pod["metadata"]["annotations"][names::ANNOTATION_PROXY] = "true".into();
    if !overrides.native_sidecar && annotation(&pod, DEFAULT_CONTAINER).is_none() {
        let first = pod["spec"]["containers"][0]["name"].clone();
        pod["metadata"]["annotations"][DEFAULT_CONTAINER] = first;
    }

    let spec = &mut pod["spec"];
    for container in containers_mut(spec) {
        probe::to_admin_port(container);
    }
    let proxy = sidecar::proxy(overrides, settings);
    let init = sidecar::init(overrides, settings);
    if overrides.native_sidecar {
        put_first(spec, "initContainers", vec![init, proxy]);
    } else {
        // Last: with the redirection and without the proxy, the pod's own ones would reach nobody.
        put_last(spec, "initContainers", vec![init]);
        // First: the kubelet starts the next container when the proxy's postStart hook has ended.
        put_first(spec, "containers", vec![proxy]);
    }
    put_last(spec, "volumes", sidecar::volumes());
    pod
}

/// The pod without what [`with_proxy`] adds. Maps and lists that are empty then are removed: Kubernetes does not
/// tell them from absent ones.
pub(super) fn without_proxy(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if check_shape(&pod).is_err() || !is_proxied(&pod) {
        return pod;
    }
    let spec = &mut pod["spec"];
    let was_ordinary = remove_named(spec, "containers", &[names::PROXY_CONTAINER]);
    let own = [names::INIT_CONTAINER, names::PROXY_CONTAINER];
    remove_named(spec, "initContainers", &own);
    remove_named(spec, "volumes", &sidecar::VOLUMES);
    for container in containers_mut(spec) {
        probe::from_admin_port(container);
    }
    remove_from_metadata(&mut pod, "annotations", names::ANNOTATION_PROXY);
    // Where the pod's owner wrote the same, it says nothing that is not so without it.
    let first = &pod["spec"]["containers"][0]["name"];
    if was_ordinary && pod["metadata"]["annotations"][DEFAULT_CONTAINER] == *first {
        remove_from_metadata(&mut pod, "annotations", DEFAULT_CONTAINER);
    }
    pod
}

/// Removes a label or annotation, and what is empty then.
pub(super) fn remove_from_metadata(pod: &mut Value, map: &str, key: &str) {
    let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    let Some(entries) = metadata.get_mut(map).and_then(Value::as_object_mut) else {
        return;
    };
    if entries.remove(key).is_none() || !entries.is_empty() {
        return;
    }
    metadata.remove(map);
    if metadata.is_empty()
        && let Some(pod) = pod.as_object_mut()
    {
        pod.remove("metadata");
    }
}

/// Whether the proxy's container is there.
pub(super) fn is_proxied(pod: &Value) -> bool {
    containers(pod).any(|container| container["name"] == names::PROXY_CONTAINER)
}

/// All containers, those of the start first.
pub(super) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = CONTAINER_LISTS.into_iter();
    lists.flat_map(|list| pod["spec"][list].as_array().into_iter().flatten())
}

pub(super) fn label<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    pod["metadata"]["labels"][name].as_str()
}

pub(super) fn annotation<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    pod["metadata"]["annotations"][name].as_str()
}

pub(super) fn name(object: &Value) -> &str {
    object["name"].as_str().unwrap_or_default()
}

fn containers_mut(spec: &mut Value) -> impl Iterator<Item = &mut Value> {
    let fields = spec.as_object_mut().into_iter().flatten();
    let lists = fields.filter(|(name, _)| CONTAINER_LISTS.contains(&name.as_str()));
    lists.filter_map(|(_, list)| list.as_array_mut()).flatten()
}

fn put_first(spec: &mut Value, list: &str, mut items: Vec<Value>) {
    if let Value::Array(present) = spec[list].take() {
        items.extend(present);
    }
    spec[list] = json!(items);
}

fn put_last(spec: &mut Value, list: &str, items: Vec<Value>) {
    match &mut spec[list] {
        Value::Array(present) => present.extend(items),
        absent => *absent = json!(items),
    }
}

/// Whether there was one.
fn remove_named(spec: &mut Value, list: &str, names: &[&str]) -> bool {
    let Some(items) = spec.get_mut(list).and_then(Value::as_array_mut) else {
        return false;
    };
    let before = items.len();
    items.retain(|item| !names.contains(&name(item)));
    let (found, is_empty) = (items.len() < before, items.is_empty());
    if found
        && is_empty
        && let Some(spec) = spec.as_object_mut()
    {
        spec.remove(list);
    }
    found
}
