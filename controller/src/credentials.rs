//! The controller's own certificate, renewed long before it expires.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use mesh_api::{SpiffeId, names};
use rcgen::KeyPair;
use rustls::{RootCertStore, ServerConfig, crypto::aws_lc_rs, server::WebPkiClientVerifier};
use rustls_pki_types::PrivateKeyDer;
use tokio::sync::watch;

use crate::ca::{Authority, Bundle};

/// How often the rotation of roots is looked at, at most.
const ROTATION: Duration = Duration::from_secs(60);

/// The TLS side of the proxies' port: certificate and trust anchors together.
pub(crate) struct Credentials {
    authority: Arc<Authority>,
    id: SpiffeId,
    config: watch::Sender<Arc<ServerConfig>>,
    renew_at: SystemTime,
}

impl Credentials {
    pub(crate) fn new(authority: Arc<Authority>) -> anyhow::Result<Self> {
        let id = SpiffeId::new(
            authority.trust_domain(),
            names::SYSTEM_NAMESPACE,
            names::CONTROLLER_SERVICE_ACCOUNT,
        )
        .context("--trust-domain")?;
        let (config, renew_at) = issue(&authority, &id)?;
        Ok(Self {
            authority,
            id,
            config: watch::Sender::new(config),
            renew_at,
        })
    }

    pub(crate) fn config(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.config.subscribe()
    }

    /// Renews the certificate, rotates the roots, for ever. What fails is tried again: the certificate is
    /// renewed at 70 % of its life, which leaves the time for it.
    pub(crate) async fn keep(mut self) {
        let mut bundle = self.authority.bundle();
        bundle.mark_unchanged();
        loop {
            let now = SystemTime::now();
            let until = self.renew_at.duration_since(now).unwrap_or_default();
            tokio::select! {
                () = tokio::time::sleep(until.clamp(Duration::from_millis(500), ROTATION)) => {}
                // Clients are verified against the anchors in the configuration.
                _ = bundle.changed() => self.renew_at = UNIX_EPOCH,
            }
            if let Err(error) = self.authority.rotate(SystemTime::now()) {
                tracing::error!(%error, "rotating the roots failed; it is tried again");
            }
            if SystemTime::now() < self.renew_at && !bundle.has_changed().unwrap_or_default() {
                continue;
            }
            bundle.mark_unchanged();
            match issue(&self.authority, &self.id) {
                Ok((config, renew_at)) => {
                    self.config.send_replace(config);
                    self.renew_at = renew_at;
                }
                Err(error) => {
                    tracing::error!(%error, "renewing the controller's certificate failed; it is tried again")
                }
            }
        }
    }
}

fn issue(authority: &Authority, id: &SpiffeId) -> anyhow::Result<(Arc<ServerConfig>, SystemTime)> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let leaf = authority.issue(id, &key, SystemTime::now())?;
    let bundle: Arc<Bundle> = authority.bundle().borrow().clone();
    let mut roots = RootCertStore::empty();
    for root in &bundle.roots {
        roots.add(root.clone())?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![leaf.certificate], key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Nobody resumes: proxies keep one connection for their life.
    config.send_tls13_tickets = 0;
    let life = Duration::from_secs(leaf.not_after.saturating_sub(leaf.not_before));
    let renew_at = UNIX_EPOCH + Duration::from_secs(leaf.not_before) + life.mul_f64(0.7);
    Ok((Arc::new(config), renew_at))
}
