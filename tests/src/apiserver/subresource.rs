//! Subresources that are views of an object: status, scale, finalize.

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    meta,
    resource::Resource,
    state::{Api, Call, key},
    status::{Cause, Status},
};

/// What a caller sees of an object.
pub(super) fn shown(call: &Call, object: &Value) -> Value {
    match call.target.subresource.as_str() {
        "scale" => scale(&call.target.resource, object),
        _ => object.clone(),
    }
}

/// What the stored object becomes where the caller sent `wanted`.
///
/// # Errors
/// A scale without a number of replicas.
pub(super) fn replaced(call: &Call, old: &Value, wanted: Value) -> Result<Value, Status> {
    let resource = &call.target.resource;
    match call.target.subresource.as_str() {
        "status" => {
            let mut object = old.clone();
            carry(&mut object, &wanted);
            match wanted.get("status") {
                Some(status) => object["status"] = status.clone(),
                None => {
                    if let Some(map) = object.as_object_mut() {
                        map.remove("status");
                    }
                }
            }
            // The kubelet labels its node through the status.
            if resource.is("", "nodes") {
                for field in ["labels", "annotations"] {
                    object["metadata"][field] = wanted["metadata"][field].clone();
                }
            }
            Ok(object)
        }
        "finalize" => {
            let mut object = old.clone();
            carry(&mut object, &wanted);
            object["spec"]["finalizers"] = wanted["spec"]["finalizers"].clone();
            if object["spec"]["finalizers"]
                .as_array()
                .is_none_or(Vec::is_empty)
            {
                object["spec"] = json!({});
            }
            Ok(object)
        }
        "scale" => {
            let mut object = old.clone();
            carry(&mut object, &wanted);
            let replicas = match &wanted["spec"]["replicas"] {
                Value::Null => json!(0),
                replicas => replicas.clone(),
            };
            if replicas.as_i64().is_none_or(|replicas| replicas < 0) {
                let detail = "must be greater than or equal to 0";
                let cause = Cause::invalid("spec.replicas", &replicas, detail);
                let name = call.target.name.as_deref().unwrap_or_default();
                return Err(Status::invalid(resource, name, &[cause]));
            }
            let path = path_of(resource, "specReplicasPath", "/spec/replicas");
            set(&mut object, &path, replicas);
            Ok(object)
        }
        _ => Ok(wanted),
    }
}

/// The preconditions that the caller sent with a view.
fn carry(object: &mut Value, wanted: &Value) {
    for field in ["resourceVersion", "uid"] {
        if wanted["metadata"][field].is_string() {
            object["metadata"][field] = wanted["metadata"][field].clone();
        }
    }
}

fn scale(resource: &Resource, object: &Value) -> Value {
    let at = |name: &str, default: &str| {
        let path = path_of(resource, name, default);
        object.pointer(&path).cloned().unwrap_or_default()
    };
    let number = |value: Value| if value.is_null() { json!(0) } else { value };
    let mut metadata = json!({});
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "creationTimestamp",
    ] {
        metadata[field] = object["metadata"][field].clone();
    }
    let mut status = json!({ "replicas": number(at("statusReplicasPath", "/status/replicas")) });
    let selector = &object["spec"]["selector"]["matchLabels"];
    let selector = match &resource.custom {
        Some(_) => at("labelSelectorPath", "")
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        None => {
            let labels = selector.as_object().into_iter().flatten();
            let labels = labels.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()));
            labels.collect::<Vec<_>>().join(",")
        }
    };
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": { "replicas": number(at("specReplicasPath", "/spec/replicas")) },
        "status": status,
    })
}

/// `.spec.replicas` of a CustomResourceDefinition as a JSON pointer.
fn path_of(resource: &Resource, name: &str, default: &str) -> String {
    let custom = resource
        .custom
        .as_ref()
        .and_then(|custom| custom.scale[name].as_str());
    custom.map_or_else(|| default.to_owned(), |path| path.replace('.', "/"))
}

fn set(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    for step in path.split('/').filter(|step| !step.is_empty()) {
        at = &mut at[step];
    }
    *at = value;
}

/// `pods/binding`: puts a pod on a node.
///
/// # Errors
/// No such pod (404), or it is on a node already (409).
pub(super) fn bind(api: &Api, call: &Call, body: &Value) -> Result<Value, Status> {
    let resource = &call.target.resource;
    let name = call.target.name.as_deref().unwrap_or_default();
    let mut state = api.lock();
    let pod = state
        .find(&call.target)
        .ok_or_else(|| Status::not_found(resource, name))?;
    if let Some(node) = pod["spec"]["nodeName"]
        .as_str()
        .filter(|node| !node.is_empty())
    {
        let why = format!("pod {name} is already assigned to node \"{node}\"");
        return Err(Status::conflict(resource, name, &why));
    }
    let mut pod = Value::clone(&pod);
    pod["spec"]["nodeName"] = body["target"]["name"].clone();
    let condition =
        json!({ "type": "PodScheduled", "status": "True", "lastTransitionTime": meta::now() });
    pod["status"]["conditions"] = json!([condition]);
    state
        .store
        .put(key(resource, call.target.place(), name), pod);
    Ok(success(StatusCode::CREATED))
}

/// The `Status` object of what was done.
pub(super) fn success(code: StatusCode) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code.as_u16(),
    })
}
