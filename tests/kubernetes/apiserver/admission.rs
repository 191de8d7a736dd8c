//! Admission webhooks, really called over TLS.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{rt::TokioExecutor, rt::TokioIo, server::conn::auto};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use rcgen::{CertificateParams, KeyPair};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use super::{Place, config_map, object, refusal};

/// A webhook on a port of loopback; it adds what it is told to and keeps what it was asked.
struct Webhook {
    address: SocketAddr,
    bundle: String,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Webhook {
    /// `answer` makes the response of each request, without its uid.
    async fn start(answer: impl Fn(&Value) -> Value + Send + Sync + 'static) -> Self {
        let key = KeyPair::generate().expect("a key");
        let names = ["127.0.0.1".to_owned(), "hook.hooks.svc".to_owned()];
        let params = CertificateParams::new(names).expect("names");
        let certificate = params.self_signed(&key).expect("a certificate");
        let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate.der().clone()], private);
        let acceptor = TlsAcceptor::from(Arc::new(config.expect("a certificate and its key")));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("its address");
        let asked: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (kept, answer) = (asked.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, kept, answer) = (acceptor.clone(), kept.clone(), answer.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (kept, answer) = (kept.clone(), answer.clone());
                        async move {
                            let body = request
                                .into_body()
                                .collect()
                                .await
                                .expect("a body")
                                .to_bytes();
                            let mut review: Value =
                                serde_json::from_slice(&body).expect("a review");
                            let mut response = answer(&review["request"]);
                            response["uid"] = review["request"]["uid"].clone();
                            kept.lock()
                                .expect("unpoisoned")
                                .push(review["request"].take());
                            review["response"] = response;
                            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(
                                review.to_string(),
                            ))))
                        }
                    });
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self {
            address,
            bundle: STANDARD.encode(certificate.pem()),
            asked,
        }
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().expect("unpoisoned").clone()
    }

    fn client_config(&self) -> Value {
        json!({ "url": format!("https://{}/admit", self.address), "caBundle": self.bundle })
    }
}

/// Registers a webhook for config maps of the place's namespace, and waits until the server asks it.
async fn register(place: &Place, kind: &str, name: &str, more: Value) {
    let configurations = place.cluster_objects("admissionregistration.k8s.io/v1", kind);
    let mut webhook = json!({
        "name": format!("{name}.tests.example.com"),
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "rules": [{
            "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"],
            "operations": ["CREATE", "UPDATE"],
        }],
        "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": place.namespace } },
        "objectSelector": { "matchLabels": { "hook": "yes" } },
    });
    let map = webhook.as_object_mut().expect("an object");
    map.extend(more.as_object().expect("an object").clone());
    let configuration = object(json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": { "name": format!("{name}-{}", place.namespace) },
        "webhooks": [webhook],
    }));
    configurations
        .create(&PostParams::default(), &configuration)
        .await
        .expect("registered");
}

/// The real server's view of webhooks lags a moment: creates until it is asked.
async fn until_asked(place: &Place, webhook: &Webhook) {
    let maps = place.config_maps();
    for attempt in 0..100 {
        let map = labelled(&format!("warm-{attempt}"));
        let _ = maps.create(&PostParams::default(), &map).await;
        if !webhook.asked().is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the webhook is not asked");
}

fn labelled(name: &str) -> k8s_openapi::api::core::v1::ConfigMap {
    let mut map = config_map(name, "1");
    map.metadata.labels = Some([("hook".to_owned(), "yes".to_owned())].into());
    map
}

fn patch(operations: Value) -> Value {
    let patch = STANDARD.encode(operations.to_string());
    json!({ "allowed": true, "patchType": "JSONPatch", "patch": patch })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mutating_webhook_changes_what_it_is_asked_about() {
    let Some(place) = Place::new().await else {
        return;
    };
    let webhook =
        Webhook::start(|_| patch(json!([{ "op": "add", "path": "/data/added", "value": "yes" }])));
    let webhook = webhook.await;
    register(
        &place,
        "MutatingWebhookConfiguration",
        "a",
        json!({ "clientConfig": webhook.client_config() }),
    )
    .await;
    until_asked(&place, &webhook).await;
    let maps = place.config_maps();
    let created = maps
        .create(&PostParams::default(), &labelled("a"))
        .await
        .expect("created");
    assert_eq!(created.data.expect("data")["added"], "yes");
    let other = maps
        .create(&PostParams::default(), &config_map("b", "1"))
        .await
        .expect("created");
    assert!(
        !other.data.expect("data").contains_key("added"),
        "it is not selected"
    );
    let asked = webhook.asked();
    let request = asked.last().expect("a request");
    assert_eq!(request["operation"], "CREATE");
    assert_eq!(request["namespace"], place.namespace.as_str());
    assert_eq!(request["name"], "a");
    assert_eq!(
        request["resource"],
        json!({ "group": "", "version": "v1", "resource": "configmaps" })
    );
    assert_eq!(
        request["kind"],
        json!({ "group": "", "version": "v1", "kind": "ConfigMap" })
    );
    assert_eq!(request["object"]["data"], json!({ "key": "1" }));
    assert_eq!(request["object"]["kind"], "ConfigMap");
    assert_eq!(request["oldObject"], Value::Null);
    assert_eq!(request["dryRun"], false);
    assert!(
        request["userInfo"]["groups"]
            .as_array()
            .is_some_and(|groups| groups.contains(&"system:masters".into()))
    );

    let label = json!({ "data": { "key": "2" } });
    let params = PatchParams::default();
    maps.patch("a", &params, &Patch::Merge(&label))
        .await
        .expect("patched");
    let asked = webhook.asked();
    let request = asked.last().expect("a request");
    assert_eq!(request["operation"], "UPDATE");
    assert_eq!(request["oldObject"]["data"]["key"], "1");
    let before = asked.len();
    maps.delete("a", &DeleteParams::default())
        .await
        .expect("deleted");
    assert_eq!(
        webhook.asked().len(),
        before,
        "deletions are not among its rules"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_no_is_passed_on_with_its_words() {
    let Some(place) = Place::new().await else {
        return;
    };
    let webhook = Webhook::start(
        |_| json!({ "allowed": false, "status": { "code": 403, "message": "not on a Monday" } }),
    );
    let webhook = webhook.await;
    for kind in [
        "MutatingWebhookConfiguration",
        "ValidatingWebhookConfiguration",
    ] {
        let name = &kind[..1].to_lowercase();
        register(
            &place,
            kind,
            name,
            json!({ "clientConfig": webhook.client_config() }),
        )
        .await;
        until_asked(&place, &webhook).await;
        let refused = refusal(
            place
                .config_maps()
                .create(&PostParams::default(), &labelled("a"))
                .await,
        );
        assert_eq!(refused.code, 403);
        let expected = format!(
            "admission webhook \"{name}.tests.example.com\" denied the request: not on a Monday"
        );
        assert_eq!(refused.message, expected);
        let configurations = place.cluster_objects("admissionregistration.k8s.io/v1", kind);
        let name = format!("{name}-{}", place.namespace);
        configurations
            .delete(&name, &DeleteParams::default())
            .await
            .expect("deleted");
        webhook.asked.lock().expect("unpoisoned").clear();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_cannot_be_asked_fails_open_or_closed() {
    let Some(place) = Place::new().await else {
        return;
    };
    let webhook = Webhook::start(|_| json!({ "allowed": true })).await;
    let stranger = Webhook::start(|_| json!({ "allowed": true })).await;
    let mut config = webhook.client_config();
    config["caBundle"] = stranger.bundle.as_str().into();
    let more = json!({ "clientConfig": config, "failurePolicy": "Fail" });
    register(&place, "MutatingWebhookConfiguration", "closed", more).await;
    let maps = place.config_maps();
    let mut refused = None;
    for attempt in 0..100 {
        if let Err(kube::Error::Api(status)) = maps
            .create(&PostParams::default(), &labelled(&format!("a-{attempt}")))
            .await
        {
            refused = Some(status);
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let refused = refused.expect("a webhook of another CA is not trusted");
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (500, "InternalError")
    );
    let begin = "Internal error occurred: failed calling webhook \"closed.tests.example.com\": failed to call webhook: Post";
    assert!(refused.message.starts_with(begin), "{}", refused.message);
    assert!(webhook.asked().is_empty());
    let configurations = place.cluster_objects(
        "admissionregistration.k8s.io/v1",
        "MutatingWebhookConfiguration",
    );
    let name = format!("closed-{}", place.namespace);
    let open =
        json!({ "webhooks": [{ "name": "closed.tests.example.com", "failurePolicy": "Ignore" }] });
    configurations
        .patch(&name, &PatchParams::default(), &Patch::Strategic(&open))
        .await
        .expect("patched");
    for attempt in 0.. {
        if maps
            .create(&PostParams::default(), &labelled(&format!("b-{attempt}")))
            .await
            .is_ok()
        {
            break;
        }
        assert!(attempt < 100, "it fails closed still");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_a_webhook_is_served_on_this_machine() {
    let Some(place) = Place::new().await else {
        return;
    };
    let webhook = Webhook::start(|_| json!({ "allowed": true })).await;
    if !place
        .cluster
        .serve_service("hooks", "hook", webhook.address)
    {
        // A real API server has no way to a Service without nodes.
        return;
    }
    let service = json!({ "namespace": "hooks", "name": "hook", "path": "/admit" });
    let config = json!({ "service": service, "caBundle": webhook.bundle });
    register(
        &place,
        "MutatingWebhookConfiguration",
        "service",
        json!({ "clientConfig": config }),
    )
    .await;
    until_asked(&place, &webhook).await;
}
