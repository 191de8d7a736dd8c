//! The Identity service: a token and a signing request in, a certificate out.

use std::{sync::Arc, time::SystemTime};

use mesh_api::{
    SpiffeId,
    v1::{CertifyRequest, CertifyResponse, identity_server::Identity},
};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use tonic::{Request, Response, Status};

use crate::{
    ca::{self, Authority},
    source::{ReviewError, Source},
};

/// Certifies proxies whose token the source vouches for.
pub(crate) struct IdentityService<S> {
    source: Arc<S>,
    authority: Arc<Authority>,
    issued: Counter,
    refused: Counter,
}

impl<S> IdentityService<S> {
    pub(crate) fn new(source: Arc<S>, authority: Arc<Authority>, registry: &mut Registry) -> Self {
        let (issued, refused) = (Counter::default(), Counter::default());
        registry.register(
            "certificates_issued",
            "Certificates issued to proxies",
            issued.clone(),
        );
        registry.register(
            "certificates_refused",
            "Requests for a certificate that were refused",
            refused.clone(),
        );
        Self {
            source,
            authority,
            issued,
            refused,
        }
    }
}

impl<S: Source> IdentityService<S> {
    async fn issue(&self, request: CertifyRequest) -> Result<CertifyResponse, Status> {
        let caller = self
            .source
            .review(&request.token)
            .await
            .map_err(|error| match error {
                ReviewError::Invalid => Status::unauthenticated(error.to_string()),
                ReviewError::Unavailable(_) => Status::unavailable(error.to_string()),
            })?;
        let id = SpiffeId::new(
            self.authority.trust_domain(),
            &caller.namespace,
            &caller.service_account,
        )
        .map_err(|error| Status::unauthenticated(error.to_string()))?;
        let key = ca::public_key(&request.csr)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let leaf = self
            .authority
            .issue(&id, &key, SystemTime::now())
            .map_err(|error| {
                tracing::error!(%id, %error, "issuing a certificate failed");
                Status::internal(error.to_string())
            })?;
        tracing::debug!(%id, pod = caller.pod, not_after = leaf.not_after, "certificate issued");
        let bundle = self.authority.bundle().borrow().wire();
        Ok(CertifyResponse {
            chain: vec![leaf.certificate.to_vec()],
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            bundle: Some(bundle),
        })
    }
}

#[tonic::async_trait]
impl<S: Source> Identity for IdentityService<S> {
    async fn certify(
        &self,
        request: Request<CertifyRequest>,
    ) -> Result<Response<CertifyResponse>, Status> {
        let result = self.issue(request.into_inner()).await;
        match &result {
            Ok(_) => self.issued.inc(),
            Err(status) => {
                tracing::warn!(code = ?status.code(), reason = status.message(), "certificate refused");
                self.refused.inc()
            }
        };
        result.map(Response::new)
    }
}
