//! Which fields of a manifest mean something on one machine.

use std::collections::BTreeSet;

use serde_json::Value;

/// Fields of a pod. `*` is everything below; a list's items are written `[]`.
const POD: &[&str] = &[
    "metadata.*",
    "spec.containers[].name",
    "spec.containers[].image",
    "spec.containers[].imagePullPolicy",
    "spec.containers[].command",
    "spec.containers[].args",
    "spec.containers[].workingDir",
    "spec.containers[].env.*",
    "spec.containers[].envFrom.*",
    "spec.containers[].ports[].name",
    "spec.containers[].ports[].containerPort",
    "spec.containers[].ports[].protocol",
    "spec.containers[].readinessProbe.*",
    "spec.containers[].livenessProbe.*",
    "spec.containers[].startupProbe.*",
    "spec.containers[].lifecycle.preStop.exec.*",
    "spec.containers[].lifecycle.preStop.sleep.*",
    "spec.containers[].lifecycle.preStop.httpGet.*",
    "spec.containers[].securityContext.runAsUser",
    "spec.containers[].securityContext.runAsGroup",
    "spec.containers[].securityContext.runAsNonRoot",
    "spec.containers[].securityContext.allowPrivilegeEscalation",
    "spec.containers[].volumeMounts[].name",
    "spec.containers[].volumeMounts[].mountPath",
    "spec.containers[].volumeMounts[].subPath",
    "spec.containers[].terminationMessagePath",
    "spec.containers[].terminationMessagePolicy",
    "spec.initContainers[].name",
    "spec.initContainers[].image",
    "spec.initContainers[].imagePullPolicy",
    "spec.initContainers[].command",
    "spec.initContainers[].args",
    "spec.initContainers[].workingDir",
    "spec.initContainers[].env.*",
    "spec.initContainers[].envFrom.*",
    "spec.initContainers[].securityContext.runAsUser",
    "spec.initContainers[].securityContext.runAsGroup",
    "spec.initContainers[].volumeMounts[].name",
    "spec.initContainers[].volumeMounts[].mountPath",
    "spec.initContainers[].volumeMounts[].subPath",
    "spec.serviceAccountName",
    "spec.serviceAccount",
    "spec.automountServiceAccountToken",
    "spec.hostname",
    "spec.subdomain",
    "spec.restartPolicy",
    "spec.terminationGracePeriodSeconds",
    "spec.securityContext.runAsUser",
    "spec.securityContext.runAsGroup",
    "spec.securityContext.runAsNonRoot",
    "spec.volumes[].name",
    "spec.volumes[].emptyDir.*",
    "spec.volumes[].configMap.*",
    "spec.volumes[].secret.*",
    "spec.volumes[].hostPath.*",
    "spec.dnsPolicy",
    "spec.schedulerName",
    "spec.enableServiceLinks",
];

/// Fields of what makes pods, besides its template.
const WORKLOAD: &[&str] = &[
    "spec.replicas",
    "spec.selector.*",
    "spec.serviceName",
    "spec.revisionHistoryLimit",
    "spec.progressDeadlineSeconds",
    "spec.strategy.type",
    // A DaemonSet has one pod on the one node. All are replaced one by one.
    "spec.updateStrategy.type",
    "spec.podManagementPolicy",
];

const SERVICE: &[&str] = &[
    "spec.selector.*",
    "spec.clusterIP",
    "spec.type",
    "spec.ports.*",
    "spec.ipFamilies.*",
    "spec.ipFamilyPolicy",
    "spec.publishNotReadyAddresses",
    "spec.internalTrafficPolicy",
];

/// Adds a sentence for each field that is not honoured.
pub(super) fn check(kind: &str, title: &str, object: &Value, warnings: &mut BTreeSet<String>) {
    let own: &[&str] = match kind {
        "Pod" => POD,
        "Deployment" | "StatefulSet" | "DaemonSet" | "Job" => WORKLOAD,
        "Service" => SERVICE,
        _ => return,
    };
    let mut known: Vec<String> = ["apiVersion", "kind", "metadata.*", "status.*"]
        .iter()
        .chain(own)
        .map(|&path| path.to_owned())
        .collect();
    if kind != "Pod" {
        known.extend(POD.iter().map(|path| format!("spec.template.{path}")));
    }
    walk(object, "", "", &known, &mut |path| {
        warnings.insert(format!("{title}: {path} is not honoured on one machine"));
    });
    if let Some(kind @ ("NodePort" | "LoadBalancer" | "ExternalName")) =
        object.pointer("/spec/type").and_then(Value::as_str)
    {
        warnings.insert(format!("{title}: spec.type {kind} is treated as ClusterIP"));
    }
}

/// `pattern` is the path without the lists' indices.
fn walk(
    value: &Value,
    path: &str,
    pattern: &str,
    known: &[String],
    unknown: &mut impl FnMut(&str),
) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                let path = format!("{path}{dot}{name}");
                let pattern = format!("{pattern}{dot}{name}");
                match verdict(&pattern, known) {
                    Verdict::Honoured => {}
                    Verdict::Partly => walk(value, &path, &pattern, known, unknown),
                    Verdict::Unknown if is_empty(value) => {}
                    Verdict::Unknown => unknown(&path),
                }
            }
        }
        Value::Array(items) => {
            let pattern = format!("{pattern}[]");
            for (index, item) in items.iter().enumerate() {
                walk(item, &format!("{path}[{index}]"), &pattern, known, unknown);
            }
        }
        _ => {}
    }
}

enum Verdict {
    Honoured,
    Partly,
    Unknown,
}

fn verdict(pattern: &str, known: &[String]) -> Verdict {
    let mut found = Verdict::Unknown;
    for path in known {
        if path == pattern || path.strip_suffix(".*") == Some(pattern) {
            return Verdict::Honoured;
        }
        let below = path.strip_prefix(pattern);
        if below.is_some_and(|rest| rest.starts_with(['.', '['])) {
            found = Verdict::Partly;
        }
    }
    found
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
