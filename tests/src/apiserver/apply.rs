//! Who owns which field of an object (`metadata.managedFields`), and server-side apply.
//!
//! The rules are those of `sigs.k8s.io/structured-merge-diff/merge`: an applier owns what it applies; applying what
//! another owns with another value is a conflict, unless forced; what an applier no longer applies and nobody
//! else owns goes away. Other writers own what they change.

mod fieldset;
mod merge;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use self::fieldset::{Comparison, FieldSet, Path, display};
use super::{meta, schema::Schema, state::Call, status::Status};

/// Who writes. Appliers are the same manager whatever version they apply.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Manager {
    operation: String,
    name: String,
    version: String,
    subresource: String,
}

/// What a manager owns, since when.
#[derive(Clone, Debug, PartialEq)]
struct Owned {
    fields: FieldSet,
    version: String,
    time: String,
}

/// All managers of an object.
#[derive(Clone, Debug, Default, PartialEq)]
struct Managers(BTreeMap<Manager, Owned>);

/// Notes who owns what after an ordinary write that makes `object` of `old` (null or `{}`: it is created).
pub(super) fn track(call: &Call, old: &Value, object: &mut Value) {
    let resource = &call.target.resource;
    let given = object["metadata"]["managedFields"].as_array();
    // The way to get rid of all owners (`[{}]` as well).
    let reset = given.is_some_and(|list| list.iter().all(|entry| entry == &json!({})));
    let created = old["metadata"]["uid"].is_null();
    // Who writes an object whole may also say who owns what.
    let told = given.is_some() && call.target.subresource.is_empty();
    let mut managers = Managers::parse(if told { &*object } else { old });
    if reset || (managers.0.is_empty() && !created) {
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        return;
    }
    let mut difference = Comparison::new(old, object, &Schema::of(resource));
    for set in [&mut difference.set, &mut difference.removed] {
        strip(call, set);
    }
    let own = Manager {
        operation: "Update".to_owned(),
        name: call.manager.clone(),
        version: resource.api_version(),
        subresource: call.target.subresource.clone(),
    };
    for (manager, owned) in &mut managers.0 {
        owned.fields.remove(&difference.removed);
        if *manager != own {
            owned.fields.remove(&difference.set);
        }
    }
    let before = managers
        .0
        .get(&own)
        .map(|owned| owned.fields.clone())
        .unwrap_or_default();
    let mut fields = before.clone();
    fields.add(&difference.set);
    if fields != before {
        managers.own(own, fields, resource.api_version());
    }
    managers.write(object);
}

/// The object that an apply patch makes of a stored one (`{}`: it is created), or `None` where it changes nothing.
///
/// # Errors
/// Others own fields that it would change: 409, unless forced.
pub(super) fn apply(
    call: &Call,
    old: &Value,
    wanted: &Value,
    force: bool,
) -> Result<Option<Value>, Status> {
    let resource = &call.target.resource;
    let schema = Schema::of(resource);
    let created = old["metadata"]["uid"].is_null();
    let mut managers = Managers::parse(old);
    if managers.0.is_empty() && !created {
        let first = Manager {
            operation: "Update".to_owned(),
            name: "before-first-apply".to_owned(),
            version: resource.api_version(),
            subresource: String::new(),
        };
        let mut fields = FieldSet::of(old, &schema);
        strip(call, &mut fields);
        managers.own(first, fields, resource.api_version());
    }
    let own = Manager {
        operation: "Apply".to_owned(),
        name: call.manager.clone(),
        version: String::new(),
        subresource: call.target.subresource.clone(),
    };
    let mut fields = FieldSet::of(wanted, &schema);
    strip(call, &mut fields);
    let mut object = merge::merge(old, wanted, &schema);
    let last = managers
        .0
        .get(&own)
        .map(|owned| owned.fields.clone())
        .unwrap_or_default();
    let others = |path: &Path| {
        managers
            .0
            .iter()
            .any(|(manager, owned)| *manager != own && owned.fields.reaches(path))
    };
    let dropped = last
        .0
        .iter()
        .filter(|path| !fields.reaches(path) && !others(path));
    // Outer fields first: a list's item is found by fields of its own.
    for path in dropped {
        merge::remove(&mut object, path);
    }
    let mut difference = Comparison::new(old, &object, &schema);
    strip(call, &mut difference.set);
    let mut conflicts = Vec::new();
    for (manager, owned) in managers
        .0
        .iter_mut()
        .filter(|(manager, _)| **manager != own)
    {
        let common = owned.fields.common(&difference.set);
        conflicts.extend(
            common
                .0
                .iter()
                .map(|path| (manager.describe(), display(path))),
        );
        owned.fields.remove(&common);
        owned.fields.remove(&difference.removed);
    }
    if !conflicts.is_empty() && !force {
        return Err(Status::apply_conflict(&conflicts));
    }
    if last != fields {
        managers.own(own, fields, resource.api_version());
    }
    managers.write(&mut object);
    Ok((object != *old).then_some(object))
}

/// A write that changes nothing but the times in `managedFields` changes nothing.
pub(super) fn keep_times(object: &mut Value, old: &Value) {
    let without = |object: &Value| {
        let list = object["metadata"]["managedFields"].as_array();
        let entries = list.into_iter().flatten().map(|entry| {
            let mut entry = entry.clone();
            entry["time"] = Value::Null;
            entry
        });
        entries.collect::<Vec<_>>()
    };
    if without(object) == without(old) {
        let kept = old["metadata"]["managedFields"].clone();
        object["metadata"]["managedFields"] = kept;
        meta::tidy(object);
    }
}

/// Takes what nobody owns out of a set, and what this kind of write can't change.
fn strip(call: &Call, set: &mut FieldSet) {
    let resource = &call.target.resource;
    let status_apart = resource.has("status");
    let of_status = call.target.subresource == "status";
    set.retain(|path| {
        let steps: Vec<&str> = path.iter().map(String::as_str).collect();
        match steps.as_slice() {
            ["f:apiVersion" | "f:kind" | "f:metadata"] => false,
            [
                "f:metadata",
                "f:name"
                | "f:namespace"
                | "f:creationTimestamp"
                | "f:selfLink"
                | "f:uid"
                | "f:generation"
                | "f:managedFields"
                | "f:resourceVersion"
                | "f:deletionTimestamp"
                | "f:deletionGracePeriodSeconds"
                | "f:generateName",
                ..,
            ] => steps[1] == "f:generateName",
            ["f:status", ..] => of_status || !status_apart,
            _ => !of_status,
        }
    });
}

impl Manager {
    /// As a conflict names it.
    fn describe(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text += &format!(" with subresource {:?}", self.subresource);
        }
        if self.operation == "Update" {
            text += &format!(" using {}", self.version);
        }
        text
    }
}

impl Managers {
    fn parse(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let entries = object["metadata"]["managedFields"].as_array();
        let parse = |entry: &Value| {
            let operation = text(&entry["operation"]);
            let version = text(&entry["apiVersion"]);
            let manager = Manager {
                name: text(&entry["manager"]),
                version: if operation == "Apply" {
                    String::new()
                } else {
                    version.clone()
                },
                operation,
                subresource: text(&entry["subresource"]),
            };
            let owned = Owned {
                fields: FieldSet::parse(&entry["fieldsV1"]),
                version,
                time: text(&entry["time"]),
            };
            (manager, owned)
        };
        Self(entries.into_iter().flatten().map(parse).collect())
    }

    fn own(&mut self, manager: Manager, fields: FieldSet, version: String) {
        let owned = Owned {
            fields,
            version,
            time: meta::now(),
        };
        self.0.insert(manager, owned);
    }

    fn write(&self, object: &mut Value) {
        let held = self.0.iter().filter(|(_, owned)| !owned.fields.is_empty());
        let mut held: Vec<_> = held.collect();
        held.sort_by_key(|(manager, owned)| (manager.operation.clone(), owned.time.clone()));
        let entries = held.into_iter().map(|(manager, owned)| {
            let mut entry = json!({
                "manager": manager.name,
                "operation": manager.operation,
                "apiVersion": owned.version,
                "time": owned.time,
                "fieldsType": "FieldsV1",
                "fieldsV1": owned.fields.render(),
            });
            if !manager.subresource.is_empty() {
                entry["subresource"] = manager.subresource.as_str().into();
            }
            entry
        });
        object["metadata"]["managedFields"] = entries.collect();
    }
}
