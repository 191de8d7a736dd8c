//! The chart in `install/chart`, which this program carries: values in, manifests out.
//!
//! The same files are a Helm chart, so that both ways of installing make the same objects.

use anyhow::{Context, Result};
use serde_json::Value;

use super::template;

const VALUES: &str = include_str!("../../../install/chart/values.yaml");

/// In the order in which they are applied: what others refer to comes first, and the webhook comes last, so
/// that nobody calls it before it can answer. Definitions of kinds of our own go after the namespace.
const TEMPLATES: [(&str, &str); 7] = [
    (
        "namespace.yaml",
        include_str!("../../../install/chart/templates/namespace.yaml"),
    ),
    (
        "rbac.yaml",
        include_str!("../../../install/chart/templates/rbac.yaml"),
    ),
    (
        "config.yaml",
        include_str!("../../../install/chart/templates/config.yaml"),
    ),
    (
        "services.yaml",
        include_str!("../../../install/chart/templates/services.yaml"),
    ),
    (
        "controller.yaml",
        include_str!("../../../install/chart/templates/controller.yaml"),
    ),
    (
        "disruption.yaml",
        include_str!("../../../install/chart/templates/disruption.yaml"),
    ),
    (
        "webhook.yaml",
        include_str!("../../../install/chart/templates/webhook.yaml"),
    ),
];

/// What the chart is rendered with where nothing is set.
pub(super) fn defaults() -> Result<Value> {
    serde_saphyr::from_str(VALUES).context("The chart's values can't be read")
}

/// All manifests, as one YAML stream.
pub(super) fn render(values: &Value) -> Result<String> {
    let mut out = String::new();
    for (name, template) in TEMPLATES {
        let text = template::render(template, values)
            .with_context(|| format!("The chart's template {name} can't be rendered"))?;
        let text = text.trim();
        if !text.is_empty() {
            out.push_str("---\n");
            out.push_str(text);
            out.push('\n');
        }
    }
    Ok(out)
}

/// The objects of a YAML stream, in its order.
pub(super) fn objects(manifests: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(manifests).context("The manifests are no YAML")?;
    Ok(documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}

#[cfg(test)]
mod tests;
