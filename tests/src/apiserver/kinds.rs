//! What the real server adds to objects of the built-in kinds, and what it does not let happen to them.

mod defaults;
mod rules;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{meta, resource::Resource};

pub(super) use self::{defaults::fill_in, rules::validate};

/// Completes an object that is about to be created, as the kind's strategy does (`PrepareForCreate`).
pub(super) fn prepare_create(resource: &Resource, object: &mut Value) {
    reset_status(resource, object);
    if counts_generations(resource) {
        object["metadata"]["generation"] = 1.into();
    } else if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("generation");
    }
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces") => {
            object["spec"]["finalizers"] = json!(["kubernetes"]);
        }
        ("", "secrets") => encode_strings(object),
        ("batch", "jobs") => label_job(object),
        _ => {}
    }
}

/// Completes an object that is about to replace another (`PrepareForUpdate`).
pub(super) fn prepare_update(resource: &Resource, object: &mut Value, old: &Value) {
    if resource.has("status") {
        keep(object, old, "status");
    }
    let metadata = &mut object["metadata"];
    metadata["generation"] = old["metadata"]["generation"].clone();
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "secrets") => encode_strings(object),
        ("", "namespaces") => keep(object, old, "spec"),
        ("", "services") => keep_addresses(object, old),
        _ => {}
    }
    if counts_generations(resource) && differs(resource, object, old) {
        let generation = old["metadata"]["generation"].as_u64().unwrap_or_default();
        object["metadata"]["generation"] = (generation + 1).into();
    }
}

/// Whether a deletion of this kind answers with the object itself (`ReturnDeletedObject`).
pub(super) fn returns_deleted(resource: &Resource) -> bool {
    resource.group.is_empty()
        && matches!(
            resource.plural.as_str(),
            "pods"
                | "services"
                | "serviceaccounts"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "podtemplates"
                | "resourcequotas"
                | "namespaces"
        )
}

/// Whether an update without a resource version is taken (`AllowUnconditionalUpdate`).
pub(super) fn allows_unconditional_update(resource: &Resource) -> bool {
    match (resource.group.as_str(), resource.plural.as_str()) {
        _ if resource.custom.is_some() => false,
        ("coordination.k8s.io", "leases") => false,
        ("admissionregistration.k8s.io" | "apiextensions.k8s.io" | "apiregistration.k8s.io", _) => {
            false
        }
        ("discovery.k8s.io" | "node.k8s.io", _) => resource.plural == "endpointslices",
        ("policy", _) => false,
        _ => true,
    }
}

/// Whether a PUT of an object that is not there creates it (`AllowCreateOnUpdate`).
pub(super) fn allows_create_on_update(resource: &Resource) -> bool {
    matches!(
        (resource.group.as_str(), resource.plural.as_str()),
        ("", "services" | "endpoints" | "events" | "limitranges")
            | ("events.k8s.io", _)
            | ("coordination.k8s.io", "leases")
            | ("rbac.authorization.k8s.io", _)
    )
}

/// Whether objects of this kind have a `metadata.generation`.
fn counts_generations(resource: &Resource) -> bool {
    resource.custom.is_some()
        || match resource.group.as_str() {
            "" => matches!(
                resource.plural.as_str(),
                "pods" | "replicationcontrollers" | "podtemplates"
            ),
            "apps" => resource.plural != "controllerrevisions",
            "batch"
            | "policy"
            | "networking.k8s.io"
            | "discovery.k8s.io"
            | "apiextensions.k8s.io"
            | "admissionregistration.k8s.io" => true,
            "scheduling.k8s.io" => true,
            _ => false,
        }
}

/// Whether what an update changed is what generations count.
fn differs(resource: &Resource, object: &Value, old: &Value) -> bool {
    let counted = |field: &str| match field {
        "kind" | "apiVersion" | "metadata" => false,
        "status" => !resource.has("status"),
        _ => true,
    };
    let part = |object: &Value| -> Vec<(String, Value)> {
        let fields = object.as_object().into_iter().flatten();
        let fields = fields.filter(|(field, value)| counted(field) && !value.is_null());
        fields
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect()
    };
    // A Deployment's annotations are copied to its ReplicaSets, so that they count too.
    let annotations = |object: &Value| object["metadata"]["annotations"].clone();
    let annotated = resource.is("apps", "deployments") && annotations(object) != annotations(old);
    annotated || part(object) != part(old)
}

fn reset_status(resource: &Resource, object: &mut Value) {
    let status = match (resource.group.as_str(), resource.plural.as_str()) {
        // A node's status may come with it.
        ("", "nodes") => return,
        ("", "namespaces") => json!({ "phase": "Active" }),
        ("", "pods") => json!({ "phase": "Pending", "qosClass": rules::quality(object) }),
        ("", "services") => json!({ "loadBalancer": {} }),
        ("", "persistentvolumeclaims") => json!({ "phase": "Pending" }),
        ("networking.k8s.io", "ingresses") => json!({ "loadBalancer": {} }),
        ("policy", _) => json!({
            "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0,
        }),
        ("apps", "daemonsets") => json!({
            "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0,
        }),
        ("apps", "replicasets") | ("", "replicationcontrollers") => json!({ "replicas": 0 }),
        ("apps", "statefulsets") => json!({ "replicas": 0, "availableReplicas": 0 }),
        _ if resource.custom.is_none() && resource.has("status") => json!({}),
        _ if resource.has("status") => Value::Null,
        _ => return,
    };
    match status {
        Value::Null => {
            if let Some(map) = object.as_object_mut() {
                map.remove("status");
            }
        }
        status => object["status"] = status,
    }
}

fn keep(object: &mut Value, old: &Value, field: &str) {
    match &old[field] {
        Value::Null => {
            if let Some(map) = object.as_object_mut() {
                map.remove(field);
            }
        }
        value => object[field] = value.clone(),
    }
}

/// A Service keeps its addresses where an update leaves them out.
fn keep_addresses(object: &mut Value, old: &Value) {
    let external = |service: &Value| service["spec"]["type"] == "ExternalName";
    if external(object) || external(old) {
        return;
    }
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if object["spec"][field].is_null() || object["spec"][field] == "" {
            keep(&mut object["spec"], &old["spec"], field);
        }
    }
}

/// `stringData` is written only: it becomes `data`.
fn encode_strings(secret: &mut Value) {
    let Some(strings) = secret
        .as_object_mut()
        .and_then(|map| map.remove("stringData"))
    else {
        return;
    };
    for (name, text) in strings.as_object().into_iter().flatten() {
        let text = text.as_str().unwrap_or_default();
        secret["data"][name] = STANDARD.encode(text).into();
    }
}

/// A Job without a selector of its own selects its pods by its uid.
fn label_job(job: &mut Value) {
    if job["spec"]["manualSelector"] == true {
        return;
    }
    let uid = job["metadata"]["uid"].clone();
    let name = job["metadata"]["name"].clone();
    job["spec"]["selector"] =
        json!({ "matchLabels": { "batch.kubernetes.io/controller-uid": uid } });
    let labels = &mut job["spec"]["template"]["metadata"]["labels"];
    for (label, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        labels[label] = value.clone();
    }
}

/// Whether a pod's deletion takes time: the seconds, or `None` for objects of other kinds.
pub(super) fn grace(resource: &Resource, object: &Value, asked: Option<i64>) -> Option<i64> {
    if !resource.is("", "pods") {
        return None;
    }
    let default = object["spec"]["terminationGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(30);
    let period = match asked.unwrap_or(default) {
        negative if negative < 0 => 1,
        period => period,
    };
    let unscheduled = object["spec"]["nodeName"]
        .as_str()
        .is_none_or(str::is_empty);
    let finished = matches!(
        object["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    );
    Some(if unscheduled || finished { 0 } else { period })
}

/// Begins an object's deletion.
pub(super) fn mark_deleting(object: &mut Value, now: jiff::Timestamp, seconds: i64) {
    let end = now + jiff::SignedDuration::from_secs(seconds);
    object["metadata"]["deletionTimestamp"] = meta::timestamp(end).into();
    object["metadata"]["deletionGracePeriodSeconds"] = seconds.into();
    if let Some(generation) = object["metadata"]["generation"].as_u64() {
        object["metadata"]["generation"] = (generation + 1).into();
    }
}
