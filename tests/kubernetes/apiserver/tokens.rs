//! TokenRequest, TokenReview and access with a token.

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenReview},
    authorization::v1::SelfSubjectAccessReview,
    core::v1::ServiceAccount,
};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::{Value, json};

use super::{Place, object, pod, refusal};

const AUDIENCE: &str = "tests.example.com";

async fn review(place: &Place, token: &str, audience: &str) -> Value {
    let reviews: Api<TokenReview> = Api::all(place.client.clone());
    let review =
        object(json!({ "metadata": {}, "spec": { "token": token, "audiences": [audience] } }));
    let answer = reviews
        .create(&PostParams::default(), &review)
        .await
        .expect("a review");
    serde_json::to_value(answer.status).expect("a status")
}

#[tokio::test]
async fn a_token_names_its_account_and_pod_as_long_as_both_are_there() {
    let Some(place) = Place::new().await else {
        return;
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(place.client.clone(), &place.namespace);
    let account = object(json!({ "metadata": { "name": "web" } }));
    accounts
        .create(&PostParams::default(), &account)
        .await
        .expect("created");
    let mut running = pod("web-1");
    running["spec"]["serviceAccountName"] = "web".into();
    let created = place
        .pods()
        .create(&PostParams::default(), &object(running))
        .await
        .expect("created");
    let ask = |spec: Value| {
        let accounts = accounts.clone();
        async move {
            let request: TokenRequest = object(json!({ "metadata": {}, "spec": spec }));
            accounts
                .create_token_request("web", &PostParams::default(), &request)
                .await
        }
    };
    let bound =
        json!({ "kind": "Pod", "apiVersion": "v1", "name": "web-1", "uid": created.metadata.uid });
    let spec =
        json!({ "audiences": [AUDIENCE], "expirationSeconds": 600, "boundObjectRef": bound });
    let token = ask(spec).await.expect("a token").status.expect("a status");
    let token = serde_json::to_value(token).expect("JSON")["token"].take();
    let token = token.as_str().expect("a token");
    assert_eq!(token.split('.').count(), 3, "a JWT");

    let found = review(&place, token, AUDIENCE).await;
    assert_eq!(found["authenticated"], true, "{found}");
    let user = &found["user"];
    assert_eq!(
        user["username"],
        format!("system:serviceaccount:{}:web", place.namespace)
    );
    assert_eq!(
        user["extra"]["authentication.kubernetes.io/pod-name"],
        json!(["web-1"])
    );
    assert_eq!(
        user["extra"]["authentication.kubernetes.io/pod-uid"],
        json!([created.metadata.uid])
    );
    assert_eq!(found["audiences"], json!([AUDIENCE]));
    let wrong = review(&place, token, "other.example.com").await;
    assert_ne!(wrong["authenticated"], true);
    assert!(
        wrong["error"]
            .as_str()
            .is_some_and(|why| why.contains("audience")),
        "{wrong}"
    );
    let forged = format!("{token}x");
    assert_ne!(
        review(&place, &forged, AUDIENCE).await["authenticated"],
        true
    );

    place
        .pods()
        .delete("web-1", &DeleteParams::default())
        .await
        .expect("deleted");
    // The real server remembers a verdict for ten seconds.
    let mut tries = 0;
    while review(&place, token, AUDIENCE).await["authenticated"] == true {
        tries += 1;
        assert!(tries < 60, "the token outlives its pod");
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }

    let missing = json!({ "audiences": [], "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": "none" } });
    assert_eq!(refusal(ask(missing).await).code, 404);
    let short = refusal(ask(json!({ "audiences": [], "expirationSeconds": 60 })).await);
    assert_eq!(short.code, 422);
    assert!(
        short
            .message
            .contains("may not specify a duration less than 10 minutes"),
        "{}",
        short.message
    );
    let nobody: TokenRequest = object(json!({ "metadata": {}, "spec": { "audiences": [] } }));
    let nobody = accounts
        .create_token_request("nobody", &PostParams::default(), &nobody)
        .await;
    assert_eq!(refusal(nobody).code, 404);
}

#[tokio::test]
async fn a_token_opens_the_server_to_its_account() {
    let Some(place) = Place::new().await else {
        return;
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(place.client.clone(), &place.namespace);
    let account = object(json!({ "metadata": { "name": "web" } }));
    accounts
        .create(&PostParams::default(), &account)
        .await
        .expect("created");
    let role = object(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": { "name": place.namespace },
        "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["list"] }],
    }));
    let roles = place.cluster_objects("rbac.authorization.k8s.io/v1", "ClusterRole");
    roles
        .create(&PostParams::default(), &role)
        .await
        .expect("created");
    let binding = object(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": place.namespace },
        "roleRef": { "kind": "ClusterRole", "name": place.namespace, "apiGroup": "rbac.authorization.k8s.io" },
        "subjects": [{ "kind": "ServiceAccount", "name": "web", "namespace": place.namespace }],
    }));
    let bindings = place.cluster_objects("rbac.authorization.k8s.io/v1", "ClusterRoleBinding");
    bindings
        .create(&PostParams::default(), &binding)
        .await
        .expect("bound");
    let request: TokenRequest = object(json!({ "metadata": {}, "spec": { "audiences": [] } }));
    let token = accounts
        .create_token_request("web", &PostParams::default(), &request)
        .await;
    let token = serde_json::to_value(token.expect("a token")).expect("JSON");
    let token = token["status"]["token"].as_str().expect("a token");
    let client = place.cluster.client_for(token).await;
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let attributes = json!({ "verb": "list", "resource": "pods", "namespace": place.namespace });
    let review = object(json!({ "metadata": {}, "spec": { "resourceAttributes": attributes } }));
    let mut tries = 0;
    // The real server's view of bindings lags a moment.
    while !reviews
        .create(&PostParams::default(), &review)
        .await
        .is_ok_and(|review| review.status.is_some_and(|status| status.allowed))
    {
        tries += 1;
        assert!(tries < 100, "the account may not list pods");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client, &place.namespace);
    assert!(pods.list(&Default::default()).await.is_ok());
    let stranger = place.cluster.client_for("not-a-token").await;
    let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(stranger, &place.namespace);
    let refused = refusal(pods.list(&Default::default()).await);
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (401, "Unauthorized")
    );
}
