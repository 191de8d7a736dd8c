//! What one of several replicas does for all: elected, it rotates roots and keeps bundles; gone, another does.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use mesh_api::names;
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::replica::{
    Replica, bundle, cluster, leader, namespace, pem_of_roots, pod, put_secret, roots, until,
};

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_and_another_when_it_is_gone() {
    let Some((cluster, client)) = cluster("one_leads_and_another_when_it_is_gone").await else {
        return;
    };
    // All at once: they race for the Secret and for the Lease.
    let mut replicas: Vec<Replica> = ["a", "b", "c"]
        .map(|pod| Replica::start(&cluster, pod, &[]))
        .into();
    for replica in &replicas {
        replica.ready().await;
    }
    let made = pem_of_roots(&client).await;
    let first = until("a leader", async || leader(&client).await).await;
    until("one says that it leads", async || {
        let mut leading = Vec::new();
        for replica in &replicas {
            if replica.metric("mesh_controller_leader").await == 1.0 {
                leading.push(replica.pod.clone());
            }
        }
        (leading == [first.clone()]).then_some(())
    })
    .await;

    // Killed, it holds the Lease until that runs out.
    let position = replicas.iter().position(|replica| replica.pod == first);
    let killed = replicas.remove(position.expect("one of them"));
    killed.signal(Signal::SIGKILL);
    let started = Instant::now();
    let second = until("another leader", async || {
        leader(&client).await.filter(|leader| *leader != first)
    })
    .await;
    println!("    after a crash another leads in {:?}", started.elapsed());
    assert!(
        started.elapsed() > Duration::from_secs(10),
        "not before the Lease is over"
    );

    // Told to end, it gives the Lease back.
    let position = replicas.iter().position(|replica| replica.pod == second);
    let stopped = replicas.remove(position.expect("one of them"));
    let started = Instant::now();
    assert!(stopped.stop().await.success());
    let third = replicas[0].pod.clone();
    until("the last one leads", async || {
        leader(&client).await.filter(|leader| *leader == third)
    })
    .await;
    println!("    after SIGTERM another leads in {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(12));
    assert_eq!(pem_of_roots(&client).await, made, "made once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trust_bundle_is_where_pods_need_it() {
    let Some((cluster, client)) = cluster("the_trust_bundle_is_where_pods_need_it").await else {
        return;
    };
    namespace(&client, "before", Some("enabled")).await;
    namespace(&client, "plain", None).await;
    let replica = Replica::start(&cluster, "a", &[]);
    replica.ready().await;
    until("there before the controller", async || {
        bundle(&client, "before").await
    })
    .await;

    let started = Instant::now();
    namespace(&client, "after", Some("enabled")).await;
    let pem = until("labelled after it", async || bundle(&client, "after").await).await;
    println!("    {:?} after the label", started.elapsed());
    assert_eq!(pem, pem_of_roots(&client).await);
    assert_eq!(bundle(&client, "plain").await, None);

    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "after");
    maps.delete(names::TRUST_CONFIG_MAP, &DeleteParams::default())
        .await
        .unwrap();
    until("there again", async || bundle(&client, "after").await).await;
    let spoil = json!({"data": {names::TRUST_KEY: "nonsense"}});
    maps.patch(
        names::TRUST_CONFIG_MAP,
        &PatchParams::default(),
        &Patch::Merge(spoil),
    )
    .await
    .unwrap();
    until("right again", async || {
        bundle(&client, "after").await.filter(|now| *now == pem)
    })
    .await;

    // A pod with a proxy needs it, whatever its namespace says.
    let pods: Api<Pod> = Api::namespaced(client.clone(), "plain");
    let meshed = json!({"annotations": {names::ANNOTATION_PROXY: "true"}});
    pods.create(&PostParams::default(), &pod("web-1", meshed))
        .await
        .unwrap();
    until("there with the pod", async || {
        bundle(&client, "plain").await
    })
    .await;
    let now = DeleteParams::default().grace_period(0);
    pods.delete("web-1", &now).await.unwrap();
    namespace(&client, "after", Some("disabled")).await;
    for namespace in ["plain", "after"] {
        until("not needed any more", async || {
            bundle(&client, namespace).await.is_none().then_some(())
        })
        .await;
    }
    assert!(bundle(&client, "before").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_rotate_for_all_replicas_with_overlap() {
    let Some((cluster, client)) = cluster("roots_rotate_for_all_replicas_with_overlap").await
    else {
        return;
    };
    namespace(&client, "shop", Some("enabled")).await;
    let quick = ["--leaf-lifetime", "5s", "--root-lifetime", "50s"];
    let replicas = ["a", "b"].map(|pod| Replica::start(&cluster, pod, &quick));
    for replica in &replicas {
        replica.ready().await;
    }
    let first = until("a bundle", async || bundle(&client, "shop").await).await;
    let both = until("the new root is published", async || {
        bundle(&client, "shop").await.filter(|now| *now != first)
    })
    .await;
    assert!(both.starts_with(&first), "the old one is trusted on");
    assert_eq!(both, pem_of_roots(&client).await);
    until("the new root issues", async || {
        let roots = roots(&client).await?;
        let stages: Vec<&Value> = roots.iter().map(|root| &root["stage"]).collect();
        (stages == ["retiring", "issuing"]).then_some(())
    })
    .await;
    // Both replicas have heard of it.
    for replica in &replicas {
        until("all know both roots", async || {
            replica
                .log()
                .contains("the trust bundle has changed roots=2")
                .then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_that_somebody_deleted_are_written_again() {
    let Some((cluster, client)) = cluster("roots_that_somebody_deleted_are_written_again").await
    else {
        return;
    };
    let replica = Replica::start(&cluster, "a", &[]);
    replica.ready().await;
    until("a leader", async || leader(&client).await).await;
    let before = pem_of_roots(&client).await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    secrets
        .delete(names::CA_SECRET, &DeleteParams::default())
        .await
        .unwrap();
    until("there again", async || roots(&client).await).await;
    assert_eq!(pem_of_roots(&client).await, before, "the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_of_the_users_is_used_and_picked_up_when_it_changes() {
    let Some((cluster, client)) =
        cluster("a_root_of_the_users_is_used_and_picked_up_when_it_changes").await
    else {
        return;
    };
    namespace(&client, "shop", Some("enabled")).await;
    let replica = Replica::start(
        &cluster,
        "a",
        &["--ca-secret", "mine", "--leaf-lifetime", "5s"],
    );
    until("it says what it waits for", async || {
        replica
            .log()
            .contains("Secret mesh-system/mine")
            .then_some(())
    })
    .await;
    let (code, text) = until("an answer", async || replica.get("/ready").await).await;
    assert_eq!(code, 503);
    assert!(text.contains("roots"), "{text}");

    let (one, key) = root("one");
    put_secret(&client, "mine", &[("tls.crt", &one), ("tls.key", &key)]).await;
    replica.ready().await;
    let same = |a: &str, b: &str| a.replace('\r', "") == b.replace('\r', "");
    let pem = until("a bundle", async || bundle(&client, "shop").await).await;
    assert!(same(&pem, &one));
    let (two, key) = root("two");
    put_secret(&client, "mine", &[("tls.crt", &two), ("tls.key", &key)]).await;
    until("both are trusted", async || {
        bundle(&client, "shop")
            .await
            .filter(|now| same(now, &format!("{one}{two}")))
    })
    .await;
    until("the old one has retired", async || {
        let roots = roots(&client).await?;
        (roots.len() == 2 && roots[1]["stage"] == "issuing").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_its_proxy_is_told_of_once() {
    let Some((cluster, client)) = cluster("a_pod_without_its_proxy_is_told_of_once").await else {
        return;
    };
    namespace(&client, "shop", Some("enabled")).await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    let out = json!({"labels": {names::LABEL_INJECT: "disabled"}});
    let meshed = json!({"annotations": {names::ANNOTATION_PROXY: "true"}});
    for (name, metadata) in [("missed", json!({})), ("out", out), ("meshed", meshed)] {
        pods.create(&PostParams::default(), &pod(name, metadata))
            .await
            .unwrap();
    }
    let first = Replica::start(&cluster, "a", &[]);
    first.ready().await;
    let event = until("an Event", async || events(&client).await.pop()).await;
    assert_eq!(
        event.regarding.as_ref().unwrap().name.as_deref(),
        Some("missed")
    );
    assert_eq!(event.reason.as_deref(), Some("ProxyMissing"));
    let note = event.note.unwrap();
    assert!(note.contains("kubectl delete pod missed -n shop"), "{note}");

    // Another leader does not repeat it.
    first.stop().await;
    let second = Replica::start(&cluster, "b", &[]);
    second.ready().await;
    until("it leads", async || {
        (second.metric("mesh_controller_leader").await == 1.0).then_some(())
    })
    .await;
    sleep(Duration::from_secs(7)).await;
    assert_eq!(events(&client).await.len(), 1);
}

async fn events(client: &Client) -> Vec<Event> {
    let api: Api<Event> = Api::namespaced(client.clone(), "shop");
    api.list(&ListParams::default())
        .await
        .expect("Events")
        .items
}

fn root(name: &str) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (
        params.self_signed(&key).expect("a root").pem(),
        key.serialize_pem(),
    )
}
