//! What the server makes of objects of some kinds: defaults, addresses, rules, custom resources, discovery.

use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{Secret, Service},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    discovery,
};
use serde_json::{Value, json};

use super::{Place, object, patches::deployment, pod, refusal};

#[tokio::test]
async fn pods_and_deployments_get_their_defaults() {
    let Some(place) = Place::new().await else {
        return;
    };
    let created = place
        .pods()
        .create(&Default::default(), &object(pod("a")))
        .await
        .expect("created");
    let spec = created.spec.expect("a spec");
    assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
    assert_eq!(spec.dns_policy.as_deref(), Some("ClusterFirst"));
    assert_eq!(spec.termination_grace_period_seconds, Some(30));
    assert_eq!(spec.tolerations.map(|list| list.len()), Some(2));
    let container = &spec.containers[0];
    assert_eq!(container.image_pull_policy.as_deref(), Some("IfNotPresent"));
    assert_eq!(
        container.termination_message_path.as_deref(),
        Some("/dev/termination-log")
    );
    let status = created.status.expect("a status");
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));

    let deployments: Api<Deployment> = Api::namespaced(place.client.clone(), &place.namespace);
    let created = deployments
        .create(&Default::default(), &object(deployment("a")))
        .await
        .expect("created");
    assert_eq!(created.metadata.generation, Some(1));
    let spec = created.spec;
    assert_eq!(spec.revision_history_limit, Some(10));
    assert_eq!(spec.progress_deadline_seconds, Some(600));
    assert_eq!(
        spec.strategy.and_then(|strategy| strategy.type_).as_deref(),
        Some("RollingUpdate")
    );
    assert_eq!(
        spec.template
            .spec
            .and_then(|spec| spec.restart_policy)
            .as_deref(),
        Some("Always")
    );
}

#[tokio::test]
async fn what_a_kind_forbids_is_named() {
    let Some(place) = Place::new().await else {
        return;
    };
    let pods = place.pods();
    let mut broken = pod("a");
    broken["spec"]["containers"][0]["volumeMounts"] =
        json!([{ "name": "none", "mountPath": "/x" }]);
    let refused = refusal(pods.create(&Default::default(), &object(broken)).await);
    assert_eq!((refused.code, refused.reason.as_str()), (422, "Invalid"));
    assert_eq!(
        refused.message,
        "Pod \"a\" is invalid: spec.containers[0].volumeMounts[0].name: Not found: \"none\""
    );
    pods.create(&Default::default(), &object(pod("a")))
        .await
        .expect("created");
    let patch = json!({ "spec": { "hostNetwork": true } });
    let refused = refusal(
        pods.patch("a", &PatchParams::default(), &Patch::Merge(&patch))
            .await,
    );
    assert!(
        refused
            .message
            .contains("pod updates may not change fields other than"),
        "{}",
        refused.message
    );

    let deployments: Api<Deployment> = Api::namespaced(place.client.clone(), &place.namespace);
    let mut other = deployment("a");
    other["spec"]["template"]["metadata"]["labels"]["app"] = "other".into();
    let refused = refusal(
        deployments
            .create(&Default::default(), &object(other))
            .await,
    );
    assert!(
        refused
            .message
            .contains("`selector` does not match template `labels`"),
        "{}",
        refused.message
    );
}

#[tokio::test]
async fn services_get_addresses_and_keep_them() {
    let Some(place) = Place::new().await else {
        return;
    };
    let services: Api<Service> = Api::namespaced(place.client.clone(), &place.namespace);
    let service = |name: &str, more: Value| {
        let mut service =
            json!({ "metadata": { "name": name }, "spec": { "ports": [{ "port": 80 }] } });
        let spec = service["spec"].as_object_mut().expect("an object");
        spec.extend(more.as_object().expect("an object").clone());
        object::<Service>(service)
    };
    let create = |service: Service| {
        let services = services.clone();
        async move { services.create(&Default::default(), &service).await }
    };
    let single = create(service("single", json!({}))).await.expect("created");
    let spec = single.spec.clone().expect("a spec");
    let ip = spec.cluster_ip.clone().expect("an address");
    assert_eq!(spec.cluster_ips, Some(vec![ip.clone()]));
    assert_eq!(spec.type_.as_deref(), Some("ClusterIP"));
    assert_eq!(spec.ip_families, Some(vec!["IPv4".to_owned()]));
    let port = &spec.ports.expect("ports")[0];
    assert_eq!(port.protocol.as_deref(), Some("TCP"));
    let dual = create(service(
        "dual",
        json!({ "ipFamilyPolicy": "RequireDualStack" }),
    ))
    .await
    .expect("created");
    assert_eq!(
        dual.spec
            .and_then(|spec| spec.cluster_ips)
            .map(|ips| ips.len()),
        Some(2)
    );
    let headless = create(service("headless", json!({ "clusterIP": "None" })))
        .await
        .expect("created");
    assert_eq!(
        headless.spec.and_then(|spec| spec.cluster_ip).as_deref(),
        Some("None")
    );
    let taken = refusal(create(service("taken", json!({ "clusterIP": ip }))).await);
    assert_eq!(taken.code, 422, "{}", taken.message);
    let mut again = service("single", json!({}));
    again.metadata.resource_version = single.resource_version();
    let kept = services
        .replace("single", &Default::default(), &again)
        .await
        .expect("replaced");
    assert_eq!(kept.spec.and_then(|spec| spec.cluster_ip), Some(ip));
    let other = json!({ "spec": { "clusterIP": "10.96.255.1", "clusterIPs": ["10.96.255.1"] } });
    let refused = refusal(
        services
            .patch("single", &PatchParams::default(), &Patch::Merge(&other))
            .await,
    );
    assert!(
        refused.message.contains("may not change once set"),
        "{}",
        refused.message
    );
}

#[tokio::test]
async fn secrets_take_plain_strings_and_leases_want_a_version() {
    let Some(place) = Place::new().await else {
        return;
    };
    let secrets: Api<Secret> = Api::namespaced(place.client.clone(), &place.namespace);
    let secret = object(json!({ "metadata": { "name": "a" }, "stringData": { "key": "value" } }));
    let created = secrets
        .create(&Default::default(), &secret)
        .await
        .expect("created");
    assert_eq!(created.type_.as_deref(), Some("Opaque"));
    assert_eq!(created.data.expect("data")["key"].0, b"value");
    assert!(created.string_data.is_none());

    let leases: Api<Lease> = Api::namespaced(place.client.clone(), &place.namespace);
    let lease = |holder: &str| {
        object::<Lease>(json!({
            "metadata": { "name": "a" },
            "spec": { "holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000001Z" },
        }))
    };
    let first = leases
        .create(&Default::default(), &lease("one"))
        .await
        .expect("created");
    let mut stale = lease("two");
    stale.metadata.resource_version = first.resource_version();
    leases
        .replace("a", &Default::default(), &stale)
        .await
        .expect("replaced");
    let refused = refusal(leases.replace("a", &Default::default(), &stale).await);
    assert_eq!((refused.code, refused.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        refused.message.split(':').next(),
        Some("Operation cannot be fulfilled on leases.coordination.k8s.io \"a\"")
    );
}

fn definition() -> Value {
    json!({
        "metadata": { "name": "widgets.tests.example.com" },
        "spec": {
            "group": "tests.example.com",
            "scope": "Namespaced",
            "names": { "plural": "widgets", "kind": "Widget", "shortNames": ["wd"] },
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": {
                            "type": "object",
                            "required": ["size"],
                            "properties": {
                                "size": { "type": "integer", "minimum": 1 },
                                "colour": { "type": "string", "default": "red", "enum": ["red", "blue"] },
                            },
                        },
                        "status": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                    },
                } },
            }],
        },
    })
}

#[tokio::test]
async fn a_definition_makes_a_resource() {
    let Some(place) = Place::new().await else {
        return;
    };
    let definitions = place.cluster_objects("apiextensions.k8s.io/v1", "CustomResourceDefinition");
    definitions
        .create(
            &Default::default(),
            &object(with_type(
                "apiextensions.k8s.io/v1",
                "CustomResourceDefinition",
                definition(),
            )),
        )
        .await
        .expect("created");
    let widgets = place.objects("tests.example.com/v1", "Widget");
    // The real server serves it a moment later.
    let mut tries = 0;
    while widgets.list(&ListParams::default()).await.is_err() {
        tries += 1;
        assert!(tries < 300, "it is not served");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let widget = |spec: Value| {
        object(with_type(
            "tests.example.com/v1",
            "Widget",
            json!({ "metadata": { "name": "a" }, "spec": spec, "status": { "x": 1 } }),
        ))
    };
    let refused = refusal(
        widgets
            .create(&Default::default(), &widget(json!({})))
            .await,
    );
    assert_eq!(
        refused.message,
        "Widget.tests.example.com \"a\" is invalid: spec.size: Required value"
    );
    let refused = refusal(
        widgets
            .create(&Default::default(), &widget(json!({ "size": "big" })))
            .await,
    );
    assert!(
        refused
            .message
            .contains("spec.size in body must be of type integer: \"string\""),
        "{}",
        refused.message
    );
    let created = widgets
        .create(
            &Default::default(),
            &widget(json!({ "size": 2, "unknown": 3 })),
        )
        .await
        .expect("created");
    assert_eq!(
        created.data,
        json!({ "spec": { "size": 2, "colour": "red" } })
    );
    assert_eq!(created.metadata.generation, Some(1));
    let status = json!({ "status": { "ready": true } });
    let patched = widgets
        .patch_status("a", &PatchParams::default(), &Patch::Merge(&status))
        .await
        .expect("patched");
    assert_eq!(patched.data["status"], json!({ "ready": true }));
    assert_eq!(patched.metadata.generation, Some(1));
    let strategic = widgets
        .patch("a", &PatchParams::default(), &Patch::Strategic(&status))
        .await;
    assert_eq!(
        refusal(strategic).code,
        415,
        "custom resources take no strategic merge patch"
    );
    let group = discovery::pinned_group(
        &place.client,
        &kube::core::GroupVersion::gv("tests.example.com", "v1"),
    )
    .await;
    assert!(
        group
            .expect("it is discovered")
            .recommended_kind("Widget")
            .is_some()
    );
    definitions
        .delete("widgets.tests.example.com", &DeleteParams::default())
        .await
        .expect("deleted");
}

fn with_type(version: &str, kind: &str, mut value: Value) -> Value {
    value["apiVersion"] = version.into();
    value["kind"] = kind.into();
    value
}

#[tokio::test]
async fn everything_is_discovered() {
    let Some(place) = Place::new().await else {
        return;
    };
    let version = place.client.apiserver_version().await.expect("a version");
    assert_eq!(version.major, "1");
    let found = discovery::Discovery::new(place.client.clone())
        .run()
        .await
        .expect("discovered");
    for (group, kind) in [
        ("", "Pod"),
        ("apps", "Deployment"),
        ("discovery.k8s.io", "EndpointSlice"),
        (
            "admissionregistration.k8s.io",
            "MutatingWebhookConfiguration",
        ),
        ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ] {
        let group = found
            .get(group)
            .unwrap_or_else(|| panic!("group {group:?}"));
        assert!(group.recommended_kind(kind).is_some(), "{kind}");
    }
}

#[tokio::test]
async fn events_have_two_names() {
    let Some(place) = Place::new().await else {
        return;
    };
    let new = place.objects("events.k8s.io/v1", "Event");
    let event = with_type(
        "events.k8s.io/v1",
        "Event",
        json!({
            "metadata": { "name": "a" },
            "eventTime": "2026-01-01T00:00:00.000001Z",
            "reportingController": "tests",
            "reportingInstance": "one",
            "action": "Testing",
            "reason": "Tested",
            "note": "it was tested",
            "type": "Normal",
            "regarding": { "apiVersion": "v1", "kind": "Pod", "namespace": place.namespace, "name": "a" },
        }),
    );
    new.create(&Default::default(), &object(event))
        .await
        .expect("created");
    let core = place
        .objects("v1", "Event")
        .get("a")
        .await
        .expect("the same event");
    assert_eq!(core.data["message"], "it was tested");
    assert_eq!(core.data["involvedObject"]["name"], "a");
    let by_object = ListParams::default().fields("involvedObject.name=a");
    let listed = place
        .objects("v1", "Event")
        .list(&by_object)
        .await
        .expect("a list");
    assert_eq!(listed.items.len(), 1);
}
