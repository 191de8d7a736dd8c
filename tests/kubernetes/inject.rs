//! `mesh inject`, with what an API server makes of its output.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use kube::{
    Api, Client,
    api::{
        ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams,
        ValidationDirective,
    },
};
use mesh_api::names;
use mesh_tests::{binary, cluster::Cluster};
use serde_json::{Value, json};

use crate::control_plane::Replica;

const NAMESPACE: &str = "inject";

#[tokio::test(flavor = "multi_thread")]
async fn injected_manifests_are_accepted_as_they_are() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let client = cluster.client().await;
    set_up(&client, json!({})).await;
    for arguments in [
        ["inject", "-"].as_slice(),
        ["inject", "--manual", "--ignore-cluster", "-"].as_slice(),
    ] {
        for manifest in manifests() {
            let output = mesh(&cluster, arguments, &manifest.to_string());
            let injected: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert_ne!(
                injected,
                manifest,
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            let stored = apply(&client, &injected).await;
            assert!(
                is_within(&injected, &stored),
                "{injected:#}\nwas stored as\n{stored:#}"
            );
            let name = injected["metadata"]["name"].as_str().unwrap();
            let resource = resource(&injected);
            let api = Api::<DynamicObject>::namespaced_with(client.clone(), NAMESPACE, &resource);
            let now = DeleteParams::background().grace_period(0);
            api.delete(name, &now).await.expect("deleted");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rendering_takes_the_clusters_settings() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let client = cluster.client().await;
    let pod = manifests().remove(0).to_string();
    let output = try_mesh(&cluster, &["inject", "--manual", "-"], &pod);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
    assert!(words.contains("there is no mesh in the cluster"), "{words}");

    // The level of the namespace shows that it was asked as well.
    set_up(&client, json!({names::ANNOTATION_LOG_LEVEL: "debug"})).await;
    let settings = json!({"proxyImage": "registry.example/mesh-proxy:1", "nativeSidecar": false});
    let system = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": names::SYSTEM_NAMESPACE},
    });
    let config = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": names::CONFIG_MAP, "namespace": names::SYSTEM_NAMESPACE},
        "data": {names::CONFIG_KEY: settings.to_string()},
    });
    apply(&client, &system).await;
    apply(&client, &config).await;
    let output = mesh(&cluster, &["inject", "--manual", "-"], &pod);
    let injected: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let proxy = &injected["spec"]["containers"][0];
    assert_eq!(proxy["image"], "registry.example/mesh-proxy:1");
    let environment = proxy["env"].as_array().unwrap();
    assert!(environment.contains(&json!({"name": "MESH_LOG_LEVEL", "value": "debug"})));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_webhook_and_manual_make_the_same_pod() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let client = cluster.client().await;
    set_up(&client, json!({names::ANNOTATION_LOG_LEVEL: "warn"})).await;
    apply(&client, &webhook()).await;
    let system = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": names::SYSTEM_NAMESPACE},
    });
    apply(&client, &system).await;
    let config = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": names::CONFIG_MAP, "namespace": names::SYSTEM_NAMESPACE},
        "data": {names::CONFIG_KEY: "{}"},
    });
    apply(&client, &config).await;
    let replica = Replica::start(cluster.kubeconfig(), "mesh-controller-a");
    if !cluster.serve_service(names::SYSTEM_NAMESPACE, names::WEBHOOK, replica.webhook) {
        mesh_tests::skip(
            "webhook",
            "this API server reaches no sockets of this machine",
        );
        return;
    }

    let mut pod = manifests().remove(0);
    // Else each pod has a volume of a random name.
    pod["spec"]["automountServiceAccountToken"] = json!(false);
    let mut made = |arguments: &[&str], name: &str| {
        pod["metadata"]["name"] = json!(name);
        let output = mesh(&cluster, arguments, &pod.to_string());
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let labelled = made(&["inject", "-"], "labelled");
    let rendered = made(&["inject", "--manual", "-"], "rendered");
    let by_webhook = create_when_the_webhook_answers(&client, &labelled).await;
    let by_manual = apply(&client, &rendered).await;
    assert_eq!(by_webhook["spec"], by_manual["spec"]);
    for map in ["labels", "annotations"] {
        assert_eq!(by_webhook["metadata"][map], by_manual["metadata"][map]);
    }
}

/// Until the controller has written its `caBundle`, the webhook is not called; then it is due to answer.
async fn create_when_the_webhook_answers(client: &Client, pod: &Value) -> Value {
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), NAMESPACE, &resource(pod));
    let object: DynamicObject = serde_json::from_value(pod.clone()).expect("an object");
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match api.create(&PostParams::default(), &object).await {
            Ok(stored) => return serde_json::to_value(stored).expect("JSON"),
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Of pods that opted in; who can't be injected can't be made.
fn webhook() -> Value {
    let service = json!({
        "name": names::WEBHOOK,
        "namespace": names::SYSTEM_NAMESPACE,
        "path": "/inject",
        "port": 443,
    });
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": names::WEBHOOK},
        "webhooks": [{
            "name": "pod.inject.mesh.internal",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "clientConfig": {"service": service},
            "objectSelector": {"matchLabels": {names::LABEL_INJECT: "enabled"}},
            "rules": [{
                "apiGroups": [""],
                "apiVersions": ["v1"],
                "operations": ["CREATE"],
                "resources": ["pods"],
            }],
        }],
    })
}

/// One of each kind that has pods; the pod first.
fn manifests() -> Vec<Value> {
    let pod = json!({
        // Admission fills it in on a whole cluster; a pod with a token volume must have it.
        "serviceAccountName": "default",
        "initContainers": [{"name": "setup", "image": "setup:1"}],
        "containers": [{
            "name": "web",
            "image": "web:1",
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"tcpSocket": {"port": "http"}},
        }],
        "volumes": [{"name": "data", "emptyDir": {}}],
    });
    let labels = json!({"app": "web"});
    let template = json!({"metadata": {"labels": labels}, "spec": pod});
    let mut job = template.clone();
    job["spec"]["restartPolicy"] = json!("Never");
    let selected = json!({"selector": {"matchLabels": labels}, "template": template});
    let mut stateful = selected.clone();
    stateful["serviceName"] = json!("web");
    let cron = json!({"schedule": "0 0 * * *", "jobTemplate": {"spec": {"template": job.clone()}}});
    [
        ("v1", "Pod", pod),
        ("apps/v1", "Deployment", selected.clone()),
        ("apps/v1", "ReplicaSet", selected.clone()),
        ("apps/v1", "DaemonSet", selected),
        ("apps/v1", "StatefulSet", stateful),
        ("batch/v1", "Job", json!({"template": job})),
        ("batch/v1", "CronJob", cron),
        (
            "v1",
            "ReplicationController",
            json!({"selector": labels, "template": template}),
        ),
    ]
    .map(|(version, kind, spec)| {
        json!({
            "apiVersion": version,
            "kind": kind,
            "metadata": {"name": "web", "namespace": NAMESPACE},
            "spec": spec,
        })
    })
    .into()
}

/// A namespace, and the service account that a controller would make in it.
async fn set_up(client: &Client, annotations: Value) {
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "annotations": annotations},
    });
    apply(client, &namespace).await;
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "default", "namespace": NAMESPACE},
    });
    apply(client, &account).await;
}

/// As `kubectl apply --server-side --validate=strict` does: a field that Kubernetes does not know is refused.
async fn apply(client: &Client, object: &Value) -> Value {
    let resource = resource(object);
    let api = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => {
            Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource)
        }
        None => Api::all_with(client.clone(), &resource),
    };
    let name = object["metadata"]["name"].as_str().expect("a name");
    let params = PatchParams::apply("test").validation(ValidationDirective::Strict);
    let stored = api.patch(name, &params, &Patch::Apply(object)).await;
    let stored = stored.unwrap_or_else(|error| panic!("{error} of {object:#}"));
    serde_json::to_value(stored).expect("JSON")
}

fn resource(object: &Value) -> ApiResource {
    let text = |field: &str| object[field].as_str().expect("a text").to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        plural: kind.to_lowercase() + "s",
        api_version,
        kind,
    }
}

/// Whether all that was sent is there, in its order; the server adds defaults, and items at the ends of lists.
fn is_within(sent: &Value, stored: &Value) -> bool {
    match (sent, stored) {
        (Value::Object(sent), Value::Object(stored)) => sent.iter().all(|(name, value)| {
            stored
                .get(name)
                .is_some_and(|found| is_within(value, found))
        }),
        (Value::Array(sent), Value::Array(stored)) => {
            sent.len() <= stored.len() && sent.iter().zip(stored).all(|(a, b)| is_within(a, b))
        }
        _ => sent == stored,
    }
}

fn mesh(cluster: &Cluster, arguments: &[&str], input: &str) -> Output {
    let output = try_mesh(cluster, arguments, input);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn try_mesh(cluster: &Cluster, arguments: &[&str], input: &str) -> Output {
    let mut process = Command::new(binary::mesh())
        .args(arguments)
        .env("KUBECONFIG", cluster.kubeconfig())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mesh");
    let mut stdin = process.stdin.take().expect("its input");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    process.wait_with_output().expect("its output")
}
