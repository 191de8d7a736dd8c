//! The failures that a test can ask for: in memory only.

use std::{pin::pin, time::Duration};

use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams, WatchEvent, WatchParams},
    runtime::{WatchStreamExt, watcher},
};
use mesh_tests::cluster::{Availability, Cluster};
use tokio::time::timeout;

use super::config_map;

const PATIENCE: Duration = Duration::from_secs(30);

async fn place() -> Option<(Cluster, Api<ConfigMap>)> {
    let cluster = Cluster::in_memory()?;
    let maps = Api::namespaced(cluster.client().await, "default");
    Some((cluster, maps))
}

#[tokio::test]
async fn watches_break_and_old_revisions_expire() {
    let Some((cluster, maps)) = place().await else {
        return;
    };
    let version = maps
        .list(&ListParams::default())
        .await
        .expect("a list")
        .metadata
        .resource_version;
    let version = version.expect("a version");
    let params = WatchParams::default();
    let mut events = pin!(maps.watch(&params, &version).await.expect("a watch"));
    assert!(cluster.break_watches());
    let end = timeout(PATIENCE, events.try_next()).await.expect("in time");
    assert!(matches!(end, Ok(None)), "it ended: {end:?}");
    maps.create(&PostParams::default(), &config_map("a", "1"))
        .await
        .expect("created");
    assert!(cluster.compact());
    let mut events = pin!(maps.watch(&params, &version).await.expect("a watch"));
    let gone = timeout(PATIENCE, events.try_next())
        .await
        .expect("in time")
        .expect("an event");
    assert!(
        matches!(gone, Some(WatchEvent::Error(status)) if status.code == 410 && status.reason == "Expired")
    );
    let first = maps
        .list(&ListParams::default().limit(1))
        .await
        .expect("a page");
    assert!(first.metadata.continue_.is_none());
}

#[tokio::test]
async fn an_unavailable_server_is_found_again_by_a_watcher() {
    let Some((cluster, maps)) = place().await else {
        return;
    };
    let mut stream = pin!(watcher(maps.clone(), watcher::Config::default()).default_backoff());
    loop {
        let event = timeout(PATIENCE, stream.try_next())
            .await
            .expect("in time")
            .expect("a watch");
        if matches!(event, Some(watcher::Event::InitDone)) {
            break;
        }
    }
    cluster.set_availability(Availability::Refusing);
    assert!(maps.list(&ListParams::default()).await.is_err());
    cluster.set_availability(Availability::Hanging);
    let hangs = timeout(
        Duration::from_millis(500),
        maps.list(&ListParams::default()),
    )
    .await;
    assert!(hangs.is_err(), "nothing is answered");
    cluster.set_availability(Availability::Up);
    maps.create(&PostParams::default(), &config_map("after", "1"))
        .await
        .expect("created");
    let found = timeout(PATIENCE, async {
        loop {
            match stream.try_next().await {
                Ok(Some(watcher::Event::Apply(map) | watcher::Event::InitApply(map))) => {
                    return map.name_any();
                }
                Ok(None) => panic!("a watcher does not end"),
                _ => {}
            }
        }
    });
    assert_eq!(found.await.expect("in time"), "after");
}
