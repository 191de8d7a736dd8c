//! Who may be at the other end: the same checks for servers and clients, on the chain, its validity in
//! time, its purpose, and the SPIFFE id in the leaf.

use std::fmt;
use std::sync::Arc;

use mesh_api::SpiffeId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, SignatureScheme,
};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyUsage};

use super::{TlsError, TrustBundle};

/// Verifies that a server is one certain workload.
#[derive(Debug)]
pub(super) struct Server {
    chain: Chain,
    expected: SpiffeId,
}

/// Verifies that a client is any workload of the mesh.
#[derive(Debug)]
pub(super) struct Client {
    chain: Chain,
}

/// The workload that a certificate is for: its one URI name.
pub(super) fn identity(leaf: &CertificateDer<'_>, domain: &str) -> Result<SpiffeId, TlsError> {
    let leaf = EndEntityCert::try_from(leaf)
        .map_err(|_| TlsError::BadCertificate(CertificateError::BadEncoding))?;
    let names: Vec<&str> = leaf.valid_uri_names().collect();
    // X.509-SVID, section 2: exactly one URI SAN.
    if let [name] = names[..]
        && let Ok(id) = name.parse::<SpiffeId>()
        && id.trust_domain() == domain
    {
        return Ok(id);
    }
    let found = match names[..] {
        [] => "none".to_owned(),
        _ => names.join(", ").chars().take(200).collect(),
    };
    Err(TlsError::NoIdentity {
        domain: domain.to_owned(),
        found,
    })
}

impl Server {
    pub(super) fn new(
        provider: &CryptoProvider,
        bundle: Arc<TrustBundle>,
        expected: SpiffeId,
    ) -> Self {
        Self {
            chain: Chain::new(provider, bundle),
            expected,
        }
    }
}

impl Client {
    pub(super) fn new(provider: &CryptoProvider, bundle: Arc<TrustBundle>) -> Self {
        Self {
            chain: Chain::new(provider, bundle),
        }
    }
}

/// What the two traits ask in the same words: signatures are checked as rustls does it, and there is no TLS 1.2.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::PeerIncompatible(
                PeerIncompatible::Tls12NotOfferedOrEnabled,
            ))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, signature, &self.chain.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.chain.algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Server {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let found = self
            .chain
            .verify(leaf, intermediates, now, KeyUsage::server_auth())?;
        if found != self.expected {
            return Err(refused(TlsError::WrongIdentity {
                expected: self.expected.clone(),
                found,
            }));
        }
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

impl ClientCertVerifier for Client {
    /// Empty: every proxy has one certificate only, so that there is nothing to choose by.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.chain
            .verify(leaf, intermediates, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}

/// What both verifiers share.
struct Chain {
    bundle: Arc<TrustBundle>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Chain {
    fn new(provider: &CryptoProvider, bundle: Arc<TrustBundle>) -> Self {
        Self {
            bundle,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: impl ExtendedKeyUsageValidator,
    ) -> Result<SpiffeId, Error> {
        let certificate = EndEntityCert::try_from(leaf).map_err(invalid)?;
        certificate
            .verify_for_usage(
                self.algorithms.all,
                self.bundle.anchors(),
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .map_err(invalid)?;
        identity(leaf, self.bundle.domain()).map_err(refused)
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bundle.fmt(f)
    }
}

/// As rustls says it, so that the peer gets the alert that fits.
fn invalid(error: webpki::Error) -> Error {
    let problem = match error {
        webpki::Error::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::BadDer | webpki::Error::BadDerTime => CertificateError::BadEncoding,
        // A root of the same name and another key: signed by somebody else all the same.
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::UnknownIssuer,
        error => CertificateError::Other(OtherError(Arc::new(error))),
    };
    Error::InvalidCertificate(problem)
}

fn refused(error: TlsError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}
