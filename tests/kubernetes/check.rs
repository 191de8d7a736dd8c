//! `mesh check` on a cluster: what it finds out there. What it makes of it is tested without one.

use std::sync::Arc;

use jiff::Timestamp;
use mesh_api::names::{
    ANNOTATION_PROXY, CONTROLLER, LABEL_INJECT, SYSTEM_NAMESPACE, TRUST_CONFIG_MAP, TRUST_KEY,
    WEBHOOK, WEBHOOK_PORT,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::observers::{Said, Stage};

/// The results by code.
fn results(said: Said) -> Value {
    let report: Value =
        serde_json::from_str(&said.stdout).unwrap_or_else(|e| panic!("{e}: {said:?}"));
    assert_eq!(report["ok"], said.good, "the exit status says the same");
    let checks = report["checks"].as_array().expect("checks").iter();
    checks
        .map(|check| {
            let code = check["code"].as_str().expect("a code").to_owned();
            (code, check["result"].clone())
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[test]
fn before_an_installation() {
    let Some(stage) = Stage::new() else { return };
    let before = results(stage.mesh("check --pre -o json"));
    for code in ["K01", "K02", "K03", "K04", "K05", "K06"] {
        assert_eq!(before[code], "ok", "{code}: {before}");
    }
    assert!(before["C01"].is_null(), "{before}");
    let without = results(stage.mesh("check -o json"));
    assert_eq!(without["C01"], "failure");
}

#[test]
fn waiting_ends_in_time_and_says_the_same() {
    let Some(stage) = Stage::new() else { return };
    let said = stage.mesh("check --wait 2s");
    assert!(
        !said.good && said.stdout.contains("× C01 mesh is installed"),
        "{said:?}"
    );
    assert!(
        said.stderr.is_empty(),
        "no spinner without a terminal: {said:?}"
    );
}

#[test]
fn a_mesh_that_is_installed() {
    let Some(stage) = Stage::new() else { return };
    let bundle = install(&stage);
    stage.namespace("shop", json!({LABEL_INJECT: "enabled"}));
    let map = json!({"metadata": {"name": TRUST_CONFIG_MAP}, "data": {TRUST_KEY: bundle}});
    stage.create(("", "v1", "ConfigMap"), "shop", map);
    // Before the webhook is there, as one that was missed.
    app(&stage, "web-1", true);
    app(&stage, "old-1", false);
    let can_forward = stage.observer("mesh-controller-a", 1);
    if can_forward {
        let address = webhook_server(&stage);
        stage.cluster.serve_pod_ports(
            SYSTEM_NAMESPACE,
            "mesh-controller-a",
            [(WEBHOOK_PORT, address)],
        );
    }
    let found = results(stage.mesh("check --proxy -o json"));
    for code in [
        "C01", "C02", "C05", "C06", "A01", "A02", "W01", "W02", "D06", "D07", "D08", "D09",
    ] {
        assert_eq!(found[code], "ok", "{code}: {found}");
    }
    assert_eq!(found["D01"], "warning", "old-1 was missed: {found}");
    if can_forward {
        for code in ["C03", "C04", "D03", "D05"] {
            assert_eq!(found[code], "ok", "{code}: {found}");
        }
        assert_eq!(found["D02"], "warning", "the proxies are 0.0.9: {found}");
        assert_eq!(
            found["W03"], "failure",
            "it serves with a certificate of nobody: {found}"
        );
    }
}

/// What the controller and `mesh install` would have written; returns the trust bundle.
fn install(stage: &Stage) -> String {
    stage.namespace(SYSTEM_NAMESPACE, json!({}));
    let labels = json!({"mesh.internal/component": "controller"});
    stage.create(("apps", "v1", "Deployment"), SYSTEM_NAMESPACE, json!({
        "metadata": {"name": CONTROLLER},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": CONTROLLER, "image": "x"}]}},
        },
        "status": {"replicas": 1, "readyReplicas": 1},
    }));
    stage.controller("mesh-controller-a", true);
    stage.create(
        ("coordination.k8s.io", "v1", "Lease"),
        SYSTEM_NAMESPACE,
        json!({
            "metadata": {"name": CONTROLLER},
            "spec": {
                "holderIdentity": "mesh-controller-a",
                "leaseDurationSeconds": 15,
                "renewTime": format!("{:.6}", Timestamp::now()),
            },
        }),
    );
    let bundle = authority().pem();
    let encoded: Value =
        serde_json::to_value(k8s_openapi::ByteString(bundle.clone().into_bytes())).expect("base64");
    stage.create(("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration"), "", json!({
        "metadata": {"name": WEBHOOK},
        "webhooks": [{
            "name": "namespace.inject.mesh.internal",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Ignore",
            "timeoutSeconds": 1,
            "clientConfig": {
                "caBundle": encoded,
                "service": {"name": WEBHOOK, "namespace": SYSTEM_NAMESPACE, "path": "/inject"},
            },
            // Of no namespace here, so that this test needs no injector.
            "namespaceSelector": {"matchLabels": {"no": "namespace"}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        }],
    }));
    bundle
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a root")
}

/// Serves TLS with a certificate of another authority.
fn webhook_server(stage: &Stage) -> std::net::SocketAddr {
    let key = KeyPair::generate().expect("a key");
    let name = format!("{WEBHOOK}.{SYSTEM_NAMESPACE}.svc");
    let params = CertificateParams::new(vec![name]).expect("a DNS name");
    let leaf = params.signed_by(&key, &*authority()).expect("a leaf");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("protocol versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            key.serialize_der().try_into().expect("a key"),
        )
        .expect("a usable certificate");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    stage.serve(move |stream| {
        let acceptor = acceptor.clone();
        async move { drop(acceptor.accept(stream).await) }
    })
}

/// A pod, as the injector and the kubelet leave it; or one that was missed.
fn app(stage: &Stage, name: &str, meshed: bool) {
    let proxy = json!({"name": "mesh-proxy", "image": "x", "restartPolicy": "Always"});
    let running = json!({
        "name": "mesh-proxy", "image": "x", "imageID": "", "ready": true, "restartCount": 0, "state": {},
    });
    let only_meshed = |one: Value| if meshed { json!([one]) } else { json!([]) };
    let annotations = if meshed {
        json!({ANNOTATION_PROXY: "true"})
    } else {
        json!({})
    };
    stage.create(
        ("", "v1", "Pod"),
        "shop",
        json!({
            "metadata": {"name": name, "annotations": annotations},
            "spec": {
                "automountServiceAccountToken": false,
                "initContainers": only_meshed(proxy),
                "containers": [{"name": "app", "image": "app"}],
            },
            "status": {"phase": "Running", "initContainerStatuses": only_meshed(running)},
        }),
    );
}
