//! The controller is away: what runs runs on, what starts starts without a proxy, and is told of later.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod, events::v1::Event};
use kube::ResourceExt;
use mesh_api::names::{CONTROLLER, LABEL_COMPONENT, SYSTEM_NAMESPACE};
use mesh_tests::report::Load;
use serde_json::json;

use crate::{
    install::is_meshed,
    stage::Stage,
    workload::{self, MESHED},
};

pub(crate) fn all(stage: &Stage) {
    let image = stage.image("mesh-testapp");
    let scale = |replicas: u32| {
        let change = json!({"spec": {"replicas": replicas}});
        stage.patch::<Deployment>(SYSTEM_NAMESPACE, CONTROLLER, &change);
        stage.rollout(SYSTEM_NAMESPACE, CONTROLLER);
    };
    let load = stage.start(
        MESHED,
        "client",
        "load --url http://web/ --rate 20 --seconds 30",
    );
    scale(0);
    // One that is ending still injects.
    stage.until("the controller's pod is gone", || {
        let pods: Vec<Pod> = stage.list(SYSTEM_NAMESPACE, &format!("{LABEL_COMPONENT}=controller"));
        pods.is_empty().then_some(())
    });
    stage.apply(MESHED, &workload::front("missed", false)[0]);
    stage.apply(MESHED, &workload::deployment("missed", &image, 1));
    stage.rollout(MESHED, "missed");
    let pod = stage.pods(MESHED, "missed").remove(0);
    assert!(!is_meshed(&pod), "nobody was there to inject it");
    let load: Load = stage.end(load).json();
    assert_eq!(load.failed, 0, "{:?}", load.errors);

    scale(1);
    let note = stage.until("an Event tells of it", || {
        let events: Vec<Event> = stage.list(MESHED, "");
        let of_pod = |event: &Event| {
            let regarding = event.regarding.as_ref()?;
            (regarding.name.as_ref() == Some(&pod.name_any())
                && event.reason.as_deref() == Some("ProxyMissing"))
            .then(|| event.note.clone())?
        };
        events.iter().find_map(of_pod)
    });
    assert!(
        note.contains("kubectl rollout restart deployment/missed"),
        "{note}"
    );
    stage.delete::<Deployment>(MESHED, "missed");
    stage.mesh("check --wait 2m");
}
