//! `mesh install`, `upgrade` and `uninstall` against an API server.

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Namespace, Pod, Secret, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use mesh_tests::{binary, cluster::Cluster};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};

const SYSTEM: &str = "mesh-system";

#[tokio::test]
async fn a_second_time_changes_nothing() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let first = apply(&cluster, &["--ha"]).await;
    assert_eq!(count(&first, " created"), 12, "{first}");
    let second = apply(&cluster, &["--ha"]).await;
    assert_eq!(count(&second, " unchanged"), 12, "{second}");
}

#[tokio::test]
async fn applying_again_keeps_the_bundle_that_the_controller_wrote() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    apply(&cluster, &[]).await;
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(cluster.client().await);
    // As the controller writes it: the list as it is, with the bundle in each.
    let mut configuration = webhooks.get("mesh-webhook").await.unwrap();
    let bundle = k8s_openapi::ByteString(b"-----BEGIN CERTIFICATE-----".to_vec());
    for webhook in configuration.webhooks.iter_mut().flatten() {
        assert_eq!(webhook.client_config.ca_bundle, None);
        webhook.client_config.ca_bundle = Some(bundle.clone());
    }
    let patch = json!({"webhooks": configuration.webhooks});
    let params = PatchParams::default();
    webhooks
        .patch("mesh-webhook", &params, &Patch::Merge(patch))
        .await
        .unwrap();

    let again = apply(&cluster, &[]).await;
    assert_eq!(count(&again, " unchanged"), 11, "{again}");
    apply_upgrade(&cluster, &["--ha"]).await;
    let configuration = webhooks.get("mesh-webhook").await.unwrap();
    for webhook in configuration.webhooks.unwrap() {
        assert_eq!(webhook.client_config.ca_bundle.as_ref(), Some(&bundle));
        assert_eq!(webhook.failure_policy.as_deref(), Some("Fail"));
    }
}

#[tokio::test]
async fn an_upgrade_keeps_what_was_said_and_removes_what_is_no_longer_there() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let client = cluster.client().await;
    let said = [
        "--ha",
        "--registry",
        "registry.example/mesh",
        "--set",
        "controller.memory.limit=2Gi",
    ];
    apply(&cluster, &said).await;
    // Other options are another mesh: that is an upgrade's to say.
    let refused = mesh(&cluster, &["install", "--apply", "--wait", "0s"]).await;
    assert_fails(&refused, "mesh upgrade --apply");

    let renamed = mesh(&cluster, &["upgrade", "--trust-domain", "other.example"]).await;
    assert_fails(&renamed, "can't change");

    let printed = succeeded(mesh(&cluster, &["upgrade", "--ha=false"]).await);
    assert!(
        printed
            .stdout
            .contains("registry.example/mesh/mesh-controller:")
    );
    assert!(
        printed
            .stderr
            .contains("poddisruptionbudget/mesh-controller -n mesh-system"),
        "{}",
        printed.stderr
    );

    // The trust bundle of the system namespace is the controller's.
    let bundle = json!({"metadata": {"name": "mesh-trust", "labels": {"app.kubernetes.io/part-of": "mesh"}}});
    create::<ConfigMap>(&client, SYSTEM, bundle).await;
    let upgraded = apply_upgrade(&cluster, &["--ha=false"]).await;
    assert!(
        upgraded.contains("poddisruptionbudget/mesh-controller -n mesh-system deleted"),
        "{upgraded}"
    );
    assert_eq!(count(&upgraded, " deleted"), 1, "{upgraded}");

    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), SYSTEM);
    assert!(budgets.get_opt("mesh-controller").await.unwrap().is_none());
    let spec = deployment(&client).await["spec"].take();
    assert_eq!(spec["replicas"], 1);
    assert_eq!(spec["template"]["spec"]["affinity"], Value::Null);
    let container = &spec["template"]["spec"]["containers"][0];
    assert!(
        container["image"]
            .as_str()
            .unwrap()
            .starts_with("registry.example/mesh/")
    );
    assert_eq!(container["resources"]["limits"]["memory"], "2Gi");

    let same = apply_upgrade(&cluster, &[]).await;
    assert_eq!(count(&same, " unchanged"), 11, "{same}");
}

/// Fields that `kubectl apply` has set belong to it; a server-side apply alone would leave them behind.
#[tokio::test]
async fn an_upgrade_takes_back_what_kubectl_applied() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let client = cluster.client().await;
    let printed = succeeded(mesh(&cluster, &["install", "--ha"]).await);
    let params = PostParams {
        field_manager: Some("kubectl-client-side-apply".into()),
        ..PostParams::default()
    };
    for object in serde_saphyr::from_multiple::<Value>(&printed.stdout).unwrap() {
        create_any(&client, object, &params).await;
    }
    assert_eq!(deployment(&client).await["spec"]["replicas"], 3);

    apply_upgrade(&cluster, &["--ha=false"]).await;
    let spec = deployment(&client).await["spec"].take();
    assert_eq!(spec["replicas"], 1);
    assert_eq!(spec["template"]["spec"]["affinity"], Value::Null, "{spec}");
}

#[tokio::test]
async fn applying_waits_until_the_controller_is_ready() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let client = cluster.client().await;
    // The test plays the cluster's controllers: first nothing, then a pod that can't start, then a ready one.
    let impatient = mesh(&cluster, &["install", "--apply", "--wait", "500ms"]).await;
    assert_fails(
        &impatient,
        "the cluster has not looked at the controller's Deployment yet",
    );

    let waiting = Command::new(binary::mesh())
        .args(["install", "--apply", "--wait", "60s"])
        .env("KUBECONFIG", cluster.kubeconfig())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    set_status(
        &client,
        json!({"replicas": 1, "updatedReplicas": 1, "unavailableReplicas": 1}),
    )
    .await;
    let pod = json!({
        "metadata": {"name": "mesh-controller-1", "labels": {"mesh.internal/component": "controller"}},
        "spec": {
            "serviceAccountName": "mesh-controller",
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "mesh-controller",
                "image": "localhost/mesh/mesh-controller:0",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    });
    create::<Pod>(&client, SYSTEM, pod).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), SYSTEM);
    let status = json!({"status": {"containerStatuses": [{
        "name": "mesh-controller", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}},
    }]}});
    let params = PatchParams::default();
    pods.patch_status("mesh-controller-1", &params, &Patch::Merge(status))
        .await
        .unwrap();
    let unready = mesh(&cluster, &["install", "--apply", "--wait", "100ms"]).await;
    assert_fails(
        &unready,
        "0 of 1 controllers ready; mesh-controller-1: ErrImagePull: no such image",
    );

    let ready =
        json!({"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1});
    set_status(&client, ready).await;
    let output = timeout(Duration::from_secs(60), waiting.wait_with_output()).await;
    let output = succeeded(output.expect("the command ends").unwrap());
    assert!(
        output.stdout.ends_with("√ 1 of 1 controllers ready\n"),
        "{}",
        output.stdout
    );
}

#[tokio::test]
async fn uninstall_names_and_removes_all_there_is() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let client = cluster.client().await;
    assert_fails(&mesh(&cluster, &["uninstall"]).await, "nothing of the mesh");
    assert_fails(&mesh(&cluster, &["upgrade"]).await, "No mesh is installed");

    apply(&cluster, &["--ha"]).await;
    // What the controller makes, and what stays.
    create::<Namespace>(&client, "", json!({"metadata": {"name": "shop"}})).await;
    for namespace in ["shop", SYSTEM] {
        create::<ConfigMap>(
            &client,
            namespace,
            json!({"metadata": {"name": "mesh-trust"}}),
        )
        .await;
    }
    create::<ConfigMap>(&client, "shop", json!({"metadata": {"name": "own"}})).await;
    create::<Secret>(&client, SYSTEM, json!({"metadata": {"name": "mesh-ca"}})).await;
    create::<Lease>(
        &client,
        SYSTEM,
        json!({"metadata": {"name": "mesh-controller"}}),
    )
    .await;
    let pod = json!({
        "metadata": {"name": "web-1", "annotations": {"mesh.internal/proxy": "true"}},
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{"name": "web", "image": "web"}],
        },
    });
    service_account(&client, "shop").await;
    create::<Pod>(&client, "shop", pod).await;

    let printed = succeeded(mesh(&cluster, &["uninstall"]).await);
    assert!(
        printed
            .stderr
            .contains("1 pods still have a proxy (shop/web-1)"),
        "{}",
        printed.stderr
    );
    let documents: Vec<Value> = serde_saphyr::from_multiple(&printed.stdout).unwrap();
    let objects: Vec<String> = documents
        .iter()
        .map(|object| {
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            let metadata = &object["metadata"];
            format!(
                "{} {} {}",
                text(&object["kind"]),
                text(&metadata["namespace"]),
                text(&metadata["name"])
            )
        })
        .collect();
    let expected = [
        "MutatingWebhookConfiguration - mesh-webhook",
        "PodDisruptionBudget mesh-system mesh-controller",
        "Deployment mesh-system mesh-controller",
        "Service mesh-system mesh-controller",
        "Service mesh-system mesh-webhook",
        "ConfigMap mesh-system mesh-config",
        "RoleBinding mesh-system mesh-controller",
        "Role mesh-system mesh-controller",
        "ClusterRoleBinding - mesh-controller",
        "ClusterRole - mesh-controller",
        "ServiceAccount mesh-system mesh-controller",
        "Secret mesh-system mesh-ca",
        "Lease mesh-system mesh-controller",
        "ConfigMap mesh-system mesh-trust",
        "ConfigMap shop mesh-trust",
        "Namespace - mesh-system",
    ];
    assert_eq!(objects, expected);

    let deleted = succeeded(mesh(&cluster, &["uninstall", "--apply"]).await).stdout;
    assert_eq!(count(&deleted, " deleted"), expected.len(), "{deleted}");
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), "shop");
    assert!(config_maps.get_opt("mesh-trust").await.unwrap().is_none());
    assert!(config_maps.get_opt("own").await.unwrap().is_some());
    // Without the controller that ends namespaces, a real API server keeps it, marked as going.
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = namespaces.get_opt(SYSTEM).await.unwrap();
    assert!(namespace.is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()));
}

#[tokio::test]
async fn what_helm_installed_is_left_to_helm() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let client = cluster.client().await;
    create::<Namespace>(&client, "", json!({"metadata": {"name": SYSTEM}})).await;
    let config = json!({"metadata": {
        "name": "mesh-config",
        "labels": {"app.kubernetes.io/managed-by": "Helm"},
        "annotations": {"meta.helm.sh/release-name": "my-mesh", "meta.helm.sh/release-namespace": "default"},
    }});
    create::<ConfigMap>(&client, SYSTEM, config).await;
    for command in [&["install", "--apply"][..], &["upgrade"], &["uninstall"]] {
        assert_fails(
            &mesh(&cluster, command).await,
            "as the release my-mesh in the namespace default",
        );
    }
    let services: Api<Service> = Api::namespaced(client, SYSTEM);
    assert!(
        services
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

/// `mesh install --apply`, without the wait for pods that nobody makes here.
async fn apply(cluster: &Cluster, options: &[&str]) -> String {
    let command = ["install", "--apply", "--wait", "0s"];
    succeeded(mesh(cluster, &[&command, options].concat()).await).stdout
}

async fn apply_upgrade(cluster: &Cluster, options: &[&str]) -> String {
    let command = ["upgrade", "--apply", "--wait", "0s"];
    succeeded(mesh(cluster, &[&command, options].concat()).await).stdout
}

async fn mesh(cluster: &Cluster, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary::mesh());
    command
        .args(arguments)
        .env("KUBECONFIG", cluster.kubeconfig());
    command.kill_on_drop(true);
    let output = timeout(Duration::from_secs(60), command.output()).await;
    output
        .expect("the command ends")
        .expect("the command starts")
}

struct Printed {
    stdout: String,
    stderr: String,
}

fn succeeded(output: Output) -> Printed {
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stdout}\n{stderr}");
    Printed { stdout, stderr }
}

fn assert_fails(output: &Output, expected: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && stderr.contains(expected),
        "{stderr}"
    );
}

fn count(text: &str, ending: &str) -> usize {
    text.lines().filter(|line| line.ends_with(ending)).count()
}

async fn create<K>(client: &Client, namespace: &str, object: Value)
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let mut object = object;
    object["apiVersion"] = K::api_version(&()).into();
    object["kind"] = K::kind(&()).into();
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    create_any(client, object, &PostParams::default()).await;
}

/// Posts an object as it is.
async fn create_any(client: &Client, object: Value, params: &PostParams) {
    let object: kube::api::DynamicObject = serde_json::from_value(object).unwrap();
    let types = object.types.clone().unwrap();
    let resource = kube::api::ApiResource::from_gvk(&(&types).try_into().unwrap());
    let api: Api<kube::api::DynamicObject> = match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let created = api.create(params, &object).await;
    created.unwrap_or_else(|error| panic!("{} {}: {error}", types.kind, object.name_any()));
}

/// Admission of pods wants the service account that a controller makes elsewhere.
async fn service_account(client: &Client, namespace: &str) {
    let account = json!({"metadata": {"name": "default"}});
    create::<k8s_openapi::api::core::v1::ServiceAccount>(client, namespace, account).await;
}

async fn deployment(client: &Client) -> Value {
    let api: Api<Deployment> = Api::namespaced(client.clone(), SYSTEM);
    serde_json::to_value(api.get("mesh-controller").await.unwrap()).unwrap()
}

/// What the cluster's deployment controller would say.
async fn set_status(client: &Client, mut status: Value) {
    let api: Api<Deployment> = Api::namespaced(client.clone(), SYSTEM);
    let generation = api
        .get("mesh-controller")
        .await
        .unwrap()
        .metadata
        .generation;
    status["observedGeneration"] = json!(generation);
    let patch = Patch::Merge(json!({"status": status}));
    api.patch_status("mesh-controller", &PatchParams::default(), &patch)
        .await
        .unwrap();
}
