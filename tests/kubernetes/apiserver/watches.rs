//! watch, as a raw stream and by kube's watcher.

use std::{pin::pin, time::Duration};

use futures_util::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, WatchEvent, WatchParams},
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};
use tokio::time::timeout;

use super::{Place, config_map, pod};

/// Longer than any answer takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What happened and to whom.
async fn next(
    events: &mut (impl Stream<Item = kube::Result<WatchEvent<ConfigMap>>> + Unpin),
) -> (&'static str, String) {
    let event = timeout(PATIENCE, events.try_next())
        .await
        .expect("an event in time");
    match event.expect("a watch").expect("an event") {
        WatchEvent::Added(map) => ("ADDED", map.name_any()),
        WatchEvent::Modified(map) => ("MODIFIED", map.name_any()),
        WatchEvent::Deleted(map) => ("DELETED", map.name_any()),
        WatchEvent::Bookmark(_) => ("BOOKMARK", String::new()),
        WatchEvent::Error(status) => ("ERROR", status.code.to_string()),
    }
}

fn is(kind: &'static str, name: &str) -> (&'static str, String) {
    (kind, name.to_owned())
}

#[tokio::test]
async fn a_watch_goes_on_where_a_list_ended() {
    let Some(place) = Place::new().await else {
        return;
    };
    let maps = place.config_maps();
    maps.create(&Default::default(), &config_map("before", "1"))
        .await
        .expect("created");
    let list = maps.list(&ListParams::default()).await.expect("a list");
    let version = list.metadata.resource_version.expect("a version");
    let params = WatchParams::default();
    let mut events = maps
        .watch(&params, &version)
        .await
        .expect("a watch")
        .boxed();
    maps.create(&Default::default(), &config_map("after", "1"))
        .await
        .expect("created");
    assert_eq!(next(&mut events).await, is("ADDED", "after"));
    maps.replace("after", &Default::default(), &config_map("after", "2"))
        .await
        .expect("replaced");
    assert_eq!(next(&mut events).await, is("MODIFIED", "after"));
    maps.delete("before", &DeleteParams::default())
        .await
        .expect("deleted");
    assert_eq!(next(&mut events).await, is("DELETED", "before"));

    let mut whole = maps.watch(&params, "0").await.expect("a watch").boxed();
    assert_eq!(
        next(&mut whole).await,
        is("ADDED", "after"),
        "a watch from 0 begins with what is there"
    );
}

#[tokio::test]
async fn what_leaves_a_selection_is_deleted_from_it() {
    let Some(place) = Place::new().await else {
        return;
    };
    let maps = place.config_maps();
    let version = maps
        .list(&ListParams::default())
        .await
        .expect("a list")
        .metadata
        .resource_version;
    let params = WatchParams::default().labels("on=yes");
    let mut events = maps
        .watch(&params, &version.expect("a version"))
        .await
        .expect("a watch")
        .boxed();
    let labelled = |value: &str| {
        let mut map = config_map("a", "1");
        map.meta_mut().labels = Some([("on".to_owned(), value.to_owned())].into());
        map
    };
    maps.create(&Default::default(), &labelled("no"))
        .await
        .expect("created");
    maps.replace("a", &Default::default(), &labelled("yes"))
        .await
        .expect("replaced");
    assert_eq!(next(&mut events).await, is("ADDED", "a"));
    maps.replace("a", &Default::default(), &labelled("no"))
        .await
        .expect("replaced");
    assert_eq!(next(&mut events).await, is("DELETED", "a"));
}

#[tokio::test]
async fn a_watch_ends_after_its_time() {
    let Some(place) = Place::new().await else {
        return;
    };
    let maps = place.config_maps();
    let version = maps
        .list(&ListParams::default())
        .await
        .expect("a list")
        .metadata
        .resource_version;
    let params = WatchParams::default().timeout(4);
    let events = maps
        .watch(&params, &version.expect("a version"))
        .await
        .expect("a watch");
    let events: Vec<_> = timeout(PATIENCE, events.try_collect())
        .await
        .expect("it ends")
        .expect("events");
    let bookmarks = events
        .iter()
        .all(|event| matches!(event, WatchEvent::Bookmark(_)));
    assert!(bookmarks, "{events:?}");
}

#[tokio::test]
async fn kubes_watcher_follows_lists_and_streamed_lists() {
    let Some(place) = Place::new().await else {
        return;
    };
    let maps = place.config_maps();
    for name in ["a", "b"] {
        maps.create(&Default::default(), &config_map(name, "1"))
            .await
            .expect("created");
    }
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ] {
        let mut stream = pin!(watcher(maps.clone(), config).default_backoff());
        let mut initial = Vec::new();
        loop {
            let event = timeout(PATIENCE, stream.try_next())
                .await
                .expect("in time")
                .expect("a watch");
            match event.expect("an event") {
                watcher::Event::Init => {}
                watcher::Event::InitApply(map) => initial.push(map.name_any()),
                watcher::Event::InitDone => break,
                other => panic!("before the list was done: {other:?}"),
            }
        }
        assert_eq!(initial, ["a", "b"]);
        maps.create(&Default::default(), &config_map("c", "1"))
            .await
            .expect("created");
        let event = timeout(PATIENCE, stream.try_next())
            .await
            .expect("in time")
            .expect("a watch");
        assert!(matches!(event, Some(watcher::Event::Apply(map)) if map.name_any() == "c"));
        maps.delete("c", &DeleteParams::default())
            .await
            .expect("deleted");
        let event = timeout(PATIENCE, stream.try_next())
            .await
            .expect("in time")
            .expect("a watch");
        assert!(matches!(event, Some(watcher::Event::Delete(map)) if map.name_any() == "c"));
    }
}

#[tokio::test]
async fn metadata_alone_can_be_watched() {
    let Some(place) = Place::new().await else {
        return;
    };
    let pods = place.pods();
    pods.create(&Default::default(), &super::object(pod("a")))
        .await
        .expect("created");
    let partial: Api<PartialObjectMeta<Pod>> =
        Api::namespaced(place.client.clone(), &place.namespace);
    let mut stream = pin!(watcher(partial, watcher::Config::default()));
    let mut found = None;
    while found.is_none() {
        let event = timeout(PATIENCE, stream.try_next())
            .await
            .expect("in time")
            .expect("a watch");
        if let Some(watcher::Event::InitApply(partial)) = event {
            found = Some(partial);
        }
    }
    assert_eq!(
        found.map(|partial| partial.name_any()),
        Some("a".to_owned())
    );
    let list = pods
        .list_metadata(&ListParams::default())
        .await
        .expect("a list");
    assert_eq!(list.items[0].name_any(), "a");
}
