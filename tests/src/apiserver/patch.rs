//! Patches: JSON merge patch (RFC 7396), JSON patch (RFC 6902), and Kubernetes' strategic merge patch, which merges
//! the lists that it knows by key (`k8s.io/apimachinery/pkg/util/strategicpatch`).

use serde_json::{Map, Value};

use super::{
    schema::{List, Schema},
    status::Status,
};

/// JSON merge patch.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    json_patch::merge(target, patch);
}

/// JSON patch.
///
/// # Errors
/// It is none (400), or it does not apply (422).
pub(super) fn json(target: &mut Value, patch: Value) -> Result<(), Status> {
    let patch: json_patch::Patch =
        serde_json::from_value(patch).map_err(|why| Status::bad_request(why.to_string()))?;
    json_patch::patch(target, &patch).map_err(|why| {
        Status::unprocessable(format!(
            "the server rejected our request due to an error in our request ({why})"
        ))
    })
}

/// Strategic merge patch.
///
/// # Errors
/// A directive that makes no sense, or an item without its key: 400.
pub(super) fn strategic(
    target: &mut Value,
    patch: &Value,
    schema: &Schema<'_>,
) -> Result<(), Status> {
    match (&mut *target, patch) {
        (Value::Object(target), Value::Object(patch)) => merge_map(target, patch, schema),
        _ => {
            *target = bare(patch);
            Ok(())
        }
    }
}

fn merge_map(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    schema: &Schema<'_>,
) -> Result<(), Status> {
    match patch.get("$patch").map(Value::as_str) {
        None | Some(Some("merge")) => {}
        Some(Some("replace")) => {
            *target = members(patch).map(|(k, v)| (k.clone(), bare(v))).collect();
            return Ok(());
        }
        Some(Some("delete")) => {
            target.clear();
            return Ok(());
        }
        Some(other) => return Err(unknown_directive(other)),
    }
    if let Some(kept) = patch.get("$retainKeys").and_then(Value::as_array) {
        target.retain(|key, _| kept.iter().any(|kept| kept == key));
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().map(Vec::as_slice).unwrap_or_default();
            if let Some(Value::Array(list)) = target.get_mut(field) {
                list.retain(|item| !gone.contains(item));
            }
        }
    }
    for (field, value) in members(patch) {
        let schema = schema.field(field);
        match (target.get_mut(field), value) {
            (_, Value::Null) => {
                target.remove(field);
            }
            (Some(old @ Value::Object(_)), Value::Object(_)) => strategic(old, value, &schema)?,
            (Some(Value::Array(old)), Value::Array(new)) => merge_list(old, new, &schema)?,
            (None, Value::Object(map)) if map.get("$patch") == Some(&"delete".into()) => {}
            (None, Value::Array(new)) => {
                let mut list = Vec::new();
                merge_list(&mut list, new, &schema)?;
                target.insert(field.clone(), list.into());
            }
            (_, value) => {
                target.insert(field.clone(), bare(value));
            }
        }
    }
    for (key, order) in patch {
        if let Some(field) = key.strip_prefix("$setElementOrder/")
            && let (Some(Value::Array(list)), Some(order)) =
                (target.get_mut(field), order.as_array())
        {
            sort(list, order, &schema.field(field).list());
        }
    }
    Ok(())
}

fn merge_list(target: &mut Vec<Value>, patch: &[Value], schema: &Schema<'_>) -> Result<(), Status> {
    let replaces = |item: &Value| item["$patch"] == "replace";
    if patch.iter().any(replaces) {
        *target = patch
            .iter()
            .filter(|item| !replaces(item))
            .map(bare)
            .collect();
        return Ok(());
    }
    match schema.list() {
        List::Atomic => *target = patch.iter().map(bare).collect(),
        List::Set => {
            for item in patch {
                if !target.contains(item) {
                    target.push(item.clone());
                }
            }
        }
        List::Map(keys) => {
            // Strategic merging knows one key where server-side apply may know more.
            let key = keys.first().map(String::as_str).unwrap_or_default();
            for item in patch {
                let Some(value) = item.get(key) else {
                    return Err(Status::bad_request(format!(
                        "map: {item} does not contain declared merge key: {key}"
                    )));
                };
                let found = target.iter().position(|old| old.get(key) == Some(value));
                match (found, item["$patch"].as_str()) {
                    (Some(index), Some("delete")) => {
                        target.remove(index);
                    }
                    (None, Some("delete")) => {}
                    (Some(index), _) => strategic(&mut target[index], item, &schema.item())?,
                    (None, _) => target.push(bare(item)),
                }
            }
        }
    }
    Ok(())
}

/// Brings the items that an order names into that order, and leaves the others after them.
fn sort(list: &mut [Value], order: &[Value], kind: &List) {
    let place = |item: &Value| match kind {
        List::Map(keys) => {
            let key = keys.first().map(String::as_str).unwrap_or_default();
            order
                .iter()
                .position(|wanted| wanted.get(key) == item.get(key))
        }
        _ => order.iter().position(|wanted| wanted == item),
    };
    list.sort_by_key(|item| place(item).unwrap_or(usize::MAX));
}

/// A patch's value without directives.
fn bare(value: &Value) -> Value {
    match value {
        Value::Object(map) => members(map)
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), bare(value)))
            .collect(),
        Value::Array(list) => {
            let kept = list.iter().filter(|item| item["$patch"].is_null());
            kept.map(bare).collect()
        }
        other => other.clone(),
    }
}

fn members(map: &Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    map.iter().filter(|(key, _)| !key.starts_with('$'))
}

fn unknown_directive(directive: Option<&str>) -> Status {
    let directive = directive.unwrap_or_default();
    Status::bad_request(format!(
        "unknown patch type {directive:?} in a strategic merge patch"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::apiserver::resource::{Resource, Table};

    fn deployment() -> Resource {
        let table = Table::built_in();
        let found = table
            .find("apps", "v1", "deployments")
            .expect("deployments");
        Resource::clone(&found)
    }

    fn patched(mut target: Value, patch: Value) -> Value {
        strategic(&mut target, &patch, &Schema::of(&deployment())).expect("a patch");
        target
    }

    fn containers(list: Value) -> Value {
        json!({ "spec": { "template": { "spec": { "containers": list } } } })
    }

    #[test]
    fn containers_are_merged_by_name() {
        let old = containers(json!([{ "name": "a", "image": "1" }, { "name": "b", "image": "1" }]));
        let patch = containers(json!([{ "name": "b", "image": "2" }, { "name": "c" }]));
        assert_eq!(
            patched(old, patch),
            containers(json!([
                { "name": "a", "image": "1" }, { "name": "b", "image": "2" }, { "name": "c" },
            ]))
        );
    }

    #[test]
    fn directives() {
        let old = containers(json!([{ "name": "a", "args": ["x"] }, { "name": "b" }]));
        let delete = containers(json!([{ "name": "a", "$patch": "delete" }]));
        assert_eq!(
            patched(old.clone(), delete),
            containers(json!([{ "name": "b" }]))
        );
        let replace = containers(json!([{ "$patch": "replace" }, { "name": "z" }]));
        assert_eq!(
            patched(old.clone(), replace),
            containers(json!([{ "name": "z" }]))
        );
        let mut order = containers(json!([{ "name": "c" }]));
        order["spec"]["template"]["spec"]["$setElementOrder/containers"] =
            json!([{ "name": "c" }, { "name": "b" }, { "name": "a" }]);
        let sorted = patched(old, order);
        let names = &sorted["spec"]["template"]["spec"]["containers"];
        assert_eq!([&names[0]["name"], &names[2]["name"]], ["c", "a"]);
    }

    #[test]
    fn lists_without_a_key_are_replaced_and_null_deletes() {
        let old = containers(json!([{ "name": "a", "args": ["x", "y"], "image": "1" }]));
        let patch = containers(json!([{ "name": "a", "args": ["z"], "image": null }]));
        assert_eq!(
            patched(old, patch),
            containers(json!([{ "name": "a", "args": ["z"] }]))
        );
    }
}
