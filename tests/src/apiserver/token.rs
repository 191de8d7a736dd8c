//! Service account tokens: TokenRequest makes them, TokenReview and the bearer check look at them.
//!
//! They are signed JWTs with the claims of the real ones. The signature is Ed25519, which is deterministic: a token is
//! genuine if signing its content again gives the same signature, so that no second implementation
//! is needed to verify it.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{KeyPair, PKCS_ED25519, SigningKey};
use serde_json::{Value, json};

use super::{
    meta,
    resource::Resource,
    state::{Api, Call, State, User, key},
    status::{Cause, Status},
};

/// Who signs tokens, and the audience of those for the API server itself (`--service-account-issuer`).
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// The shortest life of a token, seconds.
const SHORTEST: i64 = 600;

/// Signs tokens.
pub(super) struct Issuer {
    key: KeyPair,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("Issuer")
    }
}

impl Issuer {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        Self { key }
    }

    fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "EdDSA", "kid": "in-memory" });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let content = format!("{}.{}", part(&header), part(claims));
        let signature = self.signature(&content);
        format!("{content}.{signature}")
    }

    /// The claims of a token that is genuine.
    fn verify(&self, token: &str) -> Option<Value> {
        let (content, signature) = token.rsplit_once('.')?;
        if self.signature(content) != signature {
            return None;
        }
        let (_, claims) = content.split_once('.')?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }

    fn signature(&self, content: &str) -> String {
        let signature = self
            .key
            .sign(content.as_bytes())
            .expect("signing needs nothing that can fail");
        URL_SAFE_NO_PAD.encode(signature)
    }
}

/// `serviceaccounts/token`: makes a token.
///
/// # Errors
/// The account or the pod is not there, the pod runs as another account, the life is too short.
pub(super) fn request(api: &Api, call: &Call, body: &Value) -> Result<Value, Status> {
    let target = &call.target;
    let name = target.name.as_deref().unwrap_or_default();
    let namespace = target.place();
    let spec = &body["spec"];
    let state = api.lock();
    let account = state
        .find(target)
        .ok_or_else(|| Status::not_found(&target.resource, name))?;
    let seconds = spec["expirationSeconds"].as_i64().unwrap_or(3600);
    if seconds < SHORTEST {
        let request = Resource {
            group: "authentication.k8s.io".to_owned(),
            kind: "TokenRequest".to_owned(),
            ..Resource::default()
        };
        let detail = "may not specify a duration less than 10 minutes";
        let cause = Cause::invalid("spec.expirationSeconds", &seconds.into(), detail);
        return Err(Status::invalid(&request, "", &[cause]));
    }
    let pod = match &spec["boundObjectRef"] {
        Value::Null => None,
        bound => Some(bound_pod(&state, namespace, name, bound)?),
    };
    let mut audiences: Vec<&str> = spec["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if audiences.is_empty() {
        audiences.push(ISSUER);
    }
    let now = jiff::Timestamp::now().as_second();
    let mut about = json!({
        "namespace": namespace,
        "serviceaccount": { "name": name, "uid": account["metadata"]["uid"] },
    });
    if let Some(pod) = &pod {
        about["pod"] = json!({ "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"] });
        if let Some(node) = pod["spec"]["nodeName"].as_str() {
            about["node"] = json!({ "name": node });
        }
    }
    let claims = json!({
        "aud": audiences,
        "exp": now + seconds,
        "iat": now,
        "nbf": now,
        "iss": ISSUER,
        "jti": meta::uid(),
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "kubernetes.io": about,
    });
    let expiry = jiff::Timestamp::from_second(now + seconds).unwrap_or(jiff::Timestamp::MAX);
    let mut shown = spec.clone();
    shown["audiences"] = json!(audiences);
    shown["expirationSeconds"] = seconds.into();
    Ok(json!({
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": { "name": name, "namespace": namespace, "creationTimestamp": meta::now() },
        "spec": shown,
        "status": {
            "token": api.issuer.sign(&claims),
            "expirationTimestamp": meta::timestamp(expiry),
        },
    }))
}

fn bound_pod(
    state: &State,
    namespace: &str,
    account: &str,
    bound: &Value,
) -> Result<Arc<Value>, Status> {
    if bound["kind"] != "Pod" || bound["apiVersion"] != "v1" {
        let (kind, version) = (&bound["kind"], &bound["apiVersion"]);
        return Err(Status::bad_request(format!(
            "cannot bind token to object of type {kind} in version {version}"
        )));
    }
    let pods = Resource {
        plural: "pods".to_owned(),
        ..Resource::default()
    };
    let name = bound["name"].as_str().unwrap_or_default();
    let pod = state.store.find(&key(&pods, namespace, name)).cloned();
    let pod = pod.ok_or_else(|| Status::not_found(&pods, name))?;
    if pod["spec"]["serviceAccountName"] != account {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
        )));
    }
    let uid = &pod["metadata"]["uid"];
    if bound["uid"].is_string() && bound["uid"] != *uid {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been \
             deleted and then recreated",
            bound["uid"].as_str().unwrap_or_default()
        );
        return Err(Status::conflict(&pods, name, &why));
    }
    Ok(pod)
}

/// Whom a token names, and for which of the wanted audiences it is.
///
/// # Errors
/// Why it is not accepted, in words.
pub(super) fn authenticate(
    api: &Api,
    token: &str,
    wanted: &[String],
) -> Result<(User, Vec<String>), String> {
    let claims = api.issuer.verify(token).ok_or("invalid bearer token")?;
    let now = jiff::Timestamp::now().as_second();
    if claims["exp"].as_i64().is_none_or(|expiry| expiry <= now) {
        return Err("[invalid bearer token, service account token has expired]".to_owned());
    }
    let audiences = strings(&claims["aud"]);
    let common: Vec<String> = wanted
        .iter()
        .filter(|audience| audiences.contains(audience))
        .cloned()
        .collect();
    if common.is_empty() {
        return Err(format!(
            "[invalid bearer token, token audiences {audiences:?} is invalid for the target audiences {wanted:?}]"
        ));
    }
    let about = &claims["kubernetes.io"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let namespace = text(&about["namespace"]);
    let account = text(&about["serviceaccount"]["name"]);
    still_there(
        &api.lock(),
        &namespace,
        "serviceaccounts",
        &about["serviceaccount"],
    )?;
    let mut extra = json!({
        "authentication.kubernetes.io/credential-id": [format!("JTI={}", text(&claims["jti"]))],
    });
    if !about["pod"].is_null() {
        still_there(&api.lock(), &namespace, "pods", &about["pod"])?;
        extra["authentication.kubernetes.io/pod-name"] = json!([about["pod"]["name"]]);
        extra["authentication.kubernetes.io/pod-uid"] = json!([about["pod"]["uid"]]);
    }
    if !about["node"].is_null() {
        extra["authentication.kubernetes.io/node-name"] = json!([about["node"]["name"]]);
    }
    let user = User {
        name: format!("system:serviceaccount:{namespace}:{account}"),
        uid: text(&about["serviceaccount"]["uid"]),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ],
        extra,
    };
    Ok((user, common))
}

/// A token goes with the object that it is bound to.
fn still_there(state: &State, namespace: &str, plural: &str, bound: &Value) -> Result<(), String> {
    let resource = Resource {
        plural: plural.to_owned(),
        ..Resource::default()
    };
    let name = bound["name"].as_str().unwrap_or_default();
    let found = state.store.find(&key(&resource, namespace, name));
    match found {
        Some(found) if found["metadata"]["uid"] == bound["uid"] => Ok(()),
        _ => Err("[invalid bearer token, service account token has been invalidated]".to_owned()),
    }
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}
