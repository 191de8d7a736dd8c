//! The mesh comes, pods get their proxies and lose them, the mesh goes.

use std::{io::Write, process::Stdio};

use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, Pod},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use mesh_api::names;
use serde_json::{Value, json};

use crate::{
    stage::{Listed, Stage},
    workload::{self, MESHED, PLAIN},
};

pub(crate) fn install(stage: &Stage) {
    stage.mesh("check --pre");
    stage.mesh(&format!("install --apply --registry {}", stage.registry));
    assert_good(stage, "check --wait 2m");
    // The same again is a repair, and changes nothing.
    let again = stage.mesh(&format!("install --apply --registry {}", stage.registry));
    assert!(
        !again.contains("created") && !again.contains("configured"),
        "{again}"
    );
}

/// Every line of `mesh check` is good, soon: a replica that has just ended has left the election open for seconds.
pub(crate) fn assert_good(stage: &Stage, check: &str) {
    stage.until(&format!("mesh {check} is all well"), || {
        let report = stage.json(check);
        let checks = report["checks"].as_array().expect("checks");
        let mut bad = checks
            .iter()
            .filter(|check| check["result"] != "ok")
            .peekable();
        if bad.peek().is_none() {
            return Some(());
        }
        bad.for_each(|check| println!("    not yet: {check}"));
        None
    });
}

pub(crate) fn opt_in(stage: &Stage) {
    set_opted_in(stage, MESHED, true);
    let image = stage.image("mesh-testapp");
    for name in ["web", "client", "classic", "store", "outsider"] {
        let namespace = if name == "outsider" { PLAIN } else { MESHED };
        for object in workload::front(name, name == "store") {
            stage.apply(namespace, &object);
        }
    }
    stage.apply(MESHED, &workload::deployment("web", &image, 2));
    stage.apply(MESHED, &workload::deployment("client", &image, 1));
    stage.apply(MESHED, &workload::classic("classic", &image));
    stage.apply(MESHED, &workload::stateful_set("store", &image));
    stage.apply(MESHED, &workload::alias("alias", "web"));
    stage.apply(PLAIN, &workload::deployment("outsider", &image, 1));
    for name in ["web", "client", "classic"] {
        stage.rollout(MESHED, name);
    }
    stage.rollout(PLAIN, "outsider");
    stage.until("both pods of the StatefulSet", || {
        let pods = stage.pods(MESHED, "store");
        (pods.len() == 2 && pods.iter().all(is_ready)).then_some(())
    });
    for (namespace, app, has_proxy) in [
        (MESHED, "web", true),
        (MESHED, "store", true),
        (MESHED, "classic", true),
        (PLAIN, "outsider", false),
    ] {
        for pod in stage.pods(namespace, app) {
            assert_eq!(is_meshed(&pod), has_proxy, "{app}: {pod:#?}");
        }
    }
}

/// As a person does it: what is there, through `mesh inject`, back again.
pub(crate) fn inject_and_uninject(stage: &Stage) {
    let pods = || stage.pods(PLAIN, "outsider");
    for (command, is_to_be) in [("inject", true), ("uninject", false)] {
        let mut deployment =
            serde_json::to_value(stage.get::<Deployment>(PLAIN, "outsider")).expect("JSON");
        deployment["apiVersion"] = "apps/v1".into();
        deployment["kind"] = "Deployment".into();
        let changed = through(stage, command, &deployment);
        // As `kubectl replace` would: what is gone from the document is gone from the object.
        let labels = json!({names::LABEL_INJECT: changed["spec"]["template"]["metadata"]["labels"][names::LABEL_INJECT]});
        stage.patch::<Deployment>(
            PLAIN,
            "outsider",
            &json!({"spec": {"template": {"metadata": {"labels": labels}}}}),
        );
        stage.rollout(PLAIN, "outsider");
        stage.until(&format!("{command} has done it"), || {
            let pods = pods();
            (pods.len() == 1 && is_meshed(&pods[0]) == is_to_be).then_some(())
        });
    }
}

/// A document through `mesh inject -` or `mesh uninject -`.
fn through(stage: &Stage, command: &str, document: &Value) -> Value {
    let mut running = stage
        .command(&format!("{command} -"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("mesh runs");
    let mut input = running.stdin.take().expect("a pipe");
    let text = document.to_string();
    input.write_all(text.as_bytes()).expect("it reads");
    drop(input);
    let said = running.wait_with_output().expect("its end");
    assert!(said.status.success());
    serde_json::from_slice(&said.stdout).expect("JSON in, JSON out")
}

pub(crate) fn uninstall(stage: &Stage) {
    set_opted_in(stage, MESHED, false);
    stage.mesh("uninstall --apply");
    fn none<K: Listed>(stage: &Stage) -> bool {
        let labels = format!("{}={}", names::LABEL_PART_OF, names::PART_OF);
        stage.list_all::<K>(&labels).is_empty()
    }
    stage.until("nothing of the mesh is left", || {
        let gone = none::<Namespace>(stage)
            && none::<ClusterRole>(stage)
            && none::<ClusterRoleBinding>(stage)
            && none::<MutatingWebhookConfiguration>(stage)
            && none::<ConfigMap>(stage);
        gone.then_some(())
    });
    // And pods start as if there had never been one.
    let web = stage.pods(MESHED, "web").len();
    let change = json!({"spec": {"template": {"metadata": {"annotations": {"again": "yes"}}}}});
    stage.patch::<Deployment>(MESHED, "web", &change);
    stage.rollout(MESHED, "web");
    let pods = stage.pods(MESHED, "web");
    assert!(pods.len() == web && !pods.iter().any(is_meshed));
}

pub(crate) fn set_opted_in(stage: &Stage, namespace: &str, opted_in: bool) {
    let label = if opted_in { "enabled" } else { "disabled" };
    stage.apply(
        "",
        &json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {names::LABEL_INJECT: label}},
        }),
    );
}

/// Whether there is a proxy in it.
pub(crate) fn is_meshed(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref().expect("a spec");
    let containers = spec.containers.iter();
    containers
        .chain(spec.init_containers.iter().flatten())
        .any(|container| container.name == names::PROXY_CONTAINER)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
