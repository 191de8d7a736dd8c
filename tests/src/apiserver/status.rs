//! Refusals: the `Status` objects with which an API server answers what it does not do.
//!
//! Codes, reasons and sentences are those of `k8s.io/apimachinery/pkg/api/errors`, since clients tell them apart by these.

use http::StatusCode;
use serde_json::{Value, json};

use super::resource::Resource;

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Status {
    pub(super) code: StatusCode,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) details: Value,
}

/// One thing that is wrong with an object: where, of which kind, and the sentence.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cause {
    pub(super) field: String,
    pub(super) kind: &'static str,
    pub(super) message: String,
}

impl Cause {
    pub(super) fn required(field: &str, detail: &str) -> Self {
        Self {
            field: field.to_owned(),
            kind: "FieldValueRequired",
            message: match detail {
                "" => "Required value".to_owned(),
                detail => format!("Required value: {detail}"),
            },
        }
    }

    pub(super) fn invalid(field: &str, value: &Value, detail: &str) -> Self {
        Self {
            field: field.to_owned(),
            kind: "FieldValueInvalid",
            message: format!("Invalid value: {value}: {detail}"),
        }
    }

    pub(super) fn unsupported(field: &str, value: &Value, supported: &[&str]) -> Self {
        let supported = supported.iter().map(|value| format!("\"{value}\""));
        let supported = supported.collect::<Vec<_>>().join(", ");
        Self {
            field: field.to_owned(),
            kind: "FieldValueNotSupported",
            message: format!("Unsupported value: {value}: supported values: {supported}"),
        }
    }
}

impl Status {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
        }
    }

    fn of(mut self, resource: &Resource, name: &str) -> Self {
        self.details = json!({ "name": name, "group": resource.group, "kind": resource.plural });
        self
    }

    /// No such object.
    pub(super) fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).of(resource, name)
    }

    /// No such path: the plain text of Go's HTTP server stands for it, unlike all others.
    pub(super) fn no_path() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    pub(super) fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).of(resource, name)
    }

    pub(super) fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let qualified = resource.qualified();
        let message = format!("Operation cannot be fulfilled on {qualified} \"{name}\": {why}");
        Self::new(StatusCode::CONFLICT, "Conflict", message).of(resource, name)
    }

    /// The object was changed since the caller read it.
    pub(super) fn modified(resource: &Resource, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// Other appliers own these fields: `(manager, field)`.
    pub(super) fn apply_conflict(conflicts: &[(String, String)]) -> Self {
        let causes: Vec<_> = conflicts
            .iter()
            .map(|(manager, field)| {
                json!({
                    "reason": "FieldManagerConflict",
                    "message": format!("conflict with {manager}"),
                    "field": field,
                })
            })
            .collect();
        let plural = if conflicts.len() == 1 { "" } else { "s" };
        let list = match conflicts {
            [(manager, field)] => format!("conflict with {manager}: {field}"),
            _ => {
                let mut managers: Vec<&String> = conflicts.iter().map(|(by, _)| by).collect();
                managers.sort();
                managers.dedup();
                let by_manager = managers.iter().map(|manager| {
                    let of_manager = conflicts.iter().filter(|(by, _)| by == *manager);
                    let fields = of_manager.map(|(_, field)| format!("\n- {field}"));
                    format!("conflicts with {manager}:{}", fields.collect::<String>())
                });
                by_manager.collect::<Vec<_>>().join("\n")
            }
        };
        let message = format!(
            "Apply failed with {} conflict{plural}: {list}",
            conflicts.len()
        );
        let mut status = Self::new(StatusCode::CONFLICT, "Conflict", message);
        status.details = json!({ "causes": causes });
        status
    }

    pub(super) fn invalid(resource: &Resource, name: &str, causes: &[Cause]) -> Self {
        let kind = match resource.group.as_str() {
            "" => resource.kind.clone(),
            group => format!("{}.{group}", resource.kind),
        };
        let mut sentences: Vec<String> = Vec::new();
        for cause in causes {
            let sentence = format!("{}: {}", cause.field, cause.message);
            if !sentences.contains(&sentence) {
                sentences.push(sentence);
            }
        }
        let sentences = match sentences.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{kind} \"{name}\" is invalid: {sentences}");
        let mut status = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
        let causes: Vec<_> = causes
            .iter()
            .map(|cause| json!({ "reason": cause.kind, "message": cause.message, "field": cause.field }))
            .collect();
        status.details = json!({ "name": name, "group": resource.group, "kind": resource.kind, "causes": causes });
        status
    }

    /// The body makes no sense as what it should be (a JSON patch that does not apply, for example).
    pub(super) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    pub(super) fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let qualified = resource.qualified();
        let message = match name {
            "" => format!("{qualified} is forbidden: {why}"),
            name => format!("{qualified} \"{name}\" is forbidden: {why}"),
        };
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).of(resource, name)
    }

    pub(super) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    pub(super) fn not_acceptable(accepted: &str) -> Self {
        let message = format!("only the following media types are accepted: {accepted}");
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    pub(super) fn unsupported_media_type(accepted: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted}"
        );
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            message,
        )
    }

    /// The revision asked for is no longer known.
    pub(super) fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// The revision asked for is not there yet.
    pub(super) fn too_large_revision(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        let mut status = Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message);
        status.details = json!({
            "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }],
            "retryAfterSeconds": 1,
        });
        status
    }

    pub(super) fn internal(message: impl std::fmt::Display) -> Self {
        let text = message.to_string();
        let message = format!("Internal error occurred: {text}");
        let mut status = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message);
        status.details = json!({ "causes": [{ "message": text }] });
        status
    }

    /// A webhook said no, with its own code and message.
    pub(super) fn denied(code: StatusCode, message: String) -> Self {
        let reason = match code {
            StatusCode::BAD_REQUEST => "BadRequest",
            StatusCode::FORBIDDEN => "Forbidden",
            _ => "",
        };
        Self::new(code, reason, message)
    }

    /// Adds a cause to the details.
    pub(super) fn because(mut self, reason: &str, message: &str, field: &str) -> Self {
        self.details["causes"] = json!([{ "reason": reason, "message": message, "field": field }]);
        self
    }

    /// The object that is sent.
    pub(super) fn object(&self) -> Value {
        let mut object = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code.as_u16(),
        });
        if !self.reason.is_empty() {
            object["reason"] = self.reason.into();
        }
        if let Value::Object(details) = &self.details {
            let kept = details.iter().filter(|(_, value)| *value != "");
            object["details"] = Value::Object(kept.map(|(k, v)| (k.clone(), v.clone())).collect());
        }
        object
    }
}
