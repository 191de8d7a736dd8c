//! Whose a token is: asked of the API server each time, so that a pod that is gone gets no new certificate.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use mesh_api::names;

use crate::source::{Caller, ReviewError};

/// A proxy asks again; it shall not have given up before it hears why.
const TIMEOUT: Duration = Duration::from_secs(5);
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
/// Set by the API server for tokens that are bound to a pod.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// Asks the API server.
///
/// # Errors
/// See [`ReviewError`].
pub(super) async fn review(client: &Client, token: &str) -> Result<Caller, ReviewError> {
    if token.is_empty() {
        // The API server would call the request bad, which is no different from being down.
        return Err(ReviewError::Invalid);
    }
    let review = TokenReview {
        spec: TokenReviewSpec {
            token: token.to_owned(),
            audiences: Some(vec![names::TOKEN_AUDIENCE.to_owned()]),
        },
        ..TokenReview::default()
    };
    let reviews: Api<TokenReview> = Api::all(client.clone());
    let params = PostParams::default();
    let answer = tokio::time::timeout(TIMEOUT, reviews.create(&params, &review)).await;
    let answer = match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            return Err(ReviewError::Unavailable(format!(
                "the API server does not review tokens: {error}"
            )));
        }
        Err(_) => {
            return Err(ReviewError::Unavailable(format!(
                "the API server did not review it within {TIMEOUT:?}"
            )));
        }
    };
    caller(answer.status.unwrap_or_default()).map_err(|reason| {
        tracing::info!(reason, "a token was refused");
        ReviewError::Invalid
    })
}

/// Whose token the answer is about; else why it is nobody's.
fn caller(status: TokenReviewStatus) -> Result<Caller, String> {
    if status.authenticated != Some(true) {
        return Err(status.error.unwrap_or_else(|| "not authenticated".into()));
    }
    // An API server that knows nothing of audiences answers without them, for any token of its own.
    let audiences = status.audiences.unwrap_or_default();
    if !audiences.iter().any(|it| it == names::TOKEN_AUDIENCE) {
        return Err(format!("its audiences are {audiences:?}"));
    }
    let user = status.user.unwrap_or_default();
    let username = user.username.unwrap_or_default();
    let account = username.strip_prefix(SERVICE_ACCOUNT);
    let Some((namespace, service_account)) = account.and_then(|account| account.split_once(':'))
    else {
        return Err(format!("{username:?} is not a service account"));
    };
    let pod = user
        .extra
        .and_then(|mut extra| extra.remove(POD_NAME)?.into_iter().next());
    let Some(pod) = pod else {
        return Err(format!("the token of {username} is not bound to a pod"));
    };
    Ok(Caller {
        namespace: namespace.into(),
        service_account: service_account.into(),
        pod,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn answer(change: impl FnOnce(&mut Value)) -> Result<Caller, String> {
        let mut status = json!({
            "authenticated": true,
            "audiences": ["identity.mesh.internal"],
            "user": {
                "username": "system:serviceaccount:shop:web",
                "extra": {"authentication.kubernetes.io/pod-name": ["web-1"]},
            },
        });
        change(&mut status);
        caller(serde_json::from_value(status).unwrap())
    }

    #[test]
    fn only_pods_with_our_audience_are_callers() {
        let web = answer(|_| {}).unwrap();
        assert_eq!(
            (&*web.namespace, &*web.service_account, &*web.pod),
            ("shop", "web", "web-1")
        );
        assert!(answer(|status| status["authenticated"] = false.into()).is_err());
        assert!(answer(|status| status["audiences"] = Value::Null).is_err());
        assert!(answer(|status| status["audiences"] = json!(["https://kubernetes"])).is_err());
        for user in ["admin", "system:node:n", "system:serviceaccount:shop"] {
            let reason = answer(|status| status["user"]["username"] = user.into()).unwrap_err();
            assert!(reason.contains("not a service account"), "{reason}");
        }
        let unbound = answer(|status| status["user"]["extra"] = json!({})).unwrap_err();
        assert!(unbound.contains("not bound to a pod"), "{unbound}");
    }
}
