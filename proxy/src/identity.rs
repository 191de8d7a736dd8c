//! Who this proxy is: a key made here, a certificate from the controller, renewed in good time.
//!
//! In comes the pod's token, out go credentials and the trust bundle into [`Tls`]. The key never leaves this
//! process, but for the cache in the state folder, and each renewal has a new one. When the controller can't
//! be reached, the current certificate serves on until it is over.

mod schedule;

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_api::v1::identity_client::IdentityClient;
use mesh_api::v1::{CertifyRequest, CertifyResponse};
use prost::Message;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use schedule::Schedule;

use crate::config::Controller;
use crate::control::{self, Complaints, backoff, explain};
use crate::state_dir::StateDir;
use crate::tls::{Credentials, CredentialsError, Tls, TrustBundle, TrustBundleError};

/// The cache's file in the state folder.
const FILE: &str = "identity";
/// The controller signs at once, or has a problem.
const CERTIFY_TIMEOUT: Duration = Duration::from_secs(5);
/// Between looks at the clock: a machine that was suspended finds its timers late.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// No certificate.
#[derive(Debug, thiserror::Error)]
enum IdentityError {
    #[error("the token {file} can't be read: {source}")]
    Token { file: String, source: io::Error },
    #[error("the key or the request for a certificate can't be made: {0}")]
    Request(#[from] rcgen::Error),
    #[error("the controller gave no certificate: {}", explain(.0))]
    Certify(#[from] tonic::Status),
    #[error("the controller gave no certificate within {} s", CERTIFY_TIMEOUT.as_secs())]
    Timeout,
    #[error("the controller's answer can't be used: {0}")]
    Credentials(#[from] CredentialsError),
    #[error("the controller's answer can't be used: {0}")]
    Bundle(#[from] TrustBundleError),
    #[error("the controller's answer has no trust bundle")]
    NoBundle,
}

/// Keeps [`Tls`] supplied with credentials.
pub struct Identity {
    controller: Arc<Controller>,
    mark: Option<u32>,
    tls: Tls,
    state: Option<StateDir>,
}

/// A certificate as it was issued, and as it is cached.
#[derive(Clone, PartialEq, Message)]
struct Issued {
    /// PKCS#8, DER.
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    response: Option<CertifyResponse>,
    /// When it arrived, by this machine's clock; seconds since the Unix epoch.
    #[prost(uint64, tag = "3")]
    at: u64,
}

impl Identity {
    /// `state`: where credentials outlive a restart.
    pub fn new(
        controller: Arc<Controller>,
        mark: Option<u32>,
        tls: Tls,
        state: Option<StateDir>,
    ) -> Self {
        Self {
            controller,
            mark,
            tls,
            state,
        }
    }

    /// Gets and renews certificates for ever. Starts with the cached one, if it is still valid.
    pub async fn run(self) {
        let mut schedule = self.restore();
        let (mut failures, mut rng) = (0, fastrand::Rng::new());
        let mut complaints = Complaints::default();
        loop {
            if let Some(schedule) = &schedule {
                sleep_until(schedule.renew_at()).await;
            }
            match self.renew().await {
                Ok(renewed) => {
                    schedule = Some(renewed);
                    failures = 0;
                    complaints.settle();
                }
                Err(error) => {
                    let longest = Schedule::longest_pause(schedule.as_ref(), SystemTime::now());
                    let pause = backoff(longest).delay(failures, &mut rng);
                    failures += 1;
                    complaints.complain("no new certificate", &error.to_string(), pause);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn renew(&self) -> Result<Schedule, IdentityError> {
        let issued = self.certify().await?;
        let (credentials, bundle, schedule) = self.read(&issued)?;
        // The bundle first: the new certificate may be of a new root.
        self.tls.set_bundle(bundle);
        self.tls.set_credentials(credentials);
        tracing::info!(
            identity = %self.tls.identity().map(|id| id.to_string()).unwrap_or_default(),
            valid_for = ?schedule.life(),
            "new certificate"
        );
        if let Some(state) = &self.state
            && let Err(error) = state.write(FILE, &issued.encode_to_vec())
        {
            tracing::warn!(%error, "the certificate can't be cached: a restart will need the controller");
        }
        Ok(schedule)
    }

    async fn certify(&self) -> Result<Issued, IdentityError> {
        let token_file = &self.controller.token_file;
        // Small and in memory (a projected volume): a thread to read it in takes longer than to read it.
        let token = std::fs::read_to_string(token_file).map_err(|source| IdentityError::Token {
            file: token_file.display().to_string(),
            source,
        })?;
        // ECDSA P-256: rcgen's default.
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        // The token decides the identity; the request carries nothing but the key.
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key)?;
        let request = CertifyRequest {
            token: token.trim().to_owned(),
            csr: csr.der().to_vec(),
        };
        // A channel of its own: it must not show a certificate that is over, nor wait for others.
        let channel = control::channel(&self.controller, self.mark, &self.tls);
        let mut client = IdentityClient::new(channel);
        let response = tokio::time::timeout(CERTIFY_TIMEOUT, client.certify(request))
            .await
            .map_err(|_| IdentityError::Timeout)??
            .into_inner();
        Ok(Issued {
            key: key.serialize_der(),
            response: Some(response),
            at: seconds(SystemTime::now()),
        })
    }

    fn read(&self, issued: &Issued) -> Result<(Credentials, TrustBundle, Schedule), IdentityError> {
        let response = issued.response.clone().unwrap_or_default();
        let bundle = TrustBundle::from_wire(response.bundle.ok_or(IdentityError::NoBundle)?)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(issued.key.as_slice()));
        let chain = response.chain.into_iter().map(Into::into).collect();
        let validity = (response.not_before, response.not_after);
        let credentials = Credentials::new(
            chain,
            &key,
            self.controller.identity.trust_domain(),
            validity,
        )?;
        let issued_at = UNIX_EPOCH + Duration::from_secs(issued.at);
        let schedule = Schedule::new(issued_at, credentials.not_after(), fastrand::f64());
        Ok((credentials, bundle, schedule))
    }

    fn restore(&self) -> Option<Schedule> {
        let content = match self.state.as_ref()?.read(FILE) {
            Ok(content) => content?,
            Err(error) => {
                tracing::warn!(%error, "the cached certificate can't be read");
                return None;
            }
        };
        let issued = match Issued::decode(content.as_slice()) {
            Ok(issued) => issued,
            Err(error) => {
                tracing::warn!(%error, "the cached certificate can't be read");
                return None;
            }
        };
        if issued.response.as_ref()?.not_after <= seconds(SystemTime::now()) {
            tracing::info!("the cached certificate is over");
            return None;
        }
        match self.read(&issued) {
            Ok((credentials, bundle, schedule)) => {
                // Discovery's cache may have a later one.
                if self.tls.bundle().is_none() {
                    self.tls.set_bundle(bundle);
                }
                self.tls.set_credentials(credentials);
                tracing::info!("starting with the cached certificate");
                Some(schedule)
            }
            Err(error) => {
                tracing::warn!(%error, "the cached certificate can't be used");
                None
            }
        }
    }
}

async fn sleep_until(time: SystemTime) {
    while let Ok(left) = time.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests;
