//! Why the authority can't work.

use std::path::PathBuf;

/// The authority can't work.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Its file can't be read or written.
    #[error("keeping the certificate authority in {path:?} failed: {source}")]
    Disk {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The API server does not give or take its Secret.
    #[error("{doing} Secret {secret}, for the certificate authority, failed: {reason}")]
    Api {
        /// Reading, writing or watching.
        doing: &'static str,
        /// Namespace and name.
        secret: String,
        /// Why.
        reason: String,
    },
    /// Somebody else writes all the time.
    #[error("{place} is being changed by others all the time: it is tried again")]
    Contended {
        /// Where the roots are kept.
        place: String,
    },
    /// What is stored is not what was written.
    #[error(
        "{place} does not hold usable roots ({reason}): restore it, or remove it to start with a new root \
         that every proxy has to be given"
    )]
    Corrupt {
        /// Where the roots are kept.
        place: String,
        /// Why.
        reason: String,
    },
    /// Somebody else's root can't be used.
    #[error(
        "Secret {secret}, named by --ca-secret, can't be used ({reason}): it has to be of type \
         kubernetes.io/tls, with a certificate that may sign others as tls.crt and its key as tls.key"
    )]
    Provided {
        /// Namespace and name.
        secret: String,
        /// Why.
        reason: String,
    },
    /// The only roots were somebody else's, and their time is over.
    #[error(
        "no root can issue certificates: the one of --ca-secret has expired; put a new one into that Secret"
    )]
    NoIssuer,
    /// Making a key or signing failed.
    #[error("making a certificate failed: {0}")]
    Sign(#[from] rcgen::Error),
}
