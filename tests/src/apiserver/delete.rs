//! delete and deletecollection: at once, after a grace period, or when the last finalizer is gone.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    admission::{self, Operation},
    crd, events, kinds, meta,
    read::Selection,
    request::Target,
    resource::Resource,
    state::{Api, Call, State, key},
    status::Status,
    store::Key,
};

/// How often a deletion that another write overtakes is tried again.
const TRIES: usize = 20;

/// `DeleteOptions`, from the body or the query.
#[derive(Clone, Debug, Default)]
pub(super) struct Options {
    grace: Option<i64>,
    uid: Option<String>,
    version: Option<String>,
    propagation: Option<String>,
    dry_run: bool,
}

impl Options {
    /// # Errors
    /// Values that are none.
    pub(super) fn read(call: &Call, body: &Value) -> Result<Self, Status> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let mut options = Self {
            grace: body["gracePeriodSeconds"].as_i64(),
            uid: text(&body["preconditions"]["uid"]),
            version: text(&body["preconditions"]["resourceVersion"]),
            propagation: text(&body["propagationPolicy"]),
            dry_run: body["dryRun"]
                .as_array()
                .is_some_and(|list| !list.is_empty()),
        };
        if body["orphanDependents"] == true {
            options.propagation = Some("Orphan".to_owned());
        }
        if body.is_null() {
            options.grace = call.query.number("gracePeriodSeconds")?;
            options.propagation = call.query.find("propagationPolicy").map(str::to_owned);
            options.dry_run = call.query.dry_run()?;
        }
        let known = ["Orphan", "Background", "Foreground"];
        match options.propagation.as_deref() {
            Some(policy) if !known.contains(&policy) => Err(Status::unprocessable(format!(
                "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: \"{policy}\": \
                 must be one of Foreground,Background,Orphan"
            ))),
            _ => Ok(options),
        }
    }

    fn check(&self, resource: &Resource, object: &Value) -> Result<(), Status> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let found = |field: &str| {
            object["metadata"][field]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        if let Some(uid) = &self.uid
            && *uid != found("uid")
        {
            let why = format!(
                "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have \
                 been deleted and then recreated",
                found("uid")
            );
            return Err(Status::conflict(resource, name, &why));
        }
        if let Some(version) = &self.version
            && *version != found("resourceVersion")
        {
            let why = format!(
                "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record \
                 ({}). The object might have been modified",
                found("resourceVersion")
            );
            return Err(Status::conflict(resource, name, &why));
        }
        Ok(())
    }
}

/// Deletes an object, or begins its deletion; says what the caller is told.
///
/// # Errors
/// It is not there (404), a precondition does not hold (409), a webhook says no.
pub(super) async fn delete(
    api: &Arc<Api>,
    call: &Call,
    options: &Options,
) -> Result<Value, Status> {
    let resource = &call.target.resource;
    let name = call.target.name.as_deref().unwrap_or_default();
    for _ in 0..TRIES {
        let found = api.lock().find(&call.target);
        let stored = found.ok_or_else(|| Status::not_found(resource, name))?;
        options.check(resource, &stored)?;
        let old = events::view(&stored, resource).into_owned();
        admission::validate(api, call, Operation::Delete, None, Some(&old)).await?;
        let mut state = api.lock();
        if state.find(&call.target).as_ref() != Some(&stored) {
            continue;
        }
        return Ok(delete_stored(&mut state, call, name, &stored, options));
    }
    Err(Status::modified(resource, name))
}

fn delete_stored(
    state: &mut State,
    call: &Call,
    name: &str,
    stored: &Value,
    options: &Options,
) -> Value {
    let resource = &call.target.resource;
    let place = key(resource, call.target.place(), name);
    let mut object = stored.clone();
    collect_garbage(&mut object, options);
    let grace = kinds::grace(resource, &object, options.grace);
    let waits = !meta::finalizers(&object).is_empty()
        || (resource.is("", "namespaces")
            && object["spec"]["finalizers"]
                .as_array()
                .is_some_and(|list| !list.is_empty()));
    let deleting = meta::is_deleting(&object);
    let left = object["metadata"]["deletionGracePeriodSeconds"]
        .as_i64()
        .unwrap_or_default();
    let now = jiff::Timestamp::now();
    match grace {
        // The grace period that runs can only be made shorter.
        Some(seconds) if deleting && left > 0 && seconds >= left && options.grace != Some(0) => {}
        Some(seconds) if seconds > 0 || (!deleting && waits) => {
            kinds::mark_deleting(&mut object, now, seconds);
        }
        _ if waits && !deleting => kinds::mark_deleting(&mut object, now, 0),
        _ if waits => {}
        _ => {
            let whole = kinds::returns_deleted(resource);
            if !options.dry_run {
                if grace.is_some() && !deleting {
                    // Watches see that the pod is being deleted before they see that it is gone.
                    kinds::mark_deleting(&mut object, now, 0);
                    state.store.put(place.clone(), object.clone());
                }
                if let Some(last) = state.store.remove(&place) {
                    object = Value::clone(&last);
                }
                gone(state, resource, &object);
            }
            return if whole {
                object
            } else {
                deleted(resource, name, &object)
            };
        }
    }
    if resource.is("", "namespaces") {
        object["status"]["phase"] = "Terminating".into();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("deletionGracePeriodSeconds");
        }
    }
    if options.dry_run || object == *stored {
        return object;
    }
    let stored = state.store.put(place, object);
    events::view(&stored, resource).into_owned()
}

/// The finalizers by which the garbage collector is asked to act first.
fn collect_garbage(object: &mut Value, options: &Options) {
    let mut finalizers: Vec<String> = meta::finalizers(object)
        .into_iter()
        .map(str::to_owned)
        .collect();
    let before = finalizers.clone();
    let wanted = match options.propagation.as_deref() {
        Some("Foreground") => Some("foregroundDeletion"),
        Some("Orphan") => Some("orphan"),
        Some(_) => None,
        None => return,
    };
    finalizers.retain(|name| {
        Some(name.as_str()) == wanted || (name != "foregroundDeletion" && name != "orphan")
    });
    if let Some(wanted) = wanted
        && !finalizers.iter().any(|name| name == wanted)
    {
        finalizers.push(wanted.to_owned());
    }
    if finalizers != before {
        object["metadata"]["finalizers"] = finalizers.into();
        meta::tidy(object);
    }
}

/// Deletes all objects of a selection and says which they were.
///
/// # Errors
/// Those of a deletion; what was deleted before the error stays deleted.
pub(super) async fn delete_collection(
    api: &Arc<Api>,
    call: &Call,
    options: &Options,
) -> Result<Value, Status> {
    let resource = &call.target.resource;
    let selection = Selection::new(call)?;
    let (found, revision) = {
        let state = api.lock();
        let listed = state.store.list(&selection.scope);
        let wanted = listed.filter(|(_, object)| selection.wants(object));
        let found: Vec<(Key, Arc<Value>)> = wanted.map(|(k, v)| (k.clone(), v.clone())).collect();
        (found, state.store.revision())
    };
    let mut items = Vec::new();
    for (key, object) in found {
        let namespace = (!key.namespace.is_empty()).then(|| key.namespace.clone());
        let target = Target {
            namespace,
            name: Some(key.name.clone()),
            ..call.target.clone()
        };
        let call = Call {
            target,
            ..call.clone()
        };
        match delete(api, &call, options).await {
            Err(status) if status.code == StatusCode::NOT_FOUND => {}
            Err(status) => return Err(status),
            Ok(_) => items.push(events::view(&object, resource).into_owned()),
        }
    }
    Ok(json!({
        "kind": resource.list_kind,
        "apiVersion": resource.api_version(),
        "metadata": { "resourceVersion": revision.to_string() },
        "items": items,
    }))
}

/// Whether nothing holds an object any longer whose deletion has begun.
pub(super) fn is_released(object: &Value) -> bool {
    let none = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    let namespace = object["kind"] != "Namespace" || none(&object["spec"]["finalizers"]);
    meta::is_deleting(object)
        && none(&object["metadata"]["finalizers"])
        && namespace
        && object["metadata"]["deletionGracePeriodSeconds"]
            .as_i64()
            .unwrap_or_default()
            == 0
}

/// What else goes with an object.
pub(super) fn gone(state: &mut State, resource: &Resource, object: &Value) {
    if resource.is("", "services") {
        state.addresses.release(object);
    }
    crd::removed(state, resource, object);
}

fn deleted(resource: &Resource, name: &str, object: &Value) -> Value {
    let mut details =
        json!({ "name": name, "kind": resource.plural, "uid": object["metadata"]["uid"] });
    if !resource.group.is_empty() {
        details["group"] = resource.group.as_str().into();
    }
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    })
}
