//! Server-side apply: objects in, the cluster as they say, a line for each.

use std::io::Write;

use anyhow::Result;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use super::{object::Reference, ownership};
use crate::cluster::Cluster;

/// Who owns the fields of the manifests. What the controller writes into the same objects (the webhook's
/// `caBundle`) is owned by the controller, and stays.
pub(super) const FIELD_MANAGER: &str = "mesh";

/// Applies objects in their order.
///
/// # Errors
/// The API server refuses one; those before it are applied.
pub(super) async fn apply(
    cluster: &Cluster,
    objects: &[Value],
    out: &mut impl Write,
) -> Result<()> {
    for object in objects {
        let reference = Reference::of(object)?;
        let outcome = apply_one(cluster, &reference, object).await?;
        writeln!(out, "√ {reference} {outcome}")?;
    }
    Ok(())
}

async fn apply_one(
    cluster: &Cluster,
    reference: &Reference,
    object: &Value,
) -> Result<&'static str> {
    let api = reference.api(cluster.client());
    let before = cluster
        .ask(&format!("read {reference}"), api.get_opt(&reference.name))
        .await?;
    if let Some(before) = &before {
        take_over(cluster, reference, before).await?;
    }
    // Forced: these objects are the mesh's own. Who has changed a field by hand is overruled.
    let params = PatchParams::apply(FIELD_MANAGER)
        .force()
        .validation_strict();
    let patch = Patch::Apply(object);
    let after = cluster
        .ask(
            &format!("apply {reference}"),
            api.patch(&reference.name, &params, &patch),
        )
        .await?;
    Ok(match before {
        None => "created",
        Some(before) if before.metadata.resource_version == after.metadata.resource_version => {
            "unchanged"
        }
        Some(_) => "configured",
    })
}

/// Where `kubectl apply` owned fields, they become ours, so that a field that is no longer in the manifest goes.
async fn take_over(cluster: &Cluster, reference: &Reference, before: &DynamicObject) -> Result<()> {
    let mut managed = before.metadata.managed_fields.clone().unwrap_or_default();
    if !ownership::take_over(&mut managed, FIELD_MANAGER) {
        return Ok(());
    }
    // The version says that nobody has changed the owners meanwhile.
    let patch: json_patch::Patch = serde_json::from_value(json!([
        {"op": "test", "path": "/metadata/resourceVersion", "value": before.metadata.resource_version},
        {"op": "replace", "path": "/metadata/managedFields", "value": managed},
    ]))?;
    let params = PatchParams::default();
    let patch = Patch::Json::<()>(patch);
    let request = reference.api(cluster.client());
    cluster
        .ask(
            &format!("take over {reference}"),
            request.patch(&reference.name, &params, &patch),
        )
        .await?;
    Ok(())
}

/// Deletes objects; one that is gone already is as good.
///
/// # Errors
/// The API server refuses one.
pub(super) async fn delete(
    cluster: &Cluster,
    references: &[Reference],
    out: &mut impl Write,
) -> Result<()> {
    for reference in references {
        let api = reference.api(cluster.client());
        let deleted = async {
            match api.delete(&reference.name, &Default::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                other => other.map(drop),
            }
        };
        cluster.ask(&format!("delete {reference}"), deleted).await?;
        writeln!(out, "√ {reference} deleted")?;
    }
    Ok(())
}
