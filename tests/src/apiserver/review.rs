//! Questions that are asked by creating an object: who is this, and may they?

use serde_json::{Value, json};

use super::{
    meta,
    resource::Resource,
    state::{Api, Call},
    status::{Cause, Status},
    token,
};

/// Whether objects of a resource are questions, answered and not stored.
pub(super) fn is_review(resource: &Resource) -> bool {
    matches!(
        resource.group.as_str(),
        "authentication.k8s.io" | "authorization.k8s.io"
    ) && resource.custom.is_none()
}

/// The answer.
///
/// # Errors
/// The question is not complete.
pub(super) fn answer(api: &Api, call: &Call, mut review: Value) -> Result<Value, Status> {
    let resource = &call.target.resource;
    let spec = &review["spec"];
    let status = match resource.plural.as_str() {
        "tokenreviews" => token_review(api, resource, spec)?,
        "selfsubjectreviews" => json!({ "userInfo": call.user.info() }),
        // Everybody may do everything here.
        "selfsubjectrulesreviews" => json!({
            "resourceRules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }],
            "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }],
            "incomplete": false,
        }),
        _ => {
            let asked =
                !spec["resourceAttributes"].is_null() || !spec["nonResourceAttributes"].is_null();
            if !asked {
                let detail =
                    "exactly one of nonResourceAttributes or resourceAttributes must be specified";
                let cause = Cause::invalid("spec.resourceAttributes", &Value::Null, detail);
                return Err(Status::invalid(resource, "", &[cause]));
            }
            json!({ "allowed": true })
        }
    };
    review["kind"] = resource.kind.as_str().into();
    review["apiVersion"] = resource.api_version().into();
    review["metadata"]["creationTimestamp"] = match resource.plural.as_str() {
        "selfsubjectreviews" => meta::now().into(),
        _ => Value::Null,
    };
    review["status"] = status;
    Ok(review)
}

fn token_review(api: &Api, resource: &Resource, spec: &Value) -> Result<Value, Status> {
    let Some(token) = spec["token"].as_str().filter(|token| !token.is_empty()) else {
        let _ = resource;
        return Err(Status::bad_request(
            "token is required for TokenReview in authentication",
        ));
    };
    let mut audiences: Vec<String> = spec["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if audiences.is_empty() {
        audiences.push(token::ISSUER.to_owned());
    }
    Ok(match token::authenticate(api, token, &audiences) {
        Ok((user, audiences)) => {
            json!({ "authenticated": true, "user": user.info(), "audiences": audiences })
        }
        Err(why) => json!({ "user": {}, "error": why }),
    })
}
