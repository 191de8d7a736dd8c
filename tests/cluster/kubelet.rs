//! What the kubelet does to meshed pods: it probes them, and it waits for Jobs to end.

use k8s_openapi::api::{apps::v1::Deployment, batch::v1::Job};
use serde_json::json;

use crate::{
    install::is_ready,
    stage::Stage,
    workload::{self, MESHED},
};

pub(crate) fn probes(stage: &Stage) {
    // They succeed: every pod of `opt_in` is ready. An HTTP probe also fails where the app says so.
    for app in ["client", "classic"] {
        let is_to_be = |ready: bool| {
            stage.until(&format!("{app} becomes ready: {ready}"), || {
                (is_ready(&stage.pods(MESHED, app)[0]) == ready).then_some(())
            });
        };
        stage.testapp(MESHED, app, "faults --status 503").good();
        is_to_be(false);
        stage.testapp(MESHED, app, "faults").good();
        is_to_be(true);
    }
    // A connection succeeds where the proxy accepts it; the probe has to tell whether the app does.
    let image = stage.image("mesh-testapp");
    stage.apply(MESHED, &workload::front("probed", false)[0]);
    for (port, ready) in [(json!("echo"), true), (json!(7074), false)] {
        stage.apply(MESHED, &workload::tcp_probed("probed", &image, &port));
        stage.until(&format!("a TCP probe of {port}"), || {
            let pods = stage.pods(MESHED, "probed");
            let newest = pods
                .iter()
                .max_by_key(|pod| pod.metadata.creation_timestamp.clone())?;
            let containers = newest.status.as_ref()?.container_statuses.as_ref()?;
            let app = containers
                .iter()
                .find(|it| it.name == workload::CONTAINER)?;
            assert_eq!(app.restart_count, 0, "its gRPC probe fails: {app:#?}");
            let runs = app.started == Some(true);
            (runs && is_ready(newest) == ready).then_some(())
        });
    }
    stage.delete::<Deployment>(MESHED, "probed");
}

pub(crate) fn jobs(stage: &Stage) {
    let image = stage.image("mesh-testapp");
    stage.apply(MESHED, &workload::job("once", &image, "http://web/"));
    stage.until("the job completes", || {
        let status = stage.get::<Job>(MESHED, "once")?.status?;
        assert_eq!(status.failed.unwrap_or(0), 0, "{status:#?}");
        (status.succeeded == Some(1)).then_some(())
    });
}
