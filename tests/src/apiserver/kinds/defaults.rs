//! The defaults of the built-in kinds, as `pkg/apis/*/v1/defaults.go` sets them.

use serde_json::{Value, json};

use crate::apiserver::resource::Resource;

/// Fills in what was left out, before admission and again after it.
pub(in crate::apiserver) fn fill_in(resource: &Resource, object: &mut Value) {
    if resource.custom.is_some() {
        return;
    }
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "namespaces") => {
            let name = object["metadata"]["name"].clone();
            if name.is_string() {
                object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
            }
        }
        ("", "pods") => {
            pod(&mut object["spec"]);
            admit_pod(&mut object["spec"]);
        }
        ("", "services") => service(&mut object["spec"]),
        ("", "secrets") => set(object, json!({ "type": "Opaque" })),
        ("", "endpoints") => each(&mut object["subsets"], |subset| {
            each(&mut subset["ports"], |port| {
                set(port, json!({ "protocol": "TCP" }))
            });
        }),
        ("", "persistentvolumeclaims") => {
            set(&mut object["spec"], json!({ "volumeMode": "Filesystem" }))
        }
        ("apps", plural) => workload(plural, &mut object["spec"]),
        ("batch", "jobs") => job(&mut object["spec"]),
        ("batch", "cronjobs") => cron_job(&mut object["spec"]),
        ("discovery.k8s.io", _) => each(&mut object["ports"], |port| {
            set(port, json!({ "name": "", "protocol": "TCP" }));
        }),
        ("networking.k8s.io", "networkpolicies") => network_policy(&mut object["spec"]),
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => {
            set(
                &mut object["roleRef"],
                json!({ "apiGroup": "rbac.authorization.k8s.io" }),
            );
            each(&mut object["subjects"], |subject| {
                if matches!(subject["kind"].as_str(), Some("User" | "Group")) {
                    set(subject, json!({ "apiGroup": "rbac.authorization.k8s.io" }));
                }
            });
        }
        (
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations" | "validatingwebhookconfigurations",
        ) => {
            let mutating = resource.plural == "mutatingwebhookconfigurations";
            each(&mut object["webhooks"], |hook| webhook(hook, mutating));
        }
        ("apiextensions.k8s.io", _) => custom_resource(&mut object["spec"]),
        _ => {}
    }
}

/// Sets the fields of `defaults` that are absent.
fn set(object: &mut Value, defaults: Value) {
    if object.is_null() {
        *object = json!({});
    }
    let (Value::Object(object), Value::Object(defaults)) = (object, defaults) else {
        return;
    };
    for (field, value) in defaults {
        let slot = object.entry(field).or_insert(Value::Null);
        if slot.is_null() {
            *slot = value;
        }
    }
}

fn each(list: &mut Value, mut act: impl FnMut(&mut Value)) {
    list.as_array_mut().into_iter().flatten().for_each(&mut act);
}

/// A field that is there.
fn there<'a>(object: &'a mut Value, field: &str) -> Option<&'a mut Value> {
    object.get_mut(field).filter(|value| !value.is_null())
}

fn pod(spec: &mut Value) {
    set(
        spec,
        json!({
            "restartPolicy": "Always",
            "dnsPolicy": "ClusterFirst",
            "schedulerName": "default-scheduler",
            "terminationGracePeriodSeconds": 30,
            "securityContext": {},
            "enableServiceLinks": true,
        }),
    );
    // Two names of one field.
    let account = ["serviceAccountName", "serviceAccount"]
        .into_iter()
        .map(|field| spec[field].clone())
        .find(|name| name.as_str().is_some_and(|name| !name.is_empty()));
    if let Some(account) = account {
        spec["serviceAccountName"] = account.clone();
        spec["serviceAccount"] = account;
    }
    if spec["hostNetwork"] == true {
        for containers in ["containers", "initContainers"] {
            each(&mut spec[containers], |container| {
                each(&mut container["ports"], |port| {
                    let number = port["containerPort"].clone();
                    set(port, json!({ "hostPort": number }));
                });
            });
        }
    }
    for containers in ["containers", "initContainers"] {
        if let Some(containers) = there(spec, containers) {
            each(containers, container);
        }
    }
    if let Some(volumes) = there(spec, "volumes") {
        each(volumes, volume);
    }
    let spread = there(spec, "topologySpreadConstraints");
    if let Some(spread) = spread {
        each(spread, |constraint| set(constraint, json!({})));
    }
}

/// What the admission plugins of every API server set: Priority, DefaultTolerationSeconds.
fn admit_pod(spec: &mut Value) {
    set(
        spec,
        json!({ "priority": 0, "preemptionPolicy": "PreemptLowerPriority", "tolerations": [] }),
    );
    let Some(tolerations) = spec["tolerations"].as_array_mut() else {
        return;
    };
    for taint in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let tolerated = tolerations.iter().any(|toleration| {
            let effect = &toleration["effect"];
            (toleration["key"] == taint || toleration["key"].is_null())
                && (effect == "NoExecute" || effect.is_null())
        });
        if !tolerated {
            tolerations.push(json!({
                "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
            }));
        }
    }
}

fn container(container: &mut Value) {
    let image = container["image"].as_str().unwrap_or_default();
    let file = image.rsplit('/').next().unwrap_or_default();
    let digest = image.contains('@');
    let latest = !digest && (!file.contains(':') || file.ends_with(":latest"));
    let policy = if latest { "Always" } else { "IfNotPresent" };
    set(
        container,
        json!({
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
            "imagePullPolicy": policy,
            "resources": {},
        }),
    );
    if let Some(ports) = there(container, "ports") {
        each(ports, |port| set(port, json!({ "protocol": "TCP" })));
    }
    if let Some(env) = there(container, "env") {
        each(env, |variable| {
            if let Some(field) = variable.pointer_mut("/valueFrom/fieldRef") {
                set(field, json!({ "apiVersion": "v1" }));
            }
        });
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = there(container, probe) {
            set(
                probe,
                json!({ "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3 }),
            );
            handler(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(hook) = container.pointer_mut(&format!("/lifecycle/{hook}")) {
            handler(hook);
        }
    }
}

fn handler(handler: &mut Value) {
    if let Some(http) = there(handler, "httpGet") {
        set(http, json!({ "path": "/", "scheme": "HTTP" }));
    }
    if let Some(grpc) = there(handler, "grpc") {
        set(grpc, json!({ "service": "" }));
    }
}

fn volume(volume: &mut Value) {
    let sources = volume.as_object().map_or(0, serde_json::Map::len);
    if sources <= 1 {
        set(volume, json!({ "emptyDir": {} }));
    }
    for source in ["secret", "configMap", "downwardAPI"] {
        if let Some(source) = there(volume, source) {
            set(source, json!({ "defaultMode": 420 }));
        }
    }
    if let Some(path) = there(volume, "hostPath") {
        set(path, json!({ "type": "" }));
    }
    if let Some(projected) = there(volume, "projected") {
        set(projected, json!({ "defaultMode": 420 }));
        each(&mut projected["sources"], |source| {
            if let Some(token) = there(source, "serviceAccountToken") {
                set(token, json!({ "expirationSeconds": 3600 }));
            }
            if let Some(items) = source.pointer_mut("/downwardAPI/items") {
                each(items, |item| {
                    if let Some(field) = there(item, "fieldRef") {
                        set(field, json!({ "apiVersion": "v1" }));
                    }
                });
            }
        });
    }
}

fn template(spec: &mut Value) {
    if let Some(template) = there(spec, "template") {
        set(template, json!({ "metadata": {} }));
        pod(&mut template["spec"]);
    }
}

fn workload(plural: &str, spec: &mut Value) {
    match plural {
        "deployments" => {
            set(
                spec,
                json!({
                    "replicas": 1,
                    "strategy": { "type": "RollingUpdate" },
                    "revisionHistoryLimit": 10,
                    "progressDeadlineSeconds": 600,
                }),
            );
            set(&mut spec["strategy"], json!({ "type": "RollingUpdate" }));
            if spec["strategy"]["type"] == "RollingUpdate" {
                let rolling = json!({ "maxUnavailable": "25%", "maxSurge": "25%" });
                set(&mut spec["strategy"]["rollingUpdate"], rolling);
            }
        }
        "statefulsets" => set(
            spec,
            json!({
                "replicas": 1,
                "podManagementPolicy": "OrderedReady",
                "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 0 } },
                "revisionHistoryLimit": 10,
                "persistentVolumeClaimRetentionPolicy": { "whenDeleted": "Retain", "whenScaled": "Retain" },
            }),
        ),
        "daemonsets" => {
            set(
                spec,
                json!({ "updateStrategy": {}, "revisionHistoryLimit": 10 }),
            );
            set(
                &mut spec["updateStrategy"],
                json!({ "type": "RollingUpdate" }),
            );
            if spec["updateStrategy"]["type"] == "RollingUpdate" {
                let rolling = json!({ "maxUnavailable": 1, "maxSurge": 0 });
                set(&mut spec["updateStrategy"]["rollingUpdate"], rolling);
            }
        }
        "replicasets" => set(spec, json!({ "replicas": 1 })),
        _ => return,
    }
    template(spec);
}

fn job(spec: &mut Value) {
    set(
        spec,
        json!({
            "backoffLimit": 6,
            "completionMode": "NonIndexed",
            "suspend": false,
            "manualSelector": false,
            "podReplacementPolicy": "TerminatingOrFailed",
        }),
    );
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        spec["completions"] = 1.into();
    }
    set(spec, json!({ "parallelism": 1 }));
    template(spec);
}

fn cron_job(spec: &mut Value) {
    set(
        spec,
        json!({
            "concurrencyPolicy": "Allow",
            "suspend": false,
            "successfulJobsHistoryLimit": 3,
            "failedJobsHistoryLimit": 1,
        }),
    );
    let job = &mut spec["jobTemplate"];
    set(job, json!({ "metadata": {} }));
    template(&mut job["spec"]);
}

fn service(spec: &mut Value) {
    set(
        spec,
        json!({ "type": "ClusterIP", "sessionAffinity": "None" }),
    );
    if let Some(ports) = there(spec, "ports") {
        each(ports, |port| {
            let number = port["port"].clone();
            set(port, json!({ "protocol": "TCP", "targetPort": number }));
        });
    }
    if spec["type"] != "ExternalName" {
        set(spec, json!({ "internalTrafficPolicy": "Cluster" }));
    }
    if matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer")) {
        set(spec, json!({ "externalTrafficPolicy": "Cluster" }));
    }
}

fn network_policy(spec: &mut Value) {
    set(spec, json!({ "podSelector": {} }));
    let egress = spec["egress"].is_array();
    let types = if egress {
        json!(["Ingress", "Egress"])
    } else {
        json!(["Ingress"])
    };
    set(spec, json!({ "policyTypes": types }));
    for direction in ["ingress", "egress"] {
        if let Some(rules) = there(spec, direction) {
            each(rules, |rule| {
                if let Some(ports) = there(rule, "ports") {
                    each(ports, |port| set(port, json!({ "protocol": "TCP" })));
                }
            });
        }
    }
}

fn webhook(hook: &mut Value, mutating: bool) {
    set(
        hook,
        json!({
            "failurePolicy": "Fail",
            "matchPolicy": "Equivalent",
            "namespaceSelector": {},
            "objectSelector": {},
            "timeoutSeconds": 10,
        }),
    );
    if mutating {
        set(hook, json!({ "reinvocationPolicy": "Never" }));
    }
    if let Some(service) = hook.pointer_mut("/clientConfig/service") {
        set(service, json!({ "port": 443 }));
    }
    if let Some(rules) = there(hook, "rules") {
        each(rules, |rule| set(rule, json!({ "scope": "*" })));
    }
}

fn custom_resource(spec: &mut Value) {
    let kind = spec["names"]["kind"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    set(
        &mut spec["names"],
        json!({ "singular": kind.to_lowercase(), "listKind": format!("{kind}List") }),
    );
    set(spec, json!({ "conversion": { "strategy": "None" } }));
}
