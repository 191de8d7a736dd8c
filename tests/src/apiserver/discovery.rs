//! What there is: `/version`, `/api`, `/apis` and what lies under them, and the health checks.

use std::collections::BTreeMap;

use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};

use super::{
    openapi,
    resource::Resource,
    respond::{self, Body, Form},
    review,
    state::Api,
    status::Status,
};

/// The version that this server says it is.
const VERSION: (&str, &str, &str) = ("1", "36", "v1.36.2");

/// What everybody may read (cluster role system:public-info-viewer).
pub(super) fn public(path: &str) -> Option<Response<Body>> {
    match path {
        "/healthz" | "/livez" | "/readyz" => Some(respond::text(
            StatusCode::OK,
            "text/plain; charset=utf-8",
            "ok",
        )),
        "/version" | "/version/" => {
            let (major, minor, version) = VERSION;
            let version = json!({
                "major": major,
                "minor": minor,
                "emulationMajor": major,
                "emulationMinor": minor,
                "gitVersion": version,
                "gitCommit": "in-memory",
                "gitTreeState": "clean",
                "buildDate": "1970-01-01T00:00:00Z",
                "goVersion": "none",
                "compiler": "rustc",
                "platform": "linux/amd64",
            });
            Some(respond::json(StatusCode::OK, &version))
        }
        _ => None,
    }
}

/// The discovery documents.
///
/// # Errors
/// There is none at this path: 404.
pub(super) fn answer(api: &Api, path: &str, headers: &HeaderMap) -> Result<Response<Body>, Status> {
    Form::accepted(headers)?;
    let served: Vec<Resource> = api
        .lock()
        .table
        .iter()
        .map(|resource| Resource::clone(resource))
        .collect();
    let steps: Vec<&str> = path.split('/').filter(|step| !step.is_empty()).collect();
    let document = match steps.as_slice() {
        ["api"] => json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        }),
        ["api", "v1"] => resources(&served, "", "v1"),
        ["apis"] => json!({
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": groups(&served).into_values().collect::<Vec<_>>(),
        }),
        ["apis", group] => {
            let mut groups = groups(&served);
            let mut document = groups.remove(*group).ok_or_else(Status::no_path)?;
            document["kind"] = "APIGroup".into();
            document["apiVersion"] = "v1".into();
            document
        }
        ["apis", group, version] => {
            let here =
                |resource: &Resource| resource.group == *group && resource.version == *version;
            if !served.iter().any(here) {
                return Err(Status::no_path());
            }
            resources(&served, group, version)
        }
        ["openapi", "v3", rest @ ..] => {
            openapi::document(&served, rest).ok_or_else(Status::no_path)?
        }
        _ => return Err(Status::no_path()),
    };
    Ok(respond::json(StatusCode::OK, &document))
}

/// The groups and their versions, by name.
fn groups(served: &[Resource]) -> BTreeMap<String, Value> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for resource in served.iter().filter(|resource| !resource.group.is_empty()) {
        let known = versions.entry(&resource.group).or_default();
        if !known.contains(&resource.version.as_str()) {
            known.push(&resource.version);
        }
    }
    let group = |(group, mut versions): (&str, Vec<&str>)| {
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        let versions: Vec<Value> = versions
            .into_iter()
            .map(|version| json!({ "groupVersion": format!("{group}/{version}"), "version": version }))
            .collect();
        let document =
            json!({ "name": group, "versions": versions, "preferredVersion": versions[0] });
        (group.to_owned(), document)
    };
    versions.into_iter().map(group).collect()
}

/// Stable before beta before alpha, then the higher number (`k8s.io/apimachinery/pkg/version`).
fn priority(version: &str) -> (u8, u32, u32) {
    let number = |text: &str| text.parse().unwrap_or_default();
    let rest = version.strip_prefix('v').unwrap_or(version);
    for (stage, word) in [(1, "beta"), (0, "alpha")] {
        if let Some((major, minor)) = rest.split_once(word) {
            return (stage, number(major), number(minor));
        }
    }
    (2, number(rest), 0)
}

fn resources(served: &[Resource], group: &str, version: &str) -> Value {
    let here = |resource: &&Resource| resource.group == group && resource.version == version;
    let mut list = Vec::new();
    for resource in served.iter().filter(here) {
        let verbs = if review::is_review(resource) || resource.plural == "bindings" {
            json!(["create"])
        } else {
            json!([
                "create",
                "delete",
                "deletecollection",
                "get",
                "list",
                "patch",
                "update",
                "watch"
            ])
        };
        let mut entry = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": verbs,
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        list.push(entry);
        list.extend(
            resource
                .subresources
                .iter()
                .map(|name| subresource(resource, name)),
        );
    }
    let group_version = match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    };
    json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": list,
    })
}

fn subresource(resource: &Resource, name: &str) -> Value {
    let (kind, of, verbs) = match name {
        "scale" => (
            "Scale",
            Some(("autoscaling", "v1")),
            json!(["get", "patch", "update"]),
        ),
        "token" => (
            "TokenRequest",
            Some(("authentication.k8s.io", "v1")),
            json!(["create"]),
        ),
        "eviction" => ("Eviction", Some(("policy", "v1")), json!(["create"])),
        "binding" => ("Binding", None, json!(["create"])),
        "portforward" => ("PodPortForwardOptions", None, json!(["create", "get"])),
        "log" => (resource.kind.as_str(), None, json!(["get"])),
        "finalize" => (resource.kind.as_str(), None, json!(["update"])),
        _ => (
            resource.kind.as_str(),
            None,
            json!(["get", "patch", "update"]),
        ),
    };
    let mut entry = json!({
        "name": format!("{}/{name}", resource.plural),
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": kind,
        "verbs": verbs,
    });
    if let Some((group, version)) = of {
        entry["group"] = group.into();
        entry["version"] = version.into();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_versions_come_first() {
        let mut versions = ["v1alpha1", "v1beta2", "v2", "v1", "v1beta1"];
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        assert_eq!(versions, ["v2", "v1", "v1beta2", "v1beta1", "v1alpha1"]);
    }
}
