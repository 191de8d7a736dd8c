//! CustomResourceDefinitions: what they define is served as soon as they are there.

use serde_json::{Value, json};

use super::{
    meta,
    resource::{Custom, Resource},
    state::{State, key},
    status::Cause,
    store::Scope,
};

/// To be called after an object of any kind was stored: a definition takes effect, and its status says so.
pub(super) fn changed(state: &mut State, resource: &Resource, name: &str) {
    if !resource.is("apiextensions.k8s.io", "customresourcedefinitions") {
        return;
    }
    let place = key(resource, "", name);
    let Some(definition) = state.store.find(&place).cloned() else {
        return;
    };
    let spec = &definition["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    state
        .table
        .remove_custom(&text(&spec["group"]), &text(&spec["names"]["plural"]));
    let versions = spec["versions"].as_array().into_iter().flatten();
    for version in versions.filter(|version| version["served"] == true) {
        state.table.insert(served(spec, version));
    }
    if !definition["status"]["conditions"].is_null() {
        return;
    }
    let mut established = Value::clone(&definition);
    let stored = spec["versions"].as_array().into_iter().flatten();
    let stored = stored.filter(|version| version["storage"] == true);
    let stored: Vec<&Value> = stored.map(|version| &version["name"]).collect();
    let condition = |kind: &str, reason: &str, message: &str| {
        json!({
            "type": kind,
            "status": "True",
            "reason": reason,
            "message": message,
            "lastTransitionTime": meta::now(),
        })
    };
    established["status"] = json!({
        "acceptedNames": spec["names"],
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
        "storedVersions": stored,
    });
    state.store.put(place, established);
}

/// To be called after an object of any kind was deleted: what a definition defined goes with it.
pub(super) fn removed(state: &mut State, resource: &Resource, object: &Value) {
    if !resource.is("apiextensions.k8s.io", "customresourcedefinitions") {
        return;
    }
    let spec = &object["spec"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (group, plural) = (text(&spec["group"]), text(&spec["names"]["plural"]));
    state.table.remove_custom(&group, &plural);
    let scope = Scope {
        resource: format!("{plural}.{group}").into(),
        namespace: None,
    };
    let keys: Vec<_> = state
        .store
        .list(&scope)
        .map(|(key, _)| key.clone())
        .collect();
    for key in keys {
        state.store.remove(&key);
    }
}

/// The resource that one version of a definition makes.
fn served(spec: &Value, version: &Value) -> Resource {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| {
        let items = value.as_array().into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let names = &spec["names"];
    let subresources = ["status", "scale"].into_iter();
    let subresources = subresources.filter(|name| !version["subresources"][name].is_null());
    let selectable = version["selectableFields"].as_array().into_iter().flatten();
    let selectable = selectable.filter_map(|field| field["jsonPath"].as_str());
    Resource {
        group: text(&spec["group"]),
        version: text(&version["name"]),
        plural: text(&names["plural"]),
        singular: text(&names["singular"]),
        kind: text(&names["kind"]),
        list_kind: text(&names["listKind"]),
        short_names: list(&names["shortNames"]),
        categories: list(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        subresources: subresources.map(str::to_owned).collect(),
        custom: Some(Custom {
            schema: version["schema"]["openAPIV3Schema"].clone(),
            scale: version["subresources"]["scale"].clone(),
            selectable: selectable
                .map(|path| path.trim_start_matches('.').to_owned())
                .collect(),
        }),
    }
}

/// Drops what the schema of a custom resource does not know, and fills in its defaults.
pub(super) fn prune(resource: &Resource, object: &mut Value) {
    let Some(custom) = &resource.custom else {
        return;
    };
    let kept: Vec<(&str, Value)> = ["kind", "apiVersion", "metadata"]
        .into_iter()
        .map(|field| (field, object[field].take()))
        .collect();
    prune_by(&custom.schema, object);
    for (field, value) in kept {
        object[field] = value;
    }
}

fn prune_by(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            let preserve = schema["x-kubernetes-preserve-unknown-fields"] == true;
            let free = &schema["additionalProperties"];
            let known = schema["properties"].as_object();
            map.retain(|field, _| {
                preserve || !free.is_null() || known.is_some_and(|known| known.contains_key(field))
            });
            for (field, schema) in known.into_iter().flatten() {
                if let Some(default) = schema.get("default")
                    && map.get(field).is_none_or(Value::is_null)
                {
                    map.insert(field.clone(), default.clone());
                }
            }
            for (field, value) in map {
                let schema = known.and_then(|known| known.get(field)).unwrap_or(free);
                if !(preserve && schema.is_null()) {
                    prune_by(schema, value);
                }
            }
        }
        Value::Array(list) => {
            for item in list {
                prune_by(&schema["items"], item);
            }
        }
        _ => {}
    }
}

/// Checks an object of a custom resource by its schema.
pub(super) fn validate(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if let Some(custom) = &resource.custom {
        let properties = custom.schema["properties"].as_object();
        for (field, schema) in properties.into_iter().flatten() {
            if field != "metadata"
                && let Some(value) = object.get(field)
            {
                check(schema, value, field, &mut causes);
            }
        }
        require(&custom.schema, object, "", &mut causes);
    }
    causes
}

fn require(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    for field in schema["required"].as_array().into_iter().flatten() {
        let field = field.as_str().unwrap_or_default();
        if value.get(field).is_none() {
            causes.push(Cause::required(&join(path, field), ""));
        }
    }
}

fn check(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if value.is_null() {
        return;
    }
    let wanted = schema["type"].as_str().unwrap_or_default();
    let found = match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::Null => "null",
    };
    let either = schema["x-kubernetes-int-or-string"] == true;
    let fits = wanted.is_empty()
        || wanted == found
        || (wanted == "number" && found == "integer")
        || (either && matches!(found, "integer" | "string"));
    if !fits {
        causes.push(Cause {
            field: path.to_owned(),
            kind: "FieldValueTypeInvalid",
            message: format!(
                "Invalid value: \"{found}\": {path} in body must be of type {wanted}: \"{found}\""
            ),
        });
        return;
    }
    limits(schema, value, path, causes);
    match value {
        Value::Object(map) => {
            require(schema, value, path, causes);
            for (field, value) in map {
                let schema = schema["properties"].get(field);
                if let Some(schema) = schema {
                    check(schema, value, &join(path, field), causes);
                }
            }
        }
        Value::Array(list) => {
            for (index, item) in list.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{index}]"), causes);
            }
        }
        _ => {}
    }
}

fn limits(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let allowed: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        causes.push(Cause::unsupported(path, value, &allowed));
    }
    let mut refuse = |detail: String| causes.push(Cause::invalid(path, value, &detail));
    if let (Some(least), Some(number)) = (schema["minimum"].as_f64(), value.as_f64())
        && number < least
    {
        refuse(format!(
            "{path} in body should be greater than or equal to {least}"
        ));
    }
    if let (Some(most), Some(number)) = (schema["maximum"].as_f64(), value.as_f64())
        && number > most
    {
        refuse(format!(
            "{path} in body should be less than or equal to {most}"
        ));
    }
    let length = match value {
        Value::String(text) => Some((text.chars().count(), "minLength", "maxLength", "chars long")),
        Value::Array(list) => Some((list.len(), "minItems", "maxItems", "items")),
        _ => None,
    };
    if let Some((length, min, max, what)) = length {
        if schema[min]
            .as_u64()
            .is_some_and(|least| (length as u64) < least)
        {
            refuse(format!(
                "{path} in body should be at least {} {what}",
                schema[min]
            ));
        }
        if schema[max]
            .as_u64()
            .is_some_and(|most| length as u64 > most)
        {
            refuse(format!(
                "{path} in body may not be longer than {} {what}",
                schema[max]
            ));
        }
    }
}

fn join(path: &str, field: &str) -> String {
    match path {
        "" => field.to_owned(),
        path => format!("{path}.{field}"),
    }
}
