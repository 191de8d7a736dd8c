//! create, replace and patch: one way for all of them, as in the real server.
//!
//! decode → patch → owners of fields → mutating admission → the kind's own completion → validation → validating
//! admission → store. A write that another one overtook is tried again from what is stored now, unless
//! the caller said what must be stored.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    admission::{self, Operation},
    apply, crd,
    decode::{decode, has_version, kind_matches, wipe_system_fields},
    delete, events, kinds, meta, patch,
    resource::Resource,
    schema::Schema,
    state::{Api, Call, State, key},
    status::{Cause, Status},
    subresource, typed,
};

/// How often a write that is overtaken is tried again.
const TRIES: usize = 20;
/// How often a generated name that is taken is made anew.
const NAMES: usize = 8;

/// The kinds of patch, by their media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patch {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl Patch {
    /// # Errors
    /// The media type is none that the resource takes: 415.
    pub(super) fn of(media: &str, resource: &Resource) -> Result<Self, Status> {
        let media = media.split(';').next().unwrap_or_default().trim();
        let found = match media {
            "application/json-patch+json" => Self::Json,
            "application/merge-patch+json" => Self::Merge,
            "application/strategic-merge-patch+json" if resource.custom.is_none() => {
                Self::Strategic
            }
            "application/apply-patch+yaml" => Self::Apply,
            _ if resource.custom.is_some() => {
                return Err(Status::unsupported_media_type(
                    "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
                ));
            }
            _ => {
                return Err(Status::unsupported_media_type(
                    "application/json-patch+json, application/merge-patch+json, \
                     application/strategic-merge-patch+json, application/apply-patch+yaml",
                ));
            }
        };
        Ok(found)
    }
}

/// Creates an object.
///
/// # Errors
/// All that the real server refuses.
pub(super) async fn create(api: &Arc<Api>, call: &Call, body: Value) -> Result<Value, Status> {
    let resource = &call.target.resource;
    let mut object = decode(call, body)?;
    wipe_system_fields(&mut object);
    kinds::fill_in(resource, &mut object);
    apply::track(call, &json!({}), &mut object);
    create_decoded(api, call, object).await
}

async fn create_decoded(api: &Arc<Api>, call: &Call, mut object: Value) -> Result<Value, Status> {
    let resource = &call.target.resource;
    object["metadata"]["uid"] = meta::uid().into();
    object["metadata"]["creationTimestamp"] = meta::now().into();
    namespace_is_active(api, call)?;
    kinds::fill_in(resource, &mut object);
    let named = object["metadata"]["name"]
        .as_str()
        .is_some_and(|name| !name.is_empty());
    let mut object = admission::mutate(api, call, Operation::Create, object, None).await?;
    kinds::fill_in(resource, &mut object);
    kinds::prepare_create(resource, &mut object);
    for attempt in 1.. {
        let mut object = object.clone();
        if !named && let Some(prefix) = object["metadata"]["generateName"].as_str() {
            object["metadata"]["name"] = meta::generate_name(prefix).into();
            kinds::fill_in(resource, &mut object);
        }
        meta::tidy(&mut object);
        let name = object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        validate(resource, &object, None, &name)?;
        admission::validate(api, call, Operation::Create, Some(&object), None).await?;
        match insert(api, call, object, &name) {
            Err(taken) if !named && taken.reason == "AlreadyExists" && attempt < NAMES => {}
            done => return done,
        }
    }
    unreachable!("the loop ends by its attempts")
}

fn insert(api: &Api, call: &Call, mut object: Value, name: &str) -> Result<Value, Status> {
    let resource = &call.target.resource;
    let place = key(resource, call.target.place(), name);
    let mut state = api.lock();
    if state.store.find(&place).is_some() {
        return Err(Status::already_exists(resource, name));
    }
    let dry_run = call.query.dry_run()?;
    if resource.is("", "services") {
        let allocated = state.addresses.allocate(&mut object);
        allocated.map_err(|cause| Status::invalid(resource, name, &[cause]))?;
        if dry_run {
            state.addresses.release(&object);
        }
    }
    if dry_run {
        return Ok(object);
    }
    let stored = state.store.put(place, events::stored(object, resource));
    let shown = events::view(&stored, resource).into_owned();
    crd::changed(&mut state, resource, name);
    Ok(shown)
}

/// Replaces an object; some kinds are created by that.
///
/// # Errors
/// All that the real server refuses.
pub(super) async fn replace(
    api: &Arc<Api>,
    call: &Call,
    body: Value,
) -> Result<(StatusCode, Value), Status> {
    let resource = &call.target.resource;
    let name = call.target.name.as_deref().unwrap_or_default();
    let wanted = if call.target.subresource == "scale" {
        body
    } else {
        decode(call, body)?
    };
    let given = wanted["metadata"]["name"].as_str().unwrap_or_default();
    if given != name {
        let message =
            format!("the name of the object ({given}) does not match the name on the URL ({name})");
        return Err(Status::bad_request(if given.is_empty() {
            "name must be provided".to_owned()
        } else {
            message
        }));
    }
    let creates = kinds::allows_create_on_update(resource) && call.target.subresource.is_empty();
    let there = api.lock().find(&call.target).is_some();
    if !there && creates && !has_version(&wanted) {
        let object = create(api, call, wanted).await?;
        return Ok((StatusCode::CREATED, object));
    }
    let replace = |old: &Value| Ok(Some(tracked(call, old, wanted.clone())?));
    let unconditional = !has_version(&wanted);
    if unconditional
        && call.target.subresource.is_empty()
        && !kinds::allows_unconditional_update(resource)
    {
        // A missing object is said first.
        if !there {
            return Err(Status::not_found(resource, name));
        }
        let cause = Cause::invalid(
            "metadata.resourceVersion",
            &json!(0),
            "must be specified for an update",
        );
        return Err(Status::invalid(resource, name, &[cause]));
    }
    let object = update(api, call, Operation::Update, replace).await?;
    Ok((StatusCode::OK, object))
}

/// Patches an object; an apply patch creates what is not there.
///
/// # Errors
/// All that the real server refuses.
pub(super) async fn patch(
    api: &Arc<Api>,
    call: &Call,
    kind: Patch,
    body: Value,
) -> Result<(StatusCode, Value), Status> {
    let resource = &call.target.resource;
    if kind == Patch::Apply {
        return apply_patch(api, call, body).await;
    }
    let change = |old: &Value| {
        let mut object = subresource::shown(call, old);
        match kind {
            Patch::Json => patch::json(&mut object, body.clone())?,
            Patch::Merge => patch::merge(&mut object, &body),
            _ => patch::strategic(&mut object, &body, &Schema::of(resource))?,
        }
        if !object.is_object() {
            return Err(Status::bad_request("the patched object is no object"));
        }
        kind_matches(call, &object)?;
        Ok(Some(tracked(call, old, object)?))
    };
    let object = update(api, call, Operation::Update, change).await?;
    Ok((StatusCode::OK, object))
}

async fn apply_patch(
    api: &Arc<Api>,
    call: &Call,
    body: Value,
) -> Result<(StatusCode, Value), Status> {
    let resource = &call.target.resource;
    let name = call.target.name.clone().unwrap_or_default();
    if call.query.find("fieldManager").is_none() {
        return Err(Status::unprocessable(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    let mut wanted = decode(call, body)?;
    if wanted["metadata"]["managedFields"]
        .as_array()
        .is_some_and(|list| !list.is_empty())
    {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    if wanted["metadata"]["name"].is_null() {
        wanted["metadata"]["name"] = name.as_str().into();
    }
    let given = wanted["metadata"]["name"].as_str().unwrap_or_default();
    if given != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    let force = call.query.flag("force");
    let subresource = call.target.subresource.as_str();
    for _ in 0..TRIES {
        if api.lock().find(&call.target).is_some() {
            let change = |old: &Value| {
                let version = &wanted["metadata"]["resourceVersion"];
                if version.is_string() && *version != old["metadata"]["resourceVersion"] {
                    return Err(Status::modified(resource, &name));
                }
                apply::apply(call, old, &wanted, force)
            };
            match update(api, call, Operation::Update, change).await {
                Err(gone) if gone.reason == "NotFound" && subresource.is_empty() => {}
                done => return done.map(|object| (StatusCode::OK, object)),
            }
        } else {
            if has_version(&wanted) || !subresource.is_empty() {
                return Err(Status::not_found(resource, &name));
            }
            if wanted["metadata"]["uid"].is_string() {
                let why = "uid mismatch: the provided object specified uid, and no existing object was found";
                return Err(Status::conflict(resource, &name, why));
            }
            let empty = json!({ "metadata": {} });
            let applied = apply::apply(call, &empty, &wanted, force)?;
            let object = applied.unwrap_or_else(|| wanted.clone());
            match create_decoded(api, call, object).await {
                Err(there) if there.reason == "AlreadyExists" => {}
                done => return done.map(|object| (StatusCode::CREATED, object)),
            }
        }
    }
    Err(Status::modified(resource, &name))
}

/// What a full object that was sent makes of the stored one, and who owns its fields then.
fn tracked(call: &Call, old: &Value, wanted: Value) -> Result<Value, Status> {
    let resource = &call.target.resource;
    let object = subresource::replaced(call, old, wanted)?;
    let mut object = typed::conform(resource, object, &call.query)?;
    kinds::fill_in(resource, &mut object);
    apply::track(call, old, &mut object);
    Ok(object)
}

/// Changes an object by `change`, which sees what is stored and says what shall be, or `None` for no change.
async fn update(
    api: &Arc<Api>,
    call: &Call,
    operation: Operation,
    change: impl Fn(&Value) -> Result<Option<Value>, Status>,
) -> Result<Value, Status> {
    let resource = &call.target.resource;
    let name = call.target.name.as_deref().unwrap_or_default();
    for _ in 0..TRIES {
        let found = api.lock().find(&call.target);
        let stored = found.ok_or_else(|| Status::not_found(resource, name))?;
        let old = events::view(&stored, resource).into_owned();
        let Some(mut object) = change(&old)? else {
            return Ok(subresource::shown(call, &old));
        };
        let version = object["metadata"]["resourceVersion"].as_str();
        if version.is_some_and(|version| version != old["metadata"]["resourceVersion"]) {
            return Err(Status::modified(resource, name));
        }
        if let Some(uid) = object["metadata"]["uid"].as_str()
            && old["metadata"]["uid"] != uid
        {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                old["metadata"]["uid"].as_str().unwrap_or_default()
            );
            return Err(Status::conflict(resource, name, &why));
        }
        keep_system_fields(&mut object, &old);
        let mut object = admission::mutate(api, call, operation, object, Some(&old)).await?;
        kinds::fill_in(resource, &mut object);
        if matches!(call.target.subresource.as_str(), "" | "scale") {
            kinds::prepare_update(resource, &mut object, &old);
        }
        meta::tidy(&mut object);
        apply::keep_times(&mut object, &old);
        let mut causes = meta::validate_update(&object, &old);
        causes.extend(kinds::validate(resource, &object, Some(&old)));
        if !causes.is_empty() {
            return Err(Status::invalid(resource, name, &causes));
        }
        validate(resource, &object, Some(&old), name)?;
        admission::validate(api, call, operation, Some(&object), Some(&old)).await?;
        let mut state = api.lock();
        if state.find(&call.target).as_ref() != Some(&stored) {
            // Another write came between: again, from what it left.
            continue;
        }
        let object = commit(&mut state, call, object, &old)?;
        return Ok(subresource::shown(call, &object));
    }
    Err(Status::modified(resource, name))
}

/// Stores what an update made, unless it changed nothing; an object whose last finalizer went goes too.
fn commit(state: &mut State, call: &Call, mut object: Value, old: &Value) -> Result<Value, Status> {
    let resource = &call.target.resource;
    let name = call.target.name.as_deref().unwrap_or_default();
    object["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
    if object == *old || call.query.dry_run()? {
        return Ok(object);
    }
    let place = key(resource, call.target.place(), name);
    if delete::is_released(&object) {
        let last = state.store.remove(&place);
        delete::gone(state, resource, &object);
        return Ok(last.map_or(object, |last| Value::clone(&last)));
    }
    if resource.is("", "services") && old["spec"]["clusterIPs"].is_null() {
        let allocated = state.addresses.allocate(&mut object);
        allocated.map_err(|cause| Status::invalid(resource, name, &[cause]))?;
    }
    let stored = state.store.put(place, events::stored(object, resource));
    let shown = events::view(&stored, resource).into_owned();
    crd::changed(state, resource, name);
    Ok(shown)
}

fn validate(
    resource: &Resource,
    object: &Value,
    old: Option<&Value>,
    name: &str,
) -> Result<(), Status> {
    let mut causes = meta::validate(resource, object);
    causes.extend(crd::validate(resource, object));
    if old.is_none() {
        causes.extend(kinds::validate(resource, object, None));
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(resource, name, &causes))
}

/// Nothing is created in a namespace that is not there, or that goes (admission plugin NamespaceLifecycle).
fn namespace_is_active(api: &Api, call: &Call) -> Result<(), Status> {
    let Some(name) = &call.target.namespace else {
        return Ok(());
    };
    let state = api.lock();
    let Some(namespace) = state.namespace(name) else {
        let namespaces = Resource {
            plural: "namespaces".to_owned(),
            ..Resource::default()
        };
        return Err(Status::not_found(&namespaces, name));
    };
    if meta::is_deleting(namespace) {
        let why = format!(
            "unable to create new content in namespace {name} because it is being terminated"
        );
        let status = Status::forbidden(&call.target.resource, "", &why);
        let message = format!("namespace {name} is being terminated");
        return Err(status.because("NamespaceTerminating", &message, "metadata.namespace"));
    }
    Ok(())
}

/// An update can't change them.
fn keep_system_fields(object: &mut Value, old: &Value) {
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
    ] {
        object["metadata"][field] = old["metadata"][field].clone();
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("selfLink");
    }
}
