//! `admission.k8s.io/v1`: what the API server asks, and what it is answered. Pure.

use k8s_openapi::ByteString;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::inject::{Injection, Invalid, NamespaceFacts, Reason, Settings, inject};

/// The version that is spoken.
const API_VERSION: &str = "admission.k8s.io/v1";

/// The part of an AdmissionReview that is looked at. Whatever else is in it is ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    request: Option<Request>,
}

/// A request for admission.
#[derive(Debug, Deserialize, PartialEq)]
pub(super) struct Request {
    uid: String,
    /// Of the pod. The pod itself need not say it.
    #[serde(default)]
    pub(super) namespace: String,
    /// Empty where the API server is still to make one up.
    #[serde(default)]
    name: String,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    object: Value,
}

/// What becomes of a pod.
#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    /// It gets a proxy.
    Inject(ByteString),
    /// It stays as it is, which its owner expects.
    Pass(Reason),
    /// It stays as it is, although a proxy was asked for.
    Warn(Reason),
    /// What it asks for can't be done.
    Refuse(Invalid),
}

/// Reads a review.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn parse(body: &[u8]) -> Result<Request, String> {
    let review: Review = serde_json::from_slice(body)
        .map_err(|error| format!("the body is not an AdmissionReview: {error}"))?;
    if review.api_version != API_VERSION {
        return Err(format!(
            "expected {API_VERSION}, not {}",
            review.api_version
        ));
    }
    let request = review.request.ok_or("the AdmissionReview has no request")?;
    if request.uid.is_empty() {
        return Err("the request has no uid".into());
    }
    Ok(request)
}

impl Request {
    /// What becomes of the pod in a namespace of which `facts` are known.
    ///
    /// # Errors
    /// The patch can't be made, which is a bug.
    pub(super) fn decide(
        &self,
        facts: &NamespaceFacts,
        settings: &Settings,
    ) -> Result<Decision, serde_json::Error> {
        // What is not created, such as the restart of an ephemeral container, is none of ours.
        if self.operation != "CREATE" || !self.object.is_object() {
            return Ok(Decision::Pass(Reason::NotOptedIn));
        }
        Ok(match inject(&self.object, facts, settings) {
            Ok(Injection::Injected(pod)) => {
                let patch = json_patch::diff(&self.object, &pod);
                Decision::Inject(ByteString(serde_json::to_vec(&patch)?))
            }
            Ok(Injection::Skipped(
                reason @ (Reason::NotOptedIn
                | Reason::OptedOut
                | Reason::AlreadyInjected
                | Reason::ControlPlane),
            )) => Decision::Pass(reason),
            Ok(Injection::Skipped(reason)) => Decision::Warn(reason),
            Err(invalid) => Decision::Refuse(invalid),
        })
    }

    /// The pod, for people.
    pub(super) fn pod(&self) -> String {
        let meta = &self.object["metadata"];
        let generated = meta["generateName"].as_str().unwrap_or_default();
        let name = [
            self.name.as_str(),
            meta["name"].as_str().unwrap_or_default(),
        ];
        let name = name.into_iter().find(|name| !name.is_empty());
        match name {
            Some(name) => format!("{}/{name}", self.namespace),
            None => format!("{}/{generated}*", self.namespace),
        }
    }

    /// The AdmissionReview to answer with.
    pub(super) fn answer(&self, decision: &Decision) -> Value {
        let mut response = json!({"uid": self.uid, "allowed": true});
        match decision {
            Decision::Pass(_) => {}
            Decision::Inject(patch) => {
                response["patchType"] = "JSONPatch".into();
                response["patch"] = json!(patch);
            }
            Decision::Warn(reason) => {
                response["warnings"] =
                    json!([format!("mesh: {} gets no proxy: {reason}", self.pod())]);
            }
            Decision::Refuse(invalid) => {
                response["allowed"] = false.into();
                response["status"] = json!({
                    "code": 400,
                    "reason": "BadRequest",
                    "message": format!("mesh: {} asks for a proxy that can't be made: {invalid}", self.pod()),
                });
            }
        }
        json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response})
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mesh_api::names;
    use proptest::prelude::*;

    use super::*;

    fn facts(inject: &str) -> NamespaceFacts {
        NamespaceFacts {
            name: "shop".into(),
            labels: BTreeMap::from([(names::LABEL_INJECT.into(), inject.into())]),
            annotations: BTreeMap::new(),
        }
    }

    fn pod() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"generateName": "web-5d-", "labels": {"app": "web"}},
            "spec": {"serviceAccountName": "web", "containers": [{"name": "web", "image": "web:1"}], "unheardOf": 1},
        })
    }

    fn review(pod: &Value) -> Vec<u8> {
        let review = json!({
            "apiVersion": API_VERSION, "kind": "AdmissionReview",
            "request": {"uid": "u1", "namespace": "shop", "operation": "CREATE", "object": pod, "unheardOf": {}},
        });
        review.to_string().into_bytes()
    }

    fn decide(pod: &Value, inject: &str) -> (Request, Decision) {
        let request = parse(&review(pod)).unwrap();
        let decision = request
            .decide(&facts(inject), &Settings::default())
            .unwrap();
        (request, decision)
    }

    #[test]
    fn the_patch_makes_the_injected_pod() {
        let (request, decision) = decide(&pod(), "enabled");
        let answer = request.answer(&decision);
        assert_eq!(answer["response"]["uid"], "u1");
        assert_eq!(answer["response"]["allowed"], true);
        assert_eq!(answer["response"]["patchType"], "JSONPatch");
        let patch: ByteString =
            serde_json::from_value(answer["response"]["patch"].clone()).unwrap();
        let patch: json_patch::Patch = serde_json::from_slice(&patch.0).unwrap();
        let mut patched = pod();
        json_patch::patch(&mut patched, &patch).unwrap();
        let Injection::Injected(expected) =
            inject(&pod(), &facts("enabled"), &Settings::default()).unwrap()
        else {
            panic!("not injected")
        };
        assert_eq!(patched, expected);
        assert_eq!(patched["spec"]["unheardOf"], 1);
    }

    #[test]
    fn who_did_not_ask_hears_nothing_and_who_asked_in_vain_is_warned() {
        let (request, decision) = decide(&pod(), "disabled");
        assert_eq!(decision, Decision::Pass(Reason::NotOptedIn));
        assert_eq!(
            request.answer(&decision)["response"],
            json!({"uid": "u1", "allowed": true})
        );
        let mut host = pod();
        host["spec"]["hostNetwork"] = true.into();
        let (request, decision) = decide(&host, "enabled");
        assert_eq!(decision, Decision::Warn(Reason::HostNetwork));
        let response = &request.answer(&decision)["response"];
        assert_eq!(response["allowed"], true);
        let warning = response["warnings"][0].as_str().unwrap();
        assert!(
            warning.starts_with("mesh: shop/web-5d-* gets no proxy: "),
            "{warning}"
        );
    }

    #[test]
    fn an_annotation_that_cannot_be_read_is_the_users_to_repair() {
        let mut pod = pod();
        pod["metadata"]["annotations"] = json!({names::ANNOTATION_OPAQUE_PORTS: "many"});
        let (request, decision) = decide(&pod, "enabled");
        let response = &request.answer(&decision)["response"];
        assert_eq!(response["allowed"], false);
        let message = response["status"]["message"].as_str().unwrap();
        assert!(
            message.contains(names::ANNOTATION_OPAQUE_PORTS),
            "{message}"
        );
    }

    #[test]
    fn what_is_malformed_is_named() {
        for (body, problem) in [
            ("", "not an AdmissionReview"),
            ("[]", "not an AdmissionReview"),
            (
                r#"{"apiVersion": "admission.k8s.io/v1beta1"}"#,
                "expected admission.k8s.io/v1",
            ),
            (r#"{"apiVersion": "admission.k8s.io/v1"}"#, "no request"),
            (
                r#"{"apiVersion": "admission.k8s.io/v1", "request": {"uid": ""}}"#,
                "no uid",
            ),
        ] {
            let error = parse(body.as_bytes()).unwrap_err();
            assert!(error.contains(problem), "{body}: {error}");
        }
        let no_pod = parse(br#"{"apiVersion": "admission.k8s.io/v1", "request": {"uid": "u", "operation": "DELETE"}}"#);
        let decision = no_pod
            .unwrap()
            .decide(&facts("enabled"), &Settings::default());
        assert_eq!(decision.unwrap(), Decision::Pass(Reason::NotOptedIn));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z/]{0,8}".prop_map(Value::from),
        ];
        let keys = prop_oneof![
            "[a-z]{1,5}",
            Just("name".to_owned()),
            Just("containers".to_owned()),
            Just("initContainers".to_owned()),
            Just("ports".to_owned()),
            Just("volumes".to_owned()),
            Just("securityContext".to_owned()),
            Just("annotations".to_owned()),
            Just("labels".to_owned()),
        ];
        leaf.prop_recursive(4, 48, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(keys.clone(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Whatever is called a pod, there is an answer.
        #[test]
        fn nothing_panics(metadata in any_json(), spec in any_json()) {
            let request = parse(&review(&json!({"metadata": metadata, "spec": spec}))).unwrap();
            let decision = request.decide(&facts("enabled"), &Settings::default()).unwrap();
            request.answer(&decision);
        }
    }
}
