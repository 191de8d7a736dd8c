//! `/openapi/v3`, as far as kubectl needs it: to learn that writes take `fieldValidation` and `dryRun`. There are no schemas in it.

use serde_json::{Map, Value, json};

use super::resource::Resource;

/// The document at a path below `/openapi/v3`, if there is one.
pub(super) fn document(served: &[Resource], steps: &[&str]) -> Option<Value> {
    match steps {
        [] => Some(index(served)),
        ["api", version] => group(served, "", version),
        ["apis", name, version] => group(served, name, version),
        _ => None,
    }
}

fn index(served: &[Resource]) -> Value {
    let paths: Map<String, Value> = served
        .iter()
        .map(|resource| {
            let prefix = if resource.group.is_empty() {
                "api"
            } else {
                "apis"
            };
            let path = format!("{prefix}/{}", resource.api_version());
            let url = json!({ "serverRelativeURL": format!("/openapi/v3/{path}") });
            (path, url)
        })
        .collect();
    json!({ "paths": paths })
}

fn group(served: &[Resource], group: &str, version: &str) -> Option<Value> {
    let here = |resource: &&Resource| resource.group == group && resource.version == version;
    let paths: Map<String, Value> = served.iter().filter(here).map(path).collect();
    (!paths.is_empty()).then(|| {
        json!({
            "openapi": "3.0.0",
            "info": { "title": "Kubernetes", "version": "in-memory" },
            "paths": paths,
            "components": { "schemas": {} },
        })
    })
}

fn path(resource: &Resource) -> (String, Value) {
    let prefix = if resource.group.is_empty() {
        "api"
    } else {
        "apis"
    };
    let namespace = if resource.namespaced {
        "namespaces/{namespace}/"
    } else {
        ""
    };
    let path = format!(
        "/{prefix}/{}/{namespace}{}/{{name}}",
        resource.api_version(),
        resource.plural
    );
    let parameter = |name: &str| json!({ "name": name, "in": "query", "schema": { "type": "string", "uniqueItems": true } });
    let parameters = ["dryRun", "fieldManager", "fieldValidation", "force"].map(parameter);
    let patch = json!({
        "parameters": parameters,
        "responses": { "200": { "description": "OK" } },
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": {
            "group": resource.group,
            "kind": resource.kind,
            "version": resource.version,
        },
    });
    (path, json!({ "patch": patch }))
}
