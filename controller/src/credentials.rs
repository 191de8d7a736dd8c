//! The controller's own certificates, renewed long before they expire: one for proxies, one for the API server.

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

use crate::ca::{Authority, Leaf};

/// How often a renewal that has failed is tried again, and the clock is looked at.
const LOOK: Duration = Duration::from_secs(60);

/// The TLS side of a port: certificate and trust anchors together.
pub(crate) struct Credentials {
    authority: Arc<Authority>,
    server: Server,
    config: watch::Sender<Arc<ServerConfig>>,
    renew_at: SystemTime,
}

/// Whose certificate it is.
enum Server {
    /// For proxies, which know the controller by its identity and show their own.
    Controller(SpiffeId),
    /// For the API server, which knows the webhook by these names and shows nothing.
    Webhook(Vec<String>),
}

impl Credentials {
    /// For the port of proxies.
    pub(crate) fn for_proxies(authority: Arc<Authority>) -> anyhow::Result<Self> {
        let id = SpiffeId::new(
            authority.trust_domain(),
            names::SYSTEM_NAMESPACE,
            names::CONTROLLER_SERVICE_ACCOUNT,
        );
        let id = id.context("--trust-domain")?;
        Self::new(authority, Server::Controller(id))
    }

    /// For the port of the webhook, which is a Service in `namespace`.
    pub(crate) fn for_webhook(
        authority: Arc<Authority>,
        namespace: &str,
        cluster_domain: &str,
    ) -> anyhow::Result<Self> {
        let name = format!("{}.{namespace}.svc", names::WEBHOOK);
        let hosts = vec![format!("{name}.{cluster_domain}"), name];
        Self::new(authority, Server::Webhook(hosts))
    }

    fn new(authority: Arc<Authority>, server: Server) -> anyhow::Result<Self> {
        let (config, renew_at) = issue(&authority, &server)?;
        Ok(Self {
            authority,
            server,
            config: watch::Sender::new(config),
            renew_at,
        })
    }

    pub(crate) fn config(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.config.subscribe()
    }

    /// Renews the certificate, for ever. What fails is tried again: it is renewed at 70 % of its life, which
    /// leaves the time for it.
    pub(crate) async fn keep(mut self) {
        let mut bundle = self.authority.bundle();
        bundle.mark_unchanged();
        loop {
            let until = self.renew_at.duration_since(SystemTime::now());
            let until = until.unwrap_or_default();
            tokio::select! {
                () = tokio::time::sleep(until.clamp(Duration::from_millis(500), LOOK)) => {}
                // Clients are verified against the anchors in the configuration.
                _ = bundle.changed() => self.renew_at = UNIX_EPOCH,
            }
            if SystemTime::now() < self.renew_at {
                continue;
            }
            bundle.mark_unchanged();
            match issue(&self.authority, &self.server) {
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

fn issue(
    authority: &Authority,
    server: &Server,
) -> anyhow::Result<(Arc<ServerConfig>, SystemTime)> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let now = SystemTime::now();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let (leaf, builder, protocols): (Leaf, _, &[&[u8]]) = match server {
        Server::Controller(id) => {
            let mut roots = RootCertStore::empty();
            for root in &authority.bundle().borrow().roots {
                roots.add(root.clone())?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()?;
            let builder = builder.with_client_cert_verifier(verifier);
            (authority.issue(id, &key, now)?, builder, &[b"h2"])
        }
        Server::Webhook(hosts) => {
            let leaf = authority.issue_server(hosts, &key, now)?;
            (leaf, builder.with_no_client_auth(), &[b"h2", b"http/1.1"])
        }
    };
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let mut config = builder.with_single_cert(vec![leaf.certificate], key)?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    // Nobody resumes: clients keep one connection.
    config.send_tls13_tickets = 0;
    let life = Duration::from_secs(leaf.not_after.saturating_sub(leaf.not_before));
    let renew_at = UNIX_EPOCH + Duration::from_secs(leaf.not_before) + life.mul_f64(0.7);
    Ok((Arc::new(config), renew_at))
}
