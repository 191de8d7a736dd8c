//! From one replica to three, and the loss of one, while requests flow.

use k8s_openapi::api::{core::v1::Pod, policy::v1::PodDisruptionBudget};
use kube::ResourceExt;
use mesh_api::names::{CONTROLLER, LABEL_COMPONENT, SYSTEM_NAMESPACE};
use mesh_tests::report::Load;

use crate::{install::assert_good, stage::Stage, workload::MESHED};

pub(crate) fn to_three(stage: &Stage) {
    let load = stage.start(
        MESHED,
        "client",
        "load --url http://web/ --rate 20 --seconds 60",
    );
    stage.mesh("upgrade --apply --ha");
    assert_good(stage, "check --wait 2m");
    let replicas = || {
        let labels = format!("{LABEL_COMPONENT}=controller");
        let mut pods: Vec<Pod> = stage.list(SYSTEM_NAMESPACE, &labels);
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        pods
    };
    assert_eq!(replicas().len(), 3);
    assert!(
        stage
            .get::<PodDisruptionBudget>(SYSTEM_NAMESPACE, CONTROLLER)
            .is_some()
    );

    let lost = replicas()[0].name_any();
    stage.delete::<Pod>(SYSTEM_NAMESPACE, &lost);
    stage.rollout(SYSTEM_NAMESPACE, CONTROLLER);
    assert_good(stage, "check --wait 2m");
    let load: Load = stage.end(load).json();
    assert_eq!(load.failed, 0, "{:?}", load.errors);
}
