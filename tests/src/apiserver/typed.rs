//! Decoding by type: fields that a built-in kind does not have are dropped or refused, and values of a wrong type refused.

use k8s_openapi::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, autoscaling::v2 as autoscaling,
    batch::v1 as batch, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, events::v1 as events, networking::v1 as networking,
    policy::v1 as policy, rbac::v1 as rbac, scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{request::Query, resource::Resource, status::Status};

/// Keeps of an object what its kind has.
///
/// # Errors
/// A value of a wrong type (400), or an unknown field where `fieldValidation=Strict` (400).
pub(super) fn conform(resource: &Resource, object: Value, query: &Query) -> Result<Value, Status> {
    if resource.custom.is_some() {
        return Ok(object);
    }
    let typed = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "configmaps") => pass::<core::ConfigMap>(&object),
        ("", "endpoints") => pass::<core::Endpoints>(&object),
        ("", "events") => pass::<core::Event>(&object),
        ("", "namespaces") => pass::<core::Namespace>(&object),
        ("", "nodes") => pass::<core::Node>(&object),
        ("", "persistentvolumeclaims") => pass::<core::PersistentVolumeClaim>(&object),
        ("", "pods") => pass::<core::Pod>(&object),
        ("", "secrets") => pass::<core::Secret>(&object),
        ("", "serviceaccounts") => pass::<core::ServiceAccount>(&object),
        ("", "services") => pass::<core::Service>(&object),
        ("apps", "daemonsets") => pass::<apps::DaemonSet>(&object),
        ("apps", "deployments") => pass::<apps::Deployment>(&object),
        ("apps", "replicasets") => pass::<apps::ReplicaSet>(&object),
        ("apps", "statefulsets") => pass::<apps::StatefulSet>(&object),
        ("autoscaling", _) => pass::<autoscaling::HorizontalPodAutoscaler>(&object),
        ("batch", "cronjobs") => pass::<batch::CronJob>(&object),
        ("batch", "jobs") => pass::<batch::Job>(&object),
        ("coordination.k8s.io", _) => pass::<coordination::Lease>(&object),
        ("discovery.k8s.io", _) => pass::<discovery::EndpointSlice>(&object),
        ("events.k8s.io", _) => pass::<events::Event>(&object),
        ("networking.k8s.io", "ingresses") => pass::<networking::Ingress>(&object),
        ("networking.k8s.io", "networkpolicies") => pass::<networking::NetworkPolicy>(&object),
        ("policy", _) => pass::<policy::PodDisruptionBudget>(&object),
        ("rbac.authorization.k8s.io", "clusterroles") => pass::<rbac::ClusterRole>(&object),
        ("rbac.authorization.k8s.io", "clusterrolebindings") => {
            pass::<rbac::ClusterRoleBinding>(&object)
        }
        ("rbac.authorization.k8s.io", "roles") => pass::<rbac::Role>(&object),
        ("rbac.authorization.k8s.io", "rolebindings") => pass::<rbac::RoleBinding>(&object),
        ("scheduling.k8s.io", _) => pass::<scheduling::PriorityClass>(&object),
        ("storage.k8s.io", _) => pass::<storage::StorageClass>(&object),
        ("apiextensions.k8s.io", _) => pass::<apiextensions::CustomResourceDefinition>(&object),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations") => {
            pass::<admission::MutatingWebhookConfiguration>(&object)
        }
        ("admissionregistration.k8s.io", "validatingwebhookconfigurations") => {
            pass::<admission::ValidatingWebhookConfiguration>(&object)
        }
        // The rest is stored as it comes.
        _ => return Ok(object),
    };
    let (kind, version) = (&resource.kind, resource.api_version());
    let typed = typed.map_err(|why| {
        Status::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: {why}"
        ))
    })?;
    let mut unknown = Vec::new();
    let kept = common(object, &typed, "", &mut unknown);
    if !unknown.is_empty() && query.find("fieldValidation") == Some("Strict") {
        let fields = unknown
            .iter()
            .map(|path| format!("unknown field \"{path}\""));
        let fields = fields.collect::<Vec<_>>().join(", ");
        return Err(Status::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {fields}"
        )));
    }
    Ok(kept)
}

/// Through the type and back.
fn pass<T: DeserializeOwned + Serialize>(object: &Value) -> serde_json::Result<Value> {
    serde_json::to_value(serde_json::from_value::<T>(object.clone())?)
}

/// What of a value came through the type; what did not is named.
fn common(value: Value, typed: &Value, path: &str, unknown: &mut Vec<String>) -> Value {
    match (value, typed) {
        (Value::Object(map), Value::Object(typed)) => {
            let mut kept = serde_json::Map::new();
            for (field, value) in map.into_iter().filter(|(_, value)| !value.is_null()) {
                let path = match path {
                    "" => field.clone(),
                    path => format!("{path}.{field}"),
                };
                match typed.get(&field) {
                    Some(typed) => {
                        let value = common(value, typed, &path, unknown);
                        kept.insert(field, value);
                    }
                    None => unknown.push(path),
                }
            }
            Value::Object(kept)
        }
        (Value::Array(list), Value::Array(typed)) => {
            let items = list
                .into_iter()
                .zip(typed)
                .enumerate()
                .map(|(index, (item, typed))| {
                    common(item, typed, &format!("{path}[{index}]"), unknown)
                });
            items.collect()
        }
        (value, _) => value,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::apiserver::resource::Table;

    #[test]
    fn unknown_fields_go_and_wrong_types_are_refused() {
        let services = Table::built_in()
            .find("", "v1", "services")
            .expect("services");
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": "a", "label": {} },
            "spec": { "ports": [{ "port": 80, "targetport": "http" }], "selector": null },
        });
        let kept = conform(&services, service.clone(), &Query::default()).expect("an object");
        assert_eq!(
            kept,
            json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": { "name": "a" },
                "spec": { "ports": [{ "port": 80 }] },
            })
        );
        let strict = Query::parse(Some("fieldValidation=Strict"));
        let refused = conform(&services, service, &strict).expect_err("unknown fields");
        assert!(
            refused
                .message
                .contains("unknown field \"spec.ports[0].targetport\"")
        );
        let wrong = json!({ "apiVersion": "v1", "kind": "Service", "spec": { "ports": "http" } });
        let refused = conform(&services, wrong, &Query::default()).expect_err("a wrong type");
        assert_eq!(refused.reason, "BadRequest");
    }
}
