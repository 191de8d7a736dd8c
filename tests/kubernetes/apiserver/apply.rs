//! Server-side apply.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    ResourceExt,
    api::{DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{Place, object, patches::deployment, refusal};

fn map(data: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "data": data })
}

fn data(map: &ConfigMap) -> Value {
    serde_json::to_value(&map.data).expect("strings")
}

#[tokio::test]
async fn applying_creates_changes_and_drops() {
    let Some(place) = Place::new().await else {
        return;
    };
    let maps = place.config_maps();
    let by = PatchParams::apply("one");
    let first = map(json!({ "a": "1", "b": "1" }));
    let created = maps
        .patch("a", &by, &Patch::Apply(&first))
        .await
        .expect("applied");
    let owners = created.managed_fields();
    assert_eq!(owners.len(), 1);
    assert_eq!(owners[0].manager.as_deref(), Some("one"));
    assert_eq!(owners[0].operation.as_deref(), Some("Apply"));
    let fields = owners[0].fields_v1.as_ref().map(|fields| fields.0.clone());
    assert_eq!(fields, Some(json!({ "f:data": { "f:a": {}, "f:b": {} } })));
    let again = maps
        .patch("a", &by, &Patch::Apply(&first))
        .await
        .expect("applied");
    assert_eq!(
        again.resource_version(),
        created.resource_version(),
        "nothing changed"
    );
    let second = map(json!({ "a": "2" }));
    let changed = maps
        .patch("a", &by, &Patch::Apply(&second))
        .await
        .expect("applied");
    assert_eq!(
        data(&changed),
        json!({ "a": "2" }),
        "what is no longer applied goes"
    );
}

#[tokio::test]
async fn what_others_own_is_a_conflict_unless_it_is_equal_or_forced() {
    let Some(place) = Place::new().await else {
        return;
    };
    let maps = place.config_maps();
    let (one, two) = (PatchParams::apply("one"), PatchParams::apply("two"));
    maps.patch("a", &one, &Patch::Apply(&map(json!({ "a": "1" }))))
        .await
        .expect("applied");
    let both = map(json!({ "a": "1", "b": "1" }));
    maps.patch("a", &two, &Patch::Apply(&both))
        .await
        .expect("the same value is no conflict");
    let other = map(json!({ "a": "2", "b": "1" }));
    let refused = refusal(maps.patch("a", &two, &Patch::Apply(&other)).await);
    assert_eq!((refused.code, refused.reason.as_str()), (409, "Conflict"));
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"one\": .data.a"
    );
    let causes = refused.details.expect("details").causes;
    assert_eq!(causes[0].reason, "FieldManagerConflict");
    assert_eq!(causes[0].field, ".data.a");
    let forced = maps
        .patch("a", &two.clone().force(), &Patch::Apply(&other))
        .await
        .expect("forced");
    assert_eq!(data(&forced), json!({ "a": "2", "b": "1" }));
    let owners: Vec<_> = forced
        .managed_fields()
        .iter()
        .filter_map(|entry| entry.manager.clone())
        .collect();
    assert_eq!(owners, ["two"], "one owns nothing any longer");
    // One does not own it any longer, and applying nothing of it leaves it.
    let released = maps
        .patch("a", &one, &Patch::Apply(&map(json!({ "c": "1" }))))
        .await
        .expect("applied");
    assert_eq!(data(&released), json!({ "a": "2", "b": "1", "c": "1" }));
}

#[tokio::test]
async fn an_ordinary_write_owns_what_it_changes() {
    let Some(place) = Place::new().await else {
        return;
    };
    let maps = place.config_maps();
    let by = PostParams {
        field_manager: Some("writer".to_owned()),
        ..PostParams::default()
    };
    maps.create(&by, &object(map(json!({ "a": "1" }))))
        .await
        .expect("created");
    let applier = PatchParams::apply("applier");
    let refused = refusal(
        maps.patch("a", &applier, &Patch::Apply(&map(json!({ "a": "2" }))))
            .await,
    );
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"writer\" using v1: .data.a"
    );
    let forced = applier.clone().force();
    let applied = maps
        .patch("a", &forced, &Patch::Apply(&map(json!({ "a": "2" }))))
        .await
        .expect("forced");
    assert_eq!(data(&applied), json!({ "a": "2" }));
    let missing = PatchParams::default();
    let refused = refusal(
        maps.patch("a", &missing, &Patch::Apply(&map(json!({}))))
            .await,
    );
    assert_eq!(
        refused.code, 422,
        "an applier has a name: {}",
        refused.message
    );
}

#[tokio::test]
async fn lists_are_merged_by_their_keys() {
    let Some(place) = Place::new().await else {
        return;
    };
    let deployments = place.objects("apps/v1", "Deployment");
    let apply = |by: &str, value: Value| {
        let (deployments, by) = (deployments.clone(), PatchParams::apply(by));
        async move { deployments.patch("a", &by, &Patch::Apply(&value)).await }
    };
    apply("one", deployment("a")).await.expect("applied");
    let mut with_env = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": "a" },
        "spec": { "template": { "spec": { "containers": [
            { "name": "app", "env": [{ "name": "A", "value": "1" }] },
        ] } } },
    });
    let applied = apply("two", with_env.clone()).await.expect("applied");
    let containers =
        |object: &DynamicObject| object.data["spec"]["template"]["spec"]["containers"].clone();
    assert_eq!(containers(&applied).as_array().map(Vec::len), Some(1));
    assert_eq!(containers(&applied)[0]["image"], "app:1");
    assert_eq!(
        containers(&applied)[0]["env"],
        json!([{ "name": "A", "value": "1" }])
    );
    with_env["spec"]["template"]["spec"]["containers"][0]["image"] = "app:2".into();
    let refused = refusal(apply("two", with_env).await);
    assert_eq!(
        refused.message,
        "Apply failed with 1 conflict: conflict with \"one\": .spec.template.spec.containers[name=\"app\"].image"
    );
    let none =
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "a" } });
    let dropped = apply("two", none).await.expect("applied");
    assert!(
        containers(&dropped)[0].get("env").is_none(),
        "{}",
        containers(&dropped)
    );
    assert_eq!(containers(&dropped)[0]["image"], "app:1", "one owns it");
}

#[tokio::test]
async fn a_dry_run_of_an_apply_stores_nothing() {
    let Some(place) = Place::new().await else {
        return;
    };
    let maps = place.config_maps();
    let dry = PatchParams::apply("one").dry_run();
    let shown = maps
        .patch("a", &dry, &Patch::Apply(&map(json!({ "a": "1" }))))
        .await
        .expect("shown");
    assert_eq!(data(&shown), json!({ "a": "1" }));
    assert_eq!(refusal(maps.get("a").await).code, 404);
}
