//! Mutual TLS between proxies: in comes a connection, out comes an encrypted one and who is at its other end.
//!
//! TLS 1.3 only, both sides with certificates, no server name, no resumption. Who a peer is stands in its
//! certificate's one URI name, a SPIFFE id; the chain must lead to a root of the current trust bundle.
//! What can fail is a [`TlsError`], which names the certificate's problem.

mod credentials;
mod error;
mod trust;
mod verify;

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
pub use credentials::{Credentials, CredentialsError};
pub use error::TlsError;
use mesh_api::{SpiffeId, names};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{IpAddr, Ipv4Addr, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
pub use tokio_rustls::client::TlsStream as ClientTls;
pub use tokio_rustls::server::TlsStream as ServerTls;
use tokio_rustls::{TlsAcceptor, TlsConnector};
pub use trust::{TrustBundle, TrustBundleError};

/// How long a handshake may take, from its first byte to its last.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// This proxy's side of every mutual TLS connection. Cheap to clone; renewed credentials and trust bundles
/// apply to new connections at once and leave existing ones alone.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
}

struct Shared {
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Current>,
    /// Held while `current` is being replaced, so that no replacement is lost.
    replacing: Mutex<()>,
    replaced: watch::Sender<()>,
}

/// What new connections use.
#[derive(Clone, Default)]
struct Current {
    credentials: Option<Arc<Credentials>>,
    bundle: Option<Arc<TrustBundle>>,
    /// There once both of the above are.
    server: Option<Arc<ServerConfig>>,
}

/// What is inside of a connection between two proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/1.x.
    Http1,
    /// HTTP/2.
    Http2,
    /// Opaque bytes.
    Tcp,
}

/// An accepted connection whose peer is verified.
#[derive(Debug)]
pub struct Accepted<IO> {
    /// The decrypted stream.
    pub stream: ServerTls<IO>,
    /// Who called.
    pub peer: SpiffeId,
    /// What is inside.
    pub alpn: Alpn,
}

impl Tls {
    /// Without credentials: no connection can be secured until they arrive.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                provider: Arc::new(provider()),
                current: ArcSwap::default(),
                replacing: Mutex::default(),
                replaced: watch::Sender::default(),
            }),
        }
    }

    /// Secures a connection to `peer` and makes sure that it is `peer`.
    ///
    /// # Errors
    /// The peer is not who discovery named, its certificate is not valid, or the handshake failed.
    pub async fn connect<IO>(
        &self,
        io: IO,
        peer: &SpiffeId,
        alpn: Alpn,
    ) -> Result<ClientTls<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let current = self.shared.current.load_full();
        let (Some(credentials), Some(bundle)) = (&current.credentials, &current.bundle) else {
            return Err(TlsError::NotReady);
        };
        if !credentials.is_valid_now() {
            return Err(TlsError::NotReady);
        }
        let config =
            self.client_config(Some(credentials.clone()), bundle.clone(), peer, alpn.wire())?;
        let stream = handshake(config, io).await?;
        match stream.get_ref().1.alpn_protocol() {
            Some(protocol) if protocol == alpn.wire() => Ok(stream),
            _ => Err(TlsError::Alpn),
        }
    }

    /// Secures a connection that a proxy opened to this pod.
    ///
    /// # Errors
    /// The peer has no valid certificate of this mesh, or the handshake failed.
    pub async fn accept<IO>(&self, io: IO) -> Result<Accepted<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let current = self.shared.current.load_full();
        let (Some(server), Some(bundle)) = (&current.server, &current.bundle) else {
            return Err(TlsError::NotReady);
        };
        let stream = in_time(
            HANDSHAKE_TIMEOUT,
            TlsAcceptor::from(server.clone()).accept(io),
        )
        .await?;
        let session = stream.get_ref().1;
        let alpn = session
            .alpn_protocol()
            .and_then(Alpn::from_wire)
            .ok_or(TlsError::Alpn)?;
        let leaf = session
            .peer_certificates()
            .and_then(<[_]>::first)
            .ok_or(TlsError::NoCertificate)?;
        let peer = verify::identity(leaf, bundle.domain())?;
        Ok(Accepted { stream, peer, alpn })
    }

    /// Secures an HTTP/2 connection to the controller, `peer`, known by the roots of `bundle`. Shows this
    /// proxy's certificate when there is a valid one.
    ///
    /// # Errors
    /// As [`Tls::connect`], but this proxy needs no certificate.
    pub async fn connect_controller<IO>(
        &self,
        io: IO,
        peer: &SpiffeId,
        bundle: TrustBundle,
    ) -> Result<ClientTls<IO>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let credentials = self
            .credentials()
            .filter(|credentials| credentials.is_valid_now());
        handshake(
            self.client_config(credentials, Arc::new(bundle), peer, b"h2")?,
            io,
        )
        .await
    }

    /// Who this proxy is; None until it has a certificate.
    pub fn identity(&self) -> Option<SpiffeId> {
        let current = self.shared.current.load();
        current
            .credentials
            .as_ref()
            .map(|credentials| credentials.identity().clone())
    }

    /// Whether there is a certificate that is valid now.
    pub fn ready(&self) -> bool {
        let current = self.shared.current.load();
        current.server.is_some()
            && current
                .credentials
                .as_ref()
                .is_some_and(|credentials| credentials.is_valid_now())
    }

    /// Returns once [`Tls::ready`].
    pub async fn until_ready(&self) {
        let mut replaced = self.shared.replaced.subscribe();
        // The sender lives as long as this value: an error can't happen.
        while !self.ready() && replaced.changed().await.is_ok() {}
    }

    /// The current certificate and key.
    pub fn credentials(&self) -> Option<Arc<Credentials>> {
        self.shared.current.load().credentials.clone()
    }

    /// The current roots.
    pub fn bundle(&self) -> Option<Arc<TrustBundle>> {
        self.shared.current.load().bundle.clone()
    }

    /// New connections use these credentials from now on.
    pub fn set_credentials(&self, credentials: Credentials) {
        self.replace(|current| current.credentials = Some(Arc::new(credentials)));
    }

    /// New connections trust these roots from now on.
    pub fn set_bundle(&self, bundle: TrustBundle) {
        self.replace(|current| current.bundle = Some(Arc::new(bundle)));
    }

    fn replace(&self, change: impl FnOnce(&mut Current)) {
        let shared = &self.shared;
        let _replacing = shared
            .replacing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut next = Current::clone(&shared.current.load());
        change(&mut next);
        if let (Some(credentials), Some(bundle)) = (&next.credentials, &next.bundle) {
            next.server = Some(Arc::new(server_config(
                &shared.provider,
                credentials,
                bundle,
            )));
        }
        shared.current.store(Arc::new(next));
        shared.replaced.send_replace(());
    }

    fn client_config(
        &self,
        credentials: Option<Arc<Credentials>>,
        bundle: Arc<TrustBundle>,
        peer: &SpiffeId,
        alpn: &[u8],
    ) -> Result<ClientConfig, TlsError> {
        let verifier = verify::Server::new(&self.shared.provider, bundle, peer.clone());
        let builder = ClientConfig::builder_with_provider(self.shared.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Protocol)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match credentials {
            Some(credentials) => builder.with_client_cert_resolver(credentials.resolver()),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        config.enable_sni = false;
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("identity", &self.identity())
            .finish_non_exhaustive()
    }
}

impl Alpn {
    /// As it stands on the wire.
    pub const fn wire(self) -> &'static [u8] {
        match self {
            Self::Http1 => names::ALPN_HTTP1,
            Self::Http2 => names::ALPN_HTTP2,
            Self::Tcp => names::ALPN_TCP,
        }
    }

    /// None if it is not one of the mesh's.
    pub fn from_wire(protocol: &[u8]) -> Option<Self> {
        [Self::Http1, Self::Http2, Self::Tcp]
            .into_iter()
            .find(|alpn| alpn.wire() == protocol)
    }
}

/// aws-lc-rs with TLS 1.3's suites, the cheapest on hardware with AES instructions first, and the hybrid
/// post-quantum key exchange first (draft-ietf-tls-ecdhe-mlkem).
fn provider() -> CryptoProvider {
    use aws_lc_rs::{cipher_suite, kx_group};
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    }
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    credentials: &Credentials,
    bundle: &Arc<TrustBundle>,
) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        // Invariant: `provider()` has suites of TLS 1.3, the only thing this checks.
        .expect("a provider for TLS 1.3")
        .with_client_cert_verifier(Arc::new(verify::Client::new(provider, bundle.clone())))
        .with_cert_resolver(credentials.resolver());
    config.alpn_protocols = [Alpn::Http1, Alpn::Http2, Alpn::Tcp]
        .map(|alpn| alpn.wire().to_vec())
        .to_vec();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

async fn handshake<IO>(config: ClientConfig, io: IO) -> Result<ClientTls<IO>, TlsError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    // Never sent, never looked at: our verifier compares SPIFFE ids.
    let nobody = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])));
    in_time(
        HANDSHAKE_TIMEOUT,
        TlsConnector::from(Arc::new(config)).connect(nobody, io),
    )
    .await
}

async fn in_time<T>(
    limit: Duration,
    handshake: impl Future<Output = io::Result<T>>,
) -> Result<T, TlsError> {
    match tokio::time::timeout(limit, handshake).await {
        Ok(result) => result.map_err(TlsError::from),
        Err(_) => Err(TlsError::Timeout(limit)),
    }
}

#[cfg(test)]
pub(crate) mod tests;
