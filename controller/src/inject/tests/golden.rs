//! Injected pods as they are, to be read and agreed to; and each of them as Kubernetes reads it.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::injected;
use crate::inject::{Settings, uninject};

/// A web server as people write it.
fn web() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"labels": {"app": "web", "mesh.internal/inject": "enabled"}},
        "spec": {
            "serviceAccountName": "web",
            "securityContext": {"fsGroup": 1000, "runAsNonRoot": true, "runAsUser": 1000},
            "terminationGracePeriodSeconds": 45,
            "initContainers": [{"name": "migrate", "image": "web:1", "args": ["migrate"]}],
            "containers": [{
                "name": "web",
                "image": "web:1",
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}},
                "livenessProbe": {"tcpSocket": {"port": "http"}},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    })
}

/// A pod of which every annotation says something.
fn annotated() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "labels": {"mesh.internal/inject": "enabled"},
            "annotations": {
                "mesh.internal/skip-inbound-ports": "7000-7010",
                "mesh.internal/skip-outbound-ports": "443,5432",
                "mesh.internal/opaque-ports": "9200",
                "mesh.internal/log-level": "warn,mesh_proxy::tls=debug",
                "mesh.internal/access-log": "true",
                "mesh.internal/cpu-request": "100m",
                "mesh.internal/cpu-limit": "2",
                "mesh.internal/memory-request": "64Mi",
                "mesh.internal/memory-limit": "256Mi",
            },
        },
        "spec": {"containers": [{"name": "app", "image": "app:1"}]},
    })
}

/// Renders, and checks that Kubernetes' types have a field for all of it and that all can be taken away.
fn golden(pod: &Value, settings: &Settings) -> String {
    let injected = injected(pod, settings);
    let typed: Pod = serde_json::from_value(injected.clone()).expect("a pod");
    assert_eq!(serde_json::to_value(typed).unwrap(), injected);
    let mut without_label = pod.clone();
    let labels = without_label["metadata"]["labels"].as_object_mut().unwrap();
    labels.remove("mesh.internal/inject");
    if labels.is_empty() {
        without_label["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("labels");
    }
    assert_eq!(uninject(&injected), without_label);
    serde_json::to_string_pretty(&injected).unwrap()
}

#[test]
fn native_sidecar() {
    insta::assert_snapshot!(golden(&web(), &settings()));
}

#[test]
fn ordinary_container() {
    let classic = Settings {
        native_sidecar: false,
        ..settings()
    };
    insta::assert_snapshot!(golden(&web(), &classic));
}

#[test]
fn all_annotations() {
    insta::assert_snapshot!(golden(&annotated(), &settings()));
}

/// Of a version that does not change with each release.
fn settings() -> Settings {
    Settings::of_images("registry.example/mesh", "1.2.3")
}
