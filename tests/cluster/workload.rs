//! What runs on the cluster: manifests as users write them, with every kind of probe.

use mesh_api::names;
use serde_json::{Value, json};

/// The namespace that opts in.
pub(crate) const MESHED: &str = "mesh-test";
/// The one that does not.
pub(crate) const PLAIN: &str = "mesh-test-plain";
/// The container of every pod here.
pub(crate) const CONTAINER: &str = "app";

/// A pod that only shows that its image is there.
pub(crate) fn program(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": CONTAINER, "image": image, "args": ["--help"]}],
        },
    })
}

/// A Deployment of `mesh-testapp`, which serves everything. Its probes count for nobody.
pub(crate) fn deployment(name: &str, image: &str, replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": server(name, image)},
        },
    })
}

/// The same with a proxy of the kind that is an ordinary container.
pub(crate) fn classic(name: &str, image: &str) -> Value {
    let mut deployment = deployment(name, image, 1);
    deployment["spec"]["template"]["metadata"]["annotations"] =
        json!({names::ANNOTATION_NATIVE_SIDECAR: "false"});
    deployment
}

/// One pod with such a proxy, whose app takes its time to end, as apps do that wait until nobody calls them any more.
pub(crate) fn leaving(name: &str, image: &str, seconds: u32) -> Value {
    let mut deployment = classic(name, image);
    let spec = &mut deployment["spec"]["template"]["spec"];
    spec["terminationGracePeriodSeconds"] = json!(10 * seconds);
    spec["containers"][0]["lifecycle"] = json!({"preStop": {"sleep": {"seconds": seconds}}});
    deployment
}

/// A StatefulSet, whose pods are reached by their names.
pub(crate) fn stateful_set(name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name},
        "spec": {
            "replicas": 2, "serviceName": name,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": server(name, image)},
        },
    })
}

fn server(account: &str, image: &str) -> Value {
    json!({
        "serviceAccountName": account,
        "terminationGracePeriodSeconds": 10,
        "containers": [{
            "name": CONTAINER, "image": image,
            "args": ["serve", "--http", "8080", "--grpc", "9090", "--echo", "7070", "--banner", "7071", "--digest", "7072", "--reset", "7073"],
            "ports": [{"name": "http", "containerPort": 8080}, {"name": "echo", "containerPort": 7070}],
            "startupProbe": {"exec": {"command": ["/mesh-testapp", "--help"]}, "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 60},
            "readinessProbe": {"httpGet": {"path": "/probed", "port": "http"}, "periodSeconds": 1, "failureThreshold": 2},
            "livenessProbe": {"grpc": {"port": 9090}, "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 5},
        }],
    })
}

/// A Deployment that becomes ready when something listens on a port, named as `echo` or given by number.
pub(crate) fn tcp_probed(name: &str, image: &str, port: &Value) -> Value {
    let mut deployment = deployment(name, image, 1);
    let container = &mut deployment["spec"]["template"]["spec"]["containers"][0];
    container["readinessProbe"] = json!({"tcpSocket": {"port": port}, "periodSeconds": 1});
    deployment
}

/// The Service and the account of a Deployment or StatefulSet.
pub(crate) fn front(name: &str, headless: bool) -> [Value; 2] {
    let port = |name: &str, port: u16, target: Value| json!({"name": name, "port": port, "targetPort": target});
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {
            "selector": {"app": name},
            "ports": [
                port("http", 80, "http".into()), port("grpc", 9090, 9090.into()), port("echo", 7070, "echo".into()),
                port("banner", 7071, 7071.into()), port("digest", 7072, 7072.into()), port("reset", 7073, 7073.into()),
            ],
        },
    });
    if headless {
        service["spec"]["clusterIP"] = "None".into();
    }
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    [account, service]
}

/// Another name for a Service.
pub(crate) fn alias(name: &str, of: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": "ExternalName", "externalName": format!("{of}.{MESHED}.svc.cluster.local")},
    })
}

/// A Job that calls a Service, and ends.
pub(crate) fn job(name: &str, image: &str, url: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {
            "backoffLimit": 0,
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": CONTAINER, "image": image, "args": ["load", "--url", url, "--rate", "20", "--seconds", "2"]}],
                },
            },
        },
    })
}
