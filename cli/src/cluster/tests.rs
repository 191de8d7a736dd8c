use k8s_openapi::api::core::v1::Pod;
use kube::{Client, Config, config::Kubeconfig};
use serde_json::{Value, json};

use super::{Cluster, Controllers, kubeconfig::context};

fn pod(name: &str, status: &Value) -> Pod {
    let pod = json!({
        "metadata": {"name": name, "namespace": "mesh-system"},
        "spec": {"containers": [{"name": "controller", "image": "localhost:5000/mesh/mesh-controller:0.1.0@sha256:00"}]},
        "status": status,
    });
    serde_json::from_value(pod).unwrap()
}

#[test]
fn replicas_that_are_not_ready_say_why() {
    let controllers = Controllers::of(&[
        pod(
            "c-2",
            &json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
        ),
        pod(
            "c-3",
            &json!({"phase": "Pending", "containerStatuses": [{
                "name": "controller", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}},
            }]}),
        ),
        pod(
            "c-4",
            &json!({"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"},
            ]}),
        ),
        pod("c-5", &json!({})),
    ]);
    let ready: Vec<_> = controllers
        .ready
        .iter()
        .map(|c| (c.pod.as_str(), c.version.as_deref()))
        .collect();
    assert_eq!(ready, [("c-2", Some("0.1.0"))]);
    assert_eq!(
        controllers.not_ready,
        [
            "c-3 is Pending (ErrImagePull: not found)",
            "c-4 is Pending (0/1 nodes are available)",
            "c-5 is Pending and not ready",
        ]
    );
}

#[test]
fn a_context_that_is_not_there_names_those_that_are() {
    let kubeconfig = |current: &str| {
        Kubeconfig::from_yaml(&format!(
            "current-context: '{current}'\ncontexts:\n- name: kind\n  context: {{cluster: k, user: u}}\n- name: prod\n  context: {{cluster: p, user: u}}\n"
        ))
        .unwrap()
    };
    assert_eq!(context(&kubeconfig("kind"), None).unwrap(), "kind");
    assert_eq!(context(&kubeconfig("kind"), Some("prod")).unwrap(), "prod");
    for (current, wanted) in [("", None), ("kind", Some("staging")), ("gone", None)] {
        let error = context(&kubeconfig(current), wanted)
            .unwrap_err()
            .to_string();
        assert!(error.contains("kind, prod"), "{error}");
    }
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let config = Config::new("http://127.0.0.1:1".parse().unwrap());
    let cluster = Cluster {
        client: Client::try_from(config).unwrap(),
        context: "kind".into(),
        server: "http://127.0.0.1:1".into(),
        namespace: "default".into(),
    };
    let refused = |code, message: &str| {
        let status = kube::core::Status {
            code,
            message: message.into(),
            ..kube::core::Status::default()
        };
        let error = kube::Error::Api(Box::new(status));
        cluster.explain("list pods in shop", &error).to_string()
    };
    let text = refused(
        403,
        "pods is forbidden: User \"me\" cannot list resource \"pods\"",
    );
    assert!(
        text.starts_with("You have no right to list pods in shop in the cluster of context \"kind\": pods is forbidden"),
        "{text}"
    );
    let text = refused(403, "pods \"x\" is forbidden: exceeded quota");
    assert!(
        text.contains("refused to list pods in shop: pods \"x\""),
        "{text}"
    );
    assert!(refused(401, "Unauthorized").contains("log in again"));
    assert!(refused(500, "etcd is slow").contains("refused to list pods in shop: etcd is slow"));
}
