//! The cluster itself.

use futures_util::future::try_join_all;
use http::Request;
use http_body_util::BodyExt;
use jiff::{Timestamp, fmt::rfc2822};
use k8s_openapi::{
    api::authorization::v1::{
        ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
    },
    apimachinery::pkg::{apis::meta::v1::APIGroup, version::Info},
};
use kube::{Api, api::PostParams, client::Body};
use mesh_api::names::SYSTEM_NAMESPACE;

use super::{
    super::facts::{self, Found, Right},
    Asked, sentence,
};
use crate::cluster::Cluster;

/// What `mesh install` renders: API group, resource, and whether it lives in a namespace.
const INSTALLED: [(&str, &str, bool); 12] = [
    ("", "namespaces", false),
    ("", "serviceaccounts", true),
    ("", "configmaps", true),
    ("", "secrets", true),
    ("", "services", true),
    ("apps", "deployments", true),
    ("policy", "poddisruptionbudgets", true),
    ("rbac.authorization.k8s.io", "roles", true),
    ("rbac.authorization.k8s.io", "rolebindings", true),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("rbac.authorization.k8s.io", "clusterrolebindings", false),
    (
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        false,
    ),
];

pub(super) async fn facts(cluster: &Cluster, asked: Asked<'_>) -> facts::Cluster {
    let version = version(cluster).await.map_err(sentence);
    let (rights, gateway_api) = match &version {
        // Everything else would fail in the same way.
        Err(cause) => (Err(cause.clone()), Err(cause.clone())),
        Ok(_) => tokio::join!(rights(cluster, asked), gateway_api(cluster)),
    };
    facts::Cluster {
        context: cluster.context().into(),
        version,
        rights,
        gateway_api,
    }
}

async fn version(cluster: &Cluster) -> anyhow::Result<(String, Option<Timestamp>)> {
    let request = Request::get("/version").body(Body::empty())?;
    let client = cluster.client();
    let answer = async {
        let response = client.send(request).await?;
        let clock = response.headers().get(http::header::DATE).cloned();
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            return Err(kube::Error::Api(Box::new(refusal(status, &body))));
        }
        let info: Info = serde_json::from_slice(&body).map_err(kube::Error::SerdeError)?;
        Ok((info, clock))
    };
    let (info, clock) = cluster.ask("ask for its version", answer).await?;
    let clock = clock.and_then(|date| {
        rfc2822::DateTimeParser::new()
            .parse_timestamp(date.as_bytes())
            .ok()
    });
    Ok((info.git_version, clock))
}

/// The API server answers with a Status; what stands before it may not.
fn refusal(status: http::StatusCode, body: &[u8]) -> kube::core::Status {
    serde_json::from_slice(body).unwrap_or_else(|_| kube::core::Status {
        code: status.as_u16(),
        message: format!("{status}"),
        ..kube::core::Status::default()
    })
}

async fn rights(cluster: &Cluster, asked: Asked<'_>) -> Found<Vec<Right>> {
    let mut wanted: Vec<(&str, &str, &str, &str, bool)> = Vec::new();
    if asked.pre {
        for (group, resource, namespaced) in INSTALLED {
            let namespace = if namespaced { SYSTEM_NAMESPACE } else { "" };
            wanted.push(("create", group, resource, namespace, true));
        }
    } else {
        wanted.push(("list", "", "pods", SYSTEM_NAMESPACE, true));
        wanted.push(("get", "", "pods/portforward", SYSTEM_NAMESPACE, true));
        wanted.push(("create", "", "pods/portforward", SYSTEM_NAMESPACE, true));
        if asked.proxy {
            let namespace = asked.namespace.unwrap_or_default();
            for resource in ["pods", "services", "configmaps"] {
                wanted.push(("list", "", resource, namespace, false));
            }
            if namespace.is_empty() {
                wanted.push(("list", "", "namespaces", "", false));
            }
        }
    }
    let asked = wanted.into_iter().map(|right| review(cluster, right));
    try_join_all(asked).await.map_err(sentence)
}

async fn review(
    cluster: &Cluster,
    (verb, group, resource, namespace, needed): (&str, &str, &str, &str, bool),
) -> anyhow::Result<Right> {
    let (name, subresource) = match resource.split_once('/') {
        Some((name, subresource)) => (name, Some(subresource.to_owned())),
        None => (resource, None),
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.into()),
                group: Some(group.into()),
                resource: Some(name.into()),
                subresource,
                namespace: Some(namespace.into()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client());
    let params = PostParams::default();
    let answer = cluster
        .ask("ask for your own rights", api.create(&params, &review))
        .await?;
    Ok(Right {
        verb: verb.into(),
        resource: resource.into(),
        namespace: namespace.into(),
        allowed: answer.status.is_some_and(|status| status.allowed),
        needed,
    })
}

async fn gateway_api(cluster: &Cluster) -> Found<Vec<String>> {
    let group = async {
        let request = Request::get("/apis/gateway.networking.k8s.io").body(Vec::new())?;
        let client = cluster.client();
        let answer = async {
            match client.request::<APIGroup>(request).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                answer => answer.map(Some),
            }
        };
        cluster.ask("ask for the Gateway API", answer).await
    };
    let versions = |group: APIGroup| group.versions.into_iter().map(|v| v.version).collect();
    group
        .await
        .map(|group| group.map(versions).unwrap_or_default())
        .map_err(sentence)
}
