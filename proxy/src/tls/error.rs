//! Why a connection could not be secured.

use std::io;
use std::time::Duration;

use mesh_api::SpiffeId;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError};

/// Why a connection could not be secured. The text names the certificate's problem.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsError {
    /// This proxy has no certificate, or the one it has is over.
    #[error("this proxy has no certificate that is valid now: is the controller reachable?")]
    NotReady,
    /// The peer is not who it should be.
    #[error("the peer is {found}, not {expected}")]
    WrongIdentity {
        /// Who discovery named.
        expected: SpiffeId,
        /// Who the certificate names.
        found: SpiffeId,
    },
    /// The certificate does not have one SPIFFE id of this trust domain as its only URI name.
    #[error("the peer's certificate names no workload of trust domain {domain}: it names {found}")]
    NoIdentity {
        /// This mesh's trust domain.
        domain: String,
        /// The URI names found.
        found: String,
    },
    /// The certificate is over.
    #[error("the peer's certificate expired {} s ago", .ago.as_secs())]
    Expired {
        /// For how long.
        ago: Duration,
    },
    /// The certificate's time has not come; the clocks disagree.
    #[error("the peer's certificate becomes valid in {} s: compare the clocks of the nodes", .until.as_secs())]
    NotYetValid {
        /// From when on.
        until: Duration,
    },
    /// The chain leads to none of the roots.
    #[error("the peer's certificate was issued by none of this mesh's roots")]
    ForeignIssuer,
    /// The certificate is not for this use, its signature is wrong, or it can't be read.
    #[error("the peer's certificate is not valid: {0}")]
    BadCertificate(CertificateError),
    /// The peer is no proxy of this mesh.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// The peer refused this proxy's certificate, or the connection.
    #[error("the peer refused the connection: {0:?}")]
    Refused(AlertDescription),
    /// The peer speaks TLS, but not what proxies speak inside of it.
    #[error("the peer speaks none of the mesh's protocols (ALPN)")]
    Alpn,
    /// The peer does not follow the protocol.
    #[error("the TLS handshake failed: {0}")]
    Protocol(rustls::Error),
    /// The peer did not answer.
    #[error("the TLS handshake took longer than {} s", .0.as_secs())]
    Timeout(Duration),
    /// The connection broke.
    #[error("the connection ended during the TLS handshake: {0}")]
    Io(io::ErrorKind),
}

impl From<io::Error> for TlsError {
    fn from(error: io::Error) -> Self {
        let kind = error.kind();
        match error.downcast::<rustls::Error>() {
            Ok(error) => error.into(),
            Err(_) => Self::Io(kind),
        }
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        use CertificateError::{ExpiredContext, NotValidYetContext, Other, UnknownIssuer};
        match error {
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)
            | rustls::Error::NoApplicationProtocol => Self::Alpn,
            rustls::Error::AlertReceived(alert) => Self::Refused(alert),
            rustls::Error::InvalidCertificate(problem) => match problem {
                ExpiredContext { time, not_after } => Self::Expired {
                    ago: between(not_after, time),
                },
                NotValidYetContext { time, not_before } => Self::NotYetValid {
                    until: between(time, not_before),
                },
                UnknownIssuer => Self::ForeignIssuer,
                // Our own verifiers' words come back as they went in.
                Other(other) => match other.0.downcast_ref::<Self>() {
                    Some(ours) => ours.clone(),
                    None => Self::BadCertificate(Other(other)),
                },
                problem => Self::BadCertificate(problem),
            },
            error => Self::Protocol(error),
        }
    }
}

fn between(earlier: UnixTime, later: UnixTime) -> Duration {
    Duration::from_secs(later.as_secs().saturating_sub(earlier.as_secs()))
}
