//! Admission webhooks: which are asked about a write, and what their answers do to it.
//!
//! As in the real server, mutating webhooks are asked one after the other in the order of their configurations' names; one that
//! asks for it (`reinvocationPolicy: IfNeeded`) is asked again where a later one changed the object.

mod call;
mod rules;

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    meta,
    state::{Api, Call},
    status::Status,
};

/// What is being done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Create,
    Update,
    Delete,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }

    fn options(self) -> &'static str {
        match self {
            Self::Create => "CreateOptions",
            Self::Update => "UpdateOptions",
            Self::Delete => "DeleteOptions",
        }
    }
}

/// A write that webhooks are asked about.
struct Question<'a> {
    call: &'a Call,
    operation: Operation,
    object: Option<&'a Value>,
    old: Option<&'a Value>,
}

/// The object with the changes that mutating webhooks make to it.
///
/// # Errors
/// A webhook says no, or one that must be asked can't be (`failurePolicy: Fail`).
pub(super) async fn mutate(
    api: &Arc<Api>,
    call: &Call,
    operation: Operation,
    mut object: Value,
    old: Option<&Value>,
) -> Result<Value, Status> {
    let hooks = rules::hooks(
        api,
        call,
        "mutatingwebhookconfigurations.admissionregistration.k8s.io",
    );
    // Those asked already that want to be asked again, and whether they must be.
    let mut again: Vec<(usize, bool)> = Vec::new();
    for (index, hook) in hooks.iter().enumerate() {
        if ask_to_mutate(api, call, operation, hook, &mut object, old).await? {
            again.iter_mut().for_each(|(_, needed)| *needed = true);
        }
        if hook["reinvocationPolicy"] == "IfNeeded" {
            again.push((index, false));
        }
    }
    for (index, _) in again.into_iter().filter(|(_, needed)| *needed) {
        ask_to_mutate(api, call, operation, &hooks[index], &mut object, old).await?;
    }
    Ok(object)
}

/// Asks one webhook; whether it changed the object.
async fn ask_to_mutate(
    api: &Arc<Api>,
    call: &Call,
    operation: Operation,
    hook: &Value,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<bool, Status> {
    let question = Question {
        call,
        operation,
        object: Some(object),
        old,
    };
    let Some(answer) = ask(api, &question, hook).await? else {
        return Ok(false);
    };
    let Some(patch) = answer["patch"].as_str() else {
        return Ok(false);
    };
    let name = hook["name"].as_str().unwrap_or_default();
    let internal = |why: String| {
        Status::internal(format!(
            "error decoding the patch of admission webhook {name:?}: {why}"
        ))
    };
    if answer["patchType"] != "JSONPatch" {
        let kind = answer["patchType"].to_string();
        return Err(internal(format!(
            "its patchType is {kind}, not \"JSONPatch\""
        )));
    }
    let patch = STANDARD
        .decode(patch)
        .map_err(|why| internal(why.to_string()))?;
    let patch: json_patch::Patch =
        serde_json::from_slice(&patch).map_err(|why| internal(why.to_string()))?;
    let before = object.clone();
    json_patch::patch(object, &patch).map_err(|why| internal(why.to_string()))?;
    Ok(*object != before)
}

/// Asks the validating webhooks.
///
/// # Errors
/// One says no, or one that must be asked can't be.
pub(super) async fn validate(
    api: &Arc<Api>,
    call: &Call,
    operation: Operation,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), Status> {
    if operation == Operation::Delete {
        // A deletion changes nothing that could be patched; mutating webhooks may still say no.
        let qualified = "mutatingwebhookconfigurations.admissionregistration.k8s.io";
        ask_all(api, call, operation, object, old, qualified).await?;
    }
    let qualified = "validatingwebhookconfigurations.admissionregistration.k8s.io";
    ask_all(api, call, operation, object, old, qualified).await
}

async fn ask_all(
    api: &Arc<Api>,
    call: &Call,
    operation: Operation,
    object: Option<&Value>,
    old: Option<&Value>,
    qualified: &str,
) -> Result<(), Status> {
    for hook in rules::hooks(api, call, qualified) {
        let question = Question {
            call,
            operation,
            object,
            old,
        };
        ask(api, &question, &hook).await?;
    }
    Ok(())
}

/// One webhook's answer, if it is to be asked and could be.
async fn ask(
    api: &Arc<Api>,
    question: &Question<'_>,
    hook: &Value,
) -> Result<Option<Value>, Status> {
    if !rules::concerns(api, hook, question) {
        return Ok(None);
    }
    let name = hook["name"].as_str().unwrap_or_default();
    let dry_run = question.call.query.dry_run()?;
    if dry_run && !matches!(hook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")) {
        return Err(Status::bad_request(format!(
            "admission webhook {name:?} does not support dry run"
        )));
    }
    let uid = meta::uid();
    match call::send(api, hook, &review(question, &uid, dry_run)).await {
        Ok(answer) if answer["response"]["uid"] == uid.as_str() => {
            let response = answer["response"].clone();
            if response["allowed"] == true {
                return Ok(Some(response));
            }
            Err(denied(name, &response["status"]))
        }
        Ok(answer) => failed(
            hook,
            &format!(
                "received invalid webhook response: expected response.uid={uid:?}, got {}",
                answer["response"]["uid"]
            ),
        ),
        Err(why) => failed(hook, &format!("failed to call webhook: {why}")),
    }
}

/// A webhook could not be asked: its configuration says whether that is a no.
fn failed(hook: &Value, why: &str) -> Result<Option<Value>, Status> {
    if hook["failurePolicy"] == "Ignore" {
        return Ok(None);
    }
    let name = hook["name"].as_str().unwrap_or_default();
    Err(Status::internal(format!(
        "failed calling webhook {name:?}: {why}"
    )))
}

fn denied(name: &str, status: &Value) -> Status {
    let said = |field: &str| status[field].as_str().filter(|text| !text.is_empty());
    let code = status["code"]
        .as_u64()
        .and_then(|code| u16::try_from(code).ok())
        .unwrap_or_default();
    let code = StatusCode::from_u16(code.max(400)).unwrap_or(StatusCode::BAD_REQUEST);
    let by = format!("admission webhook {name:?} denied the request");
    let message = match (said("message"), said("reason")) {
        (Some(message), _) => format!("{by}: {message}"),
        (None, Some(reason)) => format!("{by}: {reason}"),
        (None, None) => format!("{by} without explanation"),
    };
    Status::denied(code, message)
}

/// The `AdmissionReview` that is sent.
fn review(question: &Question<'_>, uid: &str, dry_run: bool) -> Value {
    let call = question.call;
    let resource = &call.target.resource;
    let kind =
        json!({ "group": resource.group, "version": resource.version, "kind": resource.kind });
    let of = json!({
        "group": resource.group, "version": resource.version, "resource": resource.plural,
    });
    let named = question.object.or(question.old);
    let name = named.and_then(|object| object["metadata"]["name"].as_str());
    let mut request = json!({
        "uid": uid,
        "kind": kind,
        "resource": of,
        "requestKind": kind,
        "requestResource": of,
        "operation": question.operation.name(),
        "userInfo": call.user.info(),
        "object": question.object,
        "oldObject": question.old,
        "dryRun": dry_run,
        "options": {
            "kind": question.operation.options(),
            "apiVersion": "meta.k8s.io/v1",
        },
    });
    if let Some(name) = name.or(call.target.name.as_deref()) {
        request["name"] = name.into();
    }
    if let Some(namespace) = &call.target.namespace {
        request["namespace"] = namespace.as_str().into();
    }
    if !call.target.subresource.is_empty() {
        request["subResource"] = call.target.subresource.as_str().into();
        request["requestSubResource"] = call.target.subresource.as_str().into();
    }
    json!({ "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request })
}
