//! create, get, list, replace, delete.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Preconditions, PropagationPolicy},
};
use serde_json::json;

use super::{Place, config_map, object, pod, refusal};

#[tokio::test]
async fn an_object_is_created_with_the_servers_fields() {
    let Some(place) = Place::new().await else {
        return;
    };
    let maps = place.config_maps();
    let created = maps
        .create(&Default::default(), &config_map("a", "1"))
        .await
        .expect("created");
    assert_eq!(
        created.metadata.namespace.as_deref(),
        Some(place.namespace.as_str())
    );
    assert!(
        created
            .metadata
            .uid
            .as_ref()
            .is_some_and(|uid| uid.len() == 36)
    );
    assert!(created.metadata.creation_timestamp.is_some());
    assert!(created.resource_version().is_some());
    assert_eq!(
        created.metadata.generation, None,
        "config maps count no generations"
    );
    assert_eq!(maps.get("a").await.expect("it is there"), created);
    let namespace: Namespace = Api::all(place.client.clone())
        .get(&place.namespace)
        .await
        .expect("it");
    assert_eq!(
        namespace.labels()["kubernetes.io/metadata.name"],
        place.namespace
    );
    assert_eq!(
        namespace.status.and_then(|status| status.phase).as_deref(),
        Some("Active")
    );
}

#[tokio::test]
async fn names_are_generated_checked_and_taken_once() {
    let Some(place) = Place::new().await else {
        return;
    };
    let maps = place.config_maps();
    let unnamed: ConfigMap = object(json!({ "metadata": { "generateName": "a-" } }));
    let created = maps
        .create(&Default::default(), &unnamed)
        .await
        .expect("created");
    assert!(created.name_any().starts_with("a-") && created.name_any().len() == 7);

    maps.create(&Default::default(), &config_map("b", "1"))
        .await
        .expect("created");
    let taken = refusal(
        maps.create(&Default::default(), &config_map("b", "2"))
            .await,
    );
    assert_eq!((taken.code, taken.reason.as_str()), (409, "AlreadyExists"));
    assert_eq!(taken.message, "configmaps \"b\" already exists");
    let details = taken.details.expect("details");
    assert_eq!(
        (details.name.as_str(), details.kind.as_str()),
        ("b", "configmaps")
    );

    let bad = refusal(
        maps.create(&Default::default(), &config_map("B_", "1"))
            .await,
    );
    assert_eq!((bad.code, bad.reason.as_str()), (422, "Invalid"));
    assert!(
        bad.message
            .contains("metadata.name: Invalid value: \"B_\": a lowercase RFC 1123"),
        "{}",
        bad.message
    );

    let nameless = refusal(
        maps.create(&Default::default(), &object(json!({ "metadata": {} })))
            .await,
    );
    assert_eq!((nameless.code, nameless.reason.as_str()), (422, "Invalid"));
    assert!(
        nameless
            .message
            .contains("name or generateName is required"),
        "{}",
        nameless.message
    );
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let Some(place) = Place::new().await else {
        return;
    };
    let missing = refusal(place.config_maps().get("none").await);
    assert_eq!((missing.code, missing.reason.as_str()), (404, "NotFound"));
    assert_eq!(missing.message, "configmaps \"none\" not found");
    let elsewhere: Api<ConfigMap> = Api::namespaced(place.client.clone(), "no-such-namespace");
    let nowhere = refusal(
        elsewhere
            .create(&Default::default(), &config_map("a", "1"))
            .await,
    );
    assert_eq!((nowhere.code, nowhere.reason.as_str()), (404, "NotFound"));
    assert_eq!(
        nowhere.message,
        "namespaces \"no-such-namespace\" not found"
    );
    let listed = elsewhere
        .list(&ListParams::default())
        .await
        .expect("an empty list");
    assert!(
        listed.items.is_empty(),
        "a list of a namespace that is not there is empty"
    );
    let kind = place.objects("example.com/v1", "Unknown");
    assert_eq!(refusal(kind.list(&ListParams::default()).await).code, 404);
}

#[tokio::test]
async fn a_replacement_of_an_old_version_is_a_conflict() {
    let Some(place) = Place::new().await else {
        return;
    };
    let maps = place.config_maps();
    let first = maps
        .create(&Default::default(), &config_map("a", "1"))
        .await
        .expect("created");
    let mut changed = first.clone();
    changed.data = Some([("key".to_owned(), "2".to_owned())].into());
    let second = maps
        .replace("a", &Default::default(), &changed)
        .await
        .expect("replaced");
    assert_ne!(second.resource_version(), first.resource_version());
    assert_eq!(second.uid(), first.uid());
    let late = refusal(maps.replace("a", &Default::default(), &changed).await);
    assert_eq!((late.code, late.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        late.message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes \
         to the latest version and try again"
    );
    let same = maps
        .replace("a", &Default::default(), &second)
        .await
        .expect("replaced");
    assert_eq!(
        same.resource_version(),
        second.resource_version(),
        "nothing changed: no new version"
    );
    let mut unconditional = config_map("a", "3");
    let third = maps
        .replace("a", &Default::default(), &unconditional)
        .await
        .expect("replaced");
    assert_eq!(third.uid(), first.uid());
    unconditional.meta_mut().uid = Some("00000000-0000-4000-8000-000000000000".to_owned());
    assert_eq!(
        refusal(maps.replace("a", &Default::default(), &unconditional).await).code,
        409
    );
    assert_eq!(
        refusal(
            maps.replace("none", &Default::default(), &config_map("none", ""))
                .await
        )
        .code,
        404
    );
}

#[tokio::test]
async fn lists_are_selected_and_paged() {
    let Some(place) = Place::new().await else {
        return;
    };
    let maps = place.config_maps();
    for index in 0..5 {
        let mut map = config_map(&format!("map-{index}"), "1");
        let parity = if index % 2 == 0 { "even" } else { "odd" };
        map.meta_mut().labels = Some([("parity".to_owned(), parity.to_owned())].into());
        maps.create(&Default::default(), &map)
            .await
            .expect("created");
    }
    let names = |params: ListParams| {
        let maps = maps.clone();
        async move {
            let list = maps.list(&params).await.expect("a list");
            list.items
                .iter()
                .map(ResourceExt::name_any)
                .collect::<Vec<_>>()
        }
    };
    let of = |labels: &str| ListParams::default().labels(labels);
    assert_eq!(names(of("parity=odd")).await, ["map-1", "map-3"]);
    assert_eq!(
        names(of("parity in (odd),parity")).await,
        ["map-1", "map-3"]
    );
    assert_eq!(names(of("parity!=odd")).await, ["map-0", "map-2", "map-4"]);
    assert_eq!(
        names(ListParams::default().fields("metadata.name=map-2")).await,
        ["map-2"]
    );
    let unknown = refusal(maps.list(&ListParams::default().fields("data.key=1")).await);
    assert_eq!((unknown.code, unknown.reason.as_str()), (400, "BadRequest"));

    let first = maps
        .list(&ListParams::default().limit(2))
        .await
        .expect("a page");
    assert_eq!(first.items.len(), 2);
    assert_eq!(first.metadata.remaining_item_count, Some(3));
    maps.delete("map-4", &DeleteParams::default())
        .await
        .expect("deleted");
    let token = first.metadata.continue_.expect("there is more");
    let rest = maps
        .list(&ListParams::default().continue_token(&token))
        .await
        .expect("the rest");
    let rest: Vec<_> = rest.items.iter().map(ResourceExt::name_any).collect();
    assert_eq!(
        rest,
        ["map-2", "map-3", "map-4"],
        "the pages of a list are of one moment"
    );
}

#[tokio::test]
async fn a_deletion_holds_to_its_preconditions() {
    let Some(place) = Place::new().await else {
        return;
    };
    let maps = place.config_maps();
    let map = maps
        .create(&Default::default(), &config_map("a", "1"))
        .await
        .expect("created");
    let other = Preconditions {
        uid: Some("00000000-0000-4000-8000-000000000000".to_owned()),
        resource_version: None,
    };
    let refused = refusal(
        maps.delete("a", &DeleteParams::default().preconditions(other))
            .await,
    );
    assert_eq!((refused.code, refused.reason.as_str()), (409, "Conflict"));
    let right = Preconditions {
        uid: map.uid(),
        resource_version: map.resource_version(),
    };
    let deleted = maps
        .delete("a", &DeleteParams::default().preconditions(right))
        .await
        .expect("deleted");
    let status = deleted
        .right()
        .expect("a config map's deletion answers with a status");
    assert_eq!(
        status.status.map(|status| format!("{status:?}")),
        Some("Success".to_owned())
    );
    assert_eq!(
        refusal(maps.delete("a", &DeleteParams::default()).await).code,
        404
    );
}

#[tokio::test]
async fn a_finalizer_holds_an_object_until_it_is_taken_off() {
    let Some(place) = Place::new().await else {
        return;
    };
    let maps = place.config_maps();
    let mut map = config_map("a", "1");
    map.meta_mut().finalizers = Some(vec!["example.com/hold".to_owned()]);
    maps.create(&Default::default(), &map)
        .await
        .expect("created");
    let deleted = maps
        .delete("a", &DeleteParams::default())
        .await
        .expect("accepted");
    let held = deleted.left().expect("the object");
    assert!(held.metadata.deletion_timestamp.is_some());
    let mut released = maps.get("a").await.expect("it is still there");
    released.meta_mut().finalizers = None;
    maps.replace("a", &Default::default(), &released)
        .await
        .expect("the last version");
    assert_eq!(refusal(maps.get("a").await).code, 404);
}

#[tokio::test]
async fn a_pod_on_a_node_is_deleted_when_its_kubelet_says_so() {
    let Some(place) = Place::new().await else {
        return;
    };
    let pods = place.pods();
    let mut running = pod("a");
    running["spec"]["nodeName"] = "node".into();
    pods.create(&Default::default(), &object(running))
        .await
        .expect("created");
    let deleted = pods
        .delete("a", &DeleteParams::default())
        .await
        .expect("accepted");
    let ending = deleted.left().expect("the pod");
    assert_eq!(ending.metadata.deletion_grace_period_seconds, Some(30));
    assert!(
        pods.get("a")
            .await
            .expect("it ends")
            .metadata
            .deletion_timestamp
            .is_some()
    );
    let now = DeleteParams::default().grace_period(0);
    pods.delete("a", &now).await.expect("deleted");
    assert_eq!(refusal(pods.get("a").await).code, 404);

    pods.create(&Default::default(), &object(pod("b")))
        .await
        .expect("created");
    pods.delete("b", &DeleteParams::default())
        .await
        .expect("deleted");
    assert_eq!(
        refusal(pods.get("b").await).code,
        404,
        "nothing runs a pod that is on no node"
    );
}

#[tokio::test]
async fn a_collection_is_deleted_by_its_selector() {
    let Some(place) = Place::new().await else {
        return;
    };
    let maps = place.config_maps();
    for name in ["a", "b"] {
        let mut map = config_map(name, "1");
        map.meta_mut().labels = Some([("name".to_owned(), name.to_owned())].into());
        maps.create(&Default::default(), &map)
            .await
            .expect("created");
    }
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        ..DeleteParams::default()
    };
    let of = ListParams::default().labels("name=a");
    maps.delete_collection(&params, &of).await.expect("deleted");
    assert_eq!(refusal(maps.get("a").await).code, 404);
    assert!(maps.get("b").await.is_ok());
}

#[tokio::test]
async fn a_dry_run_answers_and_stores_nothing() {
    let Some(place) = Place::new().await else {
        return;
    };
    let maps = place.config_maps();
    let dry = kube::api::PostParams {
        dry_run: true,
        ..Default::default()
    };
    let shown = maps
        .create(&dry, &config_map("a", "1"))
        .await
        .expect("shown");
    assert!(shown.uid().is_some());
    assert_eq!(refusal(maps.get("a").await).code, 404);
}

#[tokio::test]
async fn nothing_is_created_in_a_namespace_that_ends() {
    let Some(place) = Place::new().await else {
        return;
    };
    let namespaces: Api<Namespace> = Api::all(place.client.clone());
    namespaces
        .delete(&place.namespace, &DeleteParams::default())
        .await
        .expect("accepted");
    let ending = namespaces
        .get(&place.namespace)
        .await
        .expect("no controller ends it");
    assert_eq!(
        ending.status.and_then(|status| status.phase).as_deref(),
        Some("Terminating")
    );
    let refused = refusal(
        place
            .config_maps()
            .create(&Default::default(), &config_map("a", "1"))
            .await,
    );
    assert_eq!((refused.code, refused.reason.as_str()), (403, "Forbidden"));
    let causes = refused.details.expect("details").causes;
    assert!(
        causes
            .iter()
            .any(|cause| cause.reason == "NamespaceTerminating"),
        "{causes:?}"
    );
}
