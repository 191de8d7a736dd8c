//! Roots that live for two minutes instead of a year: they rotate while requests flow.

use std::collections::BTreeSet;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use mesh_api::names::{CONTROLLER, SYSTEM_NAMESPACE, TRUST_CONFIG_MAP, TRUST_KEY};
use mesh_tests::report::Load;
use serde_json::json;

use crate::{stage::Stage, workload::MESHED};

pub(crate) fn under_load(stage: &Stage) {
    let before = roots(stage);
    let deployment: Deployment = stage
        .get(SYSTEM_NAMESPACE, CONTROLLER)
        .expect("it is there");
    let template = deployment.spec.template.spec;
    let mut arguments = template
        .and_then(|spec| spec.containers[0].args.clone())
        .expect("arguments");
    arguments.extend(["--leaf-lifetime=12s".into(), "--root-lifetime=120s".into()]);
    let container = json!({"name": CONTROLLER, "args": arguments});
    stage.strategic::<Deployment>(
        SYSTEM_NAMESPACE,
        CONTROLLER,
        &json!({"spec": {"template": {"spec": {"containers": [container]}}}}),
    );
    stage.rollout(SYSTEM_NAMESPACE, CONTROLLER);
    let load = stage.start(
        MESHED,
        "client",
        "load --url http://web/ --rate 20 --seconds 150",
    );
    stage.until("two roots overlap", || {
        let now = roots(stage);
        (now.len() > 1 && now.iter().any(|root| !before.contains(root))).then_some(())
    });
    stage.until("the first root is no longer trusted", || {
        roots(stage).is_disjoint(&before).then_some(())
    });
    let load: Load = stage.end(load).json();
    assert_eq!(load.failed, 0, "{:?}", load.errors);
    mesh_tests::figure!("{} requests, p99 {:.1} ms", load.ok, load.p99_ms);
}

/// What pods of the namespace trust.
fn roots(stage: &Stage) -> BTreeSet<String> {
    let bundle: ConfigMap = stage.get(MESHED, TRUST_CONFIG_MAP).expect("the bundle");
    let text = bundle
        .data
        .and_then(|mut data| data.remove(TRUST_KEY))
        .expect("roots");
    let end = "-----END CERTIFICATE-----";
    text.split_inclusive(end)
        .map(|root| root.trim().to_owned())
        .filter(|root| root.ends_with(end))
        .collect()
}
