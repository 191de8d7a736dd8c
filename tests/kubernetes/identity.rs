//! Certificates for pods, from tokens that the API server vouches for; several replicas, rotation, an API
//! server that is away.

use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{Pod, ServiceAccount},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use mesh_api::names;
use mesh_tests::cluster::Availability;
use serde_json::json;
use tonic::Code;

use crate::{
    proxy::{Identity, certify},
    replica::{Replica, bundle, cluster, namespace, pem_of_roots, pod, until},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_token_becomes_its_identity_at_every_replica() {
    let Some((cluster, client)) =
        cluster("a_pods_token_becomes_its_identity_at_every_replica").await
    else {
        return;
    };
    let replicas = ["a", "b"].map(|pod| Replica::start(&cluster, pod, &[]));
    for replica in &replicas {
        replica.ready().await;
    }
    shop(&client).await;
    let pem = until("the bundle", async || bundle(&client, "shop").await).await;
    let token = token(&client, names::TOKEN_AUDIENCE).await;
    let mut identities: Vec<Identity> = Vec::new();
    for replica in &replicas {
        identities.push(certify(replica.proxies, &pem, &token).await.unwrap());
        let (_, leaf) =
            x509_parser::parse_x509_certificate(&identities.last().unwrap().certified.chain[0])
                .unwrap();
        let names = leaf.subject_alternative_name().unwrap().unwrap().value;
        let name = names.general_names[0].to_string();
        assert!(
            name.contains("spiffe://cluster.local/ns/shop/sa/web"),
            "{name}"
        );
    }
    // Issued by one, good at the other.
    let mut stream = identities[0]
        .discover(replicas[1].proxies, "shop", "web-1")
        .await
        .unwrap();
    assert_eq!(
        Some(stream.bundle().await.unwrap()),
        identities[0].certified.bundle
    );

    for (token, why) in [
        (token_for_others(&client).await, "another audience"),
        ("nonsense".to_owned(), "nonsense"),
    ] {
        let refused = certify(replicas[0].proxies, &pem, &token)
            .await
            .err()
            .unwrap();
        assert_eq!(refused.code(), Code::Unauthenticated, "{why}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_hear_of_a_new_root_before_it_issues() {
    let Some((cluster, client)) = cluster("proxies_hear_of_a_new_root_before_it_issues").await
    else {
        return;
    };
    let quick = ["--leaf-lifetime", "6s", "--root-lifetime", "60s"];
    let replicas = ["a", "b"].map(|pod| Replica::start(&cluster, pod, &quick));
    for replica in &replicas {
        replica.ready().await;
    }
    shop(&client).await;
    let pem = until("the bundle", async || bundle(&client, "shop").await).await;
    let token = token(&client, names::TOKEN_AUDIENCE).await;
    let identity = certify(replicas[0].proxies, &pem, &token).await.unwrap();
    let first = identity.certified.bundle.clone().unwrap();
    let mut streams = Vec::new();
    for replica in &replicas {
        streams.push(
            identity
                .discover(replica.proxies, "shop", "web-1")
                .await
                .unwrap(),
        );
    }
    // A stream outlives the certificate with which it was opened.
    for stream in &mut streams {
        let mut bundle = stream.bundle().await.unwrap();
        while bundle.roots.len() < 2 {
            bundle = stream.bundle().await.unwrap();
        }
        assert_eq!(bundle.roots[0], first.roots[0], "old and new overlap");
    }
    // Whichever root issues by now: what one replica issues is good at the other.
    let pem = pem_of_roots(&client).await;
    let renewed = certify(replicas[0].proxies, &pem, &token).await.unwrap();
    renewed
        .discover(replicas[1].proxies, "shop", "web-1")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_ends_sends_its_proxies_elsewhere() {
    let Some((cluster, client)) = cluster("a_replica_that_ends_sends_its_proxies_elsewhere").await
    else {
        return;
    };
    let first = Replica::start(&cluster, "a", &[]);
    let second = Replica::start(&cluster, "b", &[]);
    first.ready().await;
    second.ready().await;
    shop(&client).await;
    let pem = until("the bundle", async || bundle(&client, "shop").await).await;
    let token = token(&client, names::TOKEN_AUDIENCE).await;
    let identity = certify(first.proxies, &pem, &token).await.unwrap();
    let mut stream = identity
        .discover(first.proxies, "shop", "web-1")
        .await
        .unwrap();
    let before = stream.bundle().await.unwrap();
    assert!(first.stop().await.success());
    let end = loop {
        match stream.next().await {
            Ok(_) => {}
            Err(end) => break end,
        }
    };
    assert_eq!(end.code(), Code::Unavailable, "{end}");
    let mut stream = identity
        .discover(second.proxies, "shop", "web-1")
        .await
        .unwrap();
    assert_eq!(stream.bundle().await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_api_server_it_serves_on_from_memory() {
    let Some((cluster, client)) = cluster("without_the_api_server_it_serves_on_from_memory").await
    else {
        return;
    };
    let replica = Replica::start(&cluster, "a", &[]);
    replica.ready().await;
    shop(&client).await;
    let pem = until("the bundle", async || bundle(&client, "shop").await).await;
    let token = token(&client, names::TOKEN_AUDIENCE).await;
    let identity = certify(replica.proxies, &pem, &token).await.unwrap();
    if !cluster.set_availability(Availability::Refusing) {
        return mesh_tests::skip(
            "without_the_api_server_it_serves_on_from_memory",
            "only in memory",
        );
    }
    let mut stream = identity
        .discover(replica.proxies, "shop", "web-1")
        .await
        .unwrap();
    assert_eq!(
        Some(stream.bundle().await.unwrap()),
        identity.certified.bundle
    );
    let unavailable = certify(replica.proxies, &pem, &token).await.err().unwrap();
    assert_eq!(unavailable.code(), Code::Unavailable, "{unavailable}");
    cluster.set_availability(Availability::Up);
    until("certificates again", async || {
        certify(replica.proxies, &pem, &token).await.ok()
    })
    .await;
    assert_eq!(replica.get("/ready").await.unwrap().0, 200);
}

/// A namespace with a service account and its pod.
async fn shop(client: &Client) {
    namespace(client, "shop", Some("enabled")).await;
    let params = PatchParams::apply("test").force();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "shop");
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "web"}});
    accounts
        .patch("web", &params, &Patch::Apply(account))
        .await
        .unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    let mut web = pod(
        "web-1",
        json!({"annotations": {names::ANNOTATION_PROXY: "true"}}),
    );
    web.spec.as_mut().unwrap().service_account_name = Some("web".into());
    pods.create(&PostParams::default(), &web).await.unwrap();
}

async fn token_for_others(client: &Client) -> String {
    token(client, "others.example").await
}

/// A token as the kubelet projects it into the pod.
async fn token(client: &Client, audience: &str) -> String {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    let uid = pods.get("web-1").await.unwrap().metadata.uid;
    let request: TokenRequest = serde_json::from_value(json!({
        "spec": {
            "audiences": [audience],
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "web-1", "uid": uid},
            "expirationSeconds": 3600,
        },
    }))
    .unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "shop");
    let answer = accounts
        .create_token_request("web", &PostParams::default(), &request)
        .await
        .unwrap();
    let status = serde_json::to_value(answer.status).unwrap();
    status["token"].as_str().unwrap().to_owned()
}
