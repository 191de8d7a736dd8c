//! Whose the fields of an object are, after a change from `kubectl apply` to server-side apply.
//!
//! `kubectl apply` leaves its fields to a manager of the operation `Update`. A server-side apply never removes such
//! a field, so an upgrade could not take back, say, the anti-affinity of `--ha`. As kubectl does itself
//! (client-go, `csaupgrade`), the entry becomes one of ours, and the next apply decides.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use serde_json::Value;

const KUBECTL: &str = "kubectl-client-side-apply";

/// Gives to `manager` what `kubectl apply` owns. Whether anything changed.
pub(super) fn take_over(entries: &mut Vec<ManagedFieldsEntry>, manager: &str) -> bool {
    let is_kubectl = |entry: &ManagedFieldsEntry| {
        entry.manager.as_deref() == Some(KUBECTL)
            && entry.operation.as_deref() == Some("Update")
            && entry.subresource.as_deref().unwrap_or_default().is_empty()
    };
    let Some(at) = entries.iter().position(is_kubectl) else {
        return false;
    };
    let mut taken = entries.remove(at);
    let is_ours = |entry: &&mut ManagedFieldsEntry| {
        entry.manager.as_deref() == Some(manager) && entry.operation.as_deref() == Some("Apply")
    };
    match entries.iter_mut().find(is_ours) {
        Some(ours) => {
            let fields = ours.fields_v1.get_or_insert(FieldsV1(Value::Null));
            if let Some(more) = taken.fields_v1 {
                unite(&mut fields.0, more.0);
            }
        }
        None => {
            taken.manager = Some(manager.into());
            taken.operation = Some("Apply".into());
            entries.push(taken);
        }
    }
    true
}

/// The union of two sets of fields: nested objects, of which a leaf is `{}`.
fn unite(fields: &mut Value, more: Value) {
    match (fields, more) {
        (Value::Object(fields), Value::Object(more)) => {
            for (key, value) in more {
                unite(fields.entry(key).or_insert(Value::Null), value);
            }
        }
        (fields @ Value::Null, more) => *fields = more,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(manager: &str, operation: &str, fields: Value) -> ManagedFieldsEntry {
        ManagedFieldsEntry {
            manager: Some(manager.into()),
            operation: Some(operation.into()),
            fields_v1: Some(FieldsV1(fields)),
            ..ManagedFieldsEntry::default()
        }
    }

    #[test]
    fn an_entry_of_kubectl_becomes_ours() {
        let fields = json!({"f:spec": {"f:replicas": {}}});
        let controller = entry("kube-controller-manager", "Update", json!({}));
        let mut entries = vec![entry(KUBECTL, "Update", fields.clone()), controller.clone()];
        assert!(take_over(&mut entries, "mesh"));
        assert_eq!(entries, [controller, entry("mesh", "Apply", fields)]);
        assert!(!take_over(&mut entries, "mesh"));
    }

    #[test]
    fn two_entries_become_their_union() {
        let mut entries = vec![
            entry("mesh", "Apply", json!({"f:spec": {"f:replicas": {}}})),
            entry(
                KUBECTL,
                "Update",
                json!({"f:spec": {"f:template": {"f:spec": {"f:affinity": {}}}}, "f:data": {}}),
            ),
        ];
        assert!(take_over(&mut entries, "mesh"));
        let union = json!({
            "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:affinity": {}}}}, "f:data": {},
        });
        assert_eq!(entries, [entry("mesh", "Apply", union)]);
    }
}
