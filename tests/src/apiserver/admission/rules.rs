//! Which webhooks a write concerns: rules and selectors (`apiserver/pkg/admission/plugin/webhook`).

use serde_json::Value;

use super::Question;
use crate::apiserver::{
    select::Labels,
    state::{Api, Call},
};

/// The webhooks of all configurations of a kind, in the order in which they are asked.
pub(super) fn hooks(api: &Api, call: &Call, configurations: &str) -> Vec<Value> {
    // Webhooks are never asked about the configurations of webhooks: a broken one could not be repaired.
    if call.target.resource.group == "admissionregistration.k8s.io" {
        return Vec::new();
    }
    let configurations = api.lock().all(configurations);
    let hooks = configurations.iter().flat_map(|configuration| {
        configuration["webhooks"]
            .as_array()
            .into_iter()
            .flatten()
            .cloned()
    });
    hooks.collect()
}

/// Whether a webhook is to be asked.
pub(super) fn concerns(api: &Api, hook: &Value, question: &Question<'_>) -> bool {
    let rules = hook["rules"].as_array().into_iter().flatten();
    rules.into_iter().any(|rule| rule_matches(rule, question))
        && namespace_matches(api, hook, question)
        && object_matches(hook, question)
}

fn rule_matches(rule: &Value, question: &Question<'_>) -> bool {
    let target = &question.call.target;
    let resource = &target.resource;
    let any_or = |field: &str, wanted: &str| {
        let list = rule[field].as_array().into_iter().flatten();
        list.into_iter().any(|item| item == "*" || item == wanted)
    };
    let scope = match rule["scope"].as_str() {
        Some("Namespaced") => target.namespace.is_some(),
        Some("Cluster") => target.namespace.is_none(),
        _ => true,
    };
    let resources = rule["resources"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let resource_matches = resources.into_iter().any(|pattern| {
        let (plural, subresource) = pattern.split_once('/').unwrap_or((pattern, ""));
        let all = plural == "*" && !pattern.contains('/');
        let subresource_matches = match subresource {
            "*" => true,
            subresource => subresource == target.subresource,
        };
        if all {
            return target.subresource.is_empty();
        }
        (plural == "*" || plural == resource.plural) && subresource_matches
    });
    scope
        && resource_matches
        && any_or("operations", question.operation.name())
        && any_or("apiGroups", &resource.group)
        && any_or("apiVersions", &resource.version)
}

fn namespace_matches(api: &Api, hook: &Value, question: &Question<'_>) -> bool {
    let selector = Labels::of_object(&hook["namespaceSelector"]);
    let target = &question.call.target;
    if target.resource.is("", "namespaces") {
        let namespace = question.object.or(question.old);
        return namespace.is_none_or(|namespace| selector.match_object(namespace));
    }
    match &target.namespace {
        Some(name) => {
            let state = api.lock();
            state
                .namespace(name)
                .is_some_and(|namespace| selector.match_object(namespace))
        }
        None => true,
    }
}

fn object_matches(hook: &Value, question: &Question<'_>) -> bool {
    let selector = Labels::of_object(&hook["objectSelector"]);
    let objects = [question.object, question.old];
    objects
        .into_iter()
        .flatten()
        .any(|object| selector.match_object(object))
}
