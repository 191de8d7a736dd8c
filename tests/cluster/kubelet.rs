//! What the kubelet does to meshed pods: it probes them, it waits for Jobs to end, and it stops pods.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use k8s_openapi::api::{apps::v1::Deployment, batch::v1::Job, core::v1::Pod};
use kube::ResourceExt;
use mesh_tests::report::Load;
use serde_json::json;

use crate::{
    install::is_ready,
    stage::Stage,
    workload::{self, MESHED, PLAIN},
};

/// How long the app of [`leaving`] goes on after it was asked to end.
const FAREWELL: u32 = 12;

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

/// A proxy that is an ordinary container is asked to end together with its app, and ends after it.
pub(crate) fn leaving(stage: &Stage) {
    let image = stage.image("mesh-testapp");
    stage.apply(MESHED, &workload::front("leaving", false)[0]);
    stage.apply(MESHED, &workload::leaving("leaving", &image, FAREWELL));
    stage.rollout(MESHED, "leaving");
    let pod = stage.pods(MESHED, "leaving").remove(0);
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    let address = address.expect("an address");
    let name = pod.name_any();
    let asked = Instant::now();
    stage.delete::<Deployment>(MESHED, "leaving");
    stage.until("the pod is to end", || {
        let pod: Pod = stage.get(MESHED, &name)?;
        pod.metadata.deletion_timestamp.map(|_| ())
    });
    // Long enough for a proxy without connections to end.
    sleep(Duration::from_secs(3));
    let load = |url: &str| format!("load --rate 20 --seconds 3 --url {url}");
    let own = stage.start_in(MESHED, name.clone(), &load("http://web/"));
    let others = stage.start(PLAIN, "outsider", &load(&format!("http://{address}:8080/")));
    for (what, load) in [("its own requests", own), ("requests to it", others)] {
        let load: Load = stage.end(load).json();
        assert_eq!(load.failed, 0, "{what}: {:?}", load.errors);
    }
    // Nobody waits for the proxy longer than for the app: far less than the pod's time of grace.
    stage.until("the pod has ended", || {
        stage.get::<Pod>(MESHED, &name).is_none().then_some(())
    });
    let took = asked.elapsed();
    mesh_tests::figure!("the pod took {:.1} s to end", took.as_secs_f64());
    assert!(
        took < Duration::from_secs(5 * u64::from(FAREWELL)),
        "{took:?}"
    );
}
