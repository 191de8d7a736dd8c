//! From a body to an object of the kind and place that the path names.

use serde_json::{Value, json};

use super::{crd, state::Call, status::Status, typed};

/// Checks that a body is an object of the call's kind and place, and completes what the path says.
pub(super) fn decode(call: &Call, mut object: Value) -> Result<Value, Status> {
    if !object.is_object() {
        return Err(Status::bad_request("the body of the request is no object"));
    }
    kind_matches(call, &object)?;
    let resource = &call.target.resource;
    object["kind"] = resource.kind.as_str().into();
    object["apiVersion"] = resource.api_version().into();
    if object["metadata"].is_null() {
        object["metadata"] = json!({});
    }
    if !object["metadata"].is_object() {
        return Err(Status::bad_request("metadata is no object"));
    }
    let place = call.target.place();
    let given = object["metadata"]["namespace"].as_str().unwrap_or_default();
    if place.is_empty() {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("namespace");
        }
    } else if given.is_empty() {
        object["metadata"]["namespace"] = place.into();
    } else if given != place {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    crd::prune(resource, &mut object);
    typed::conform(resource, object, &call.query)
}

/// Checks the `kind` and `apiVersion` that a body says.
///
/// # Errors
/// They are not those of the path: 400.
pub(super) fn kind_matches(call: &Call, object: &Value) -> Result<(), Status> {
    let resource = &call.target.resource;
    let (kind, version) = match call.target.subresource.as_str() {
        "scale" => ("Scale".to_owned(), "autoscaling/v1".to_owned()),
        _ => (resource.kind.clone(), resource.api_version()),
    };
    let given = |field: &str| object[field].as_str().filter(|text| !text.is_empty());
    if let Some(given) = given("apiVersion")
        && given != version
    {
        return Err(Status::bad_request(format!(
            "the API version in the data ({given}) does not match the expected API version ({version})"
        )));
    }
    if let Some(given) = given("kind")
        && given != kind
    {
        return Err(Status::bad_request(format!(
            "{given} in version {version:?} cannot be handled as a {kind}: no kind {given:?} is registered for version {version:?}"
        )));
    }
    Ok(())
}

/// Whether a body says which version of the object it replaces.
pub(super) fn has_version(object: &Value) -> bool {
    let version = object["metadata"]["resourceVersion"].as_str();
    version.is_some_and(|version| !version.is_empty() && version != "0")
}

/// The server's own fields can't be given at creation.
pub(super) fn wipe_system_fields(object: &mut Value) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in [
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "resourceVersion",
            "selfLink",
            "generation",
        ] {
            metadata.remove(field);
        }
    }
}
