//! A certificate chain and its key.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh_api::SpiffeId;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::{TlsError, verify};

/// Who this proxy is: a chain, the leaf first, its key, and how long it is valid.
pub struct Credentials {
    certified: Arc<SingleCertAndKey>,
    identity: SpiffeId,
    not_before: SystemTime,
    not_after: SystemTime,
    chain: Vec<CertificateDer<'static>>,
}

/// A chain and a key that can't be used together.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// No certificate.
    #[error("the certificate chain is empty")]
    Empty,
    /// The key is of no known kind, or belongs to another certificate.
    #[error("the key does not fit the certificate: {0}")]
    Key(rustls::Error),
    /// The leaf does not say who it is for.
    #[error("the issued certificate can't be used: {0}")]
    Identity(TlsError),
    /// The end is before the start.
    #[error("the certificate is never valid: from {not_before} to {not_after}, seconds since 1970")]
    Validity {
        /// Seconds since the Unix epoch.
        not_before: u64,
        /// Seconds since the Unix epoch.
        not_after: u64,
    },
}

impl Credentials {
    /// `not_before` and `not_after` are in seconds since the Unix epoch.
    ///
    /// # Errors
    /// The parts don't fit together.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'_>,
        domain: &str,
        (not_before, not_after): (u64, u64),
    ) -> Result<Self, CredentialsError> {
        let leaf = chain.first().ok_or(CredentialsError::Empty)?;
        let identity = verify::identity(leaf, domain).map_err(CredentialsError::Identity)?;
        let time = |seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let (Some(start), Some(end)) = (time(not_before), time(not_after)) else {
            return Err(CredentialsError::Validity {
                not_before,
                not_after,
            });
        };
        if not_after <= not_before {
            return Err(CredentialsError::Validity {
                not_before,
                not_after,
            });
        }
        let signing = any_supported_type(key).map_err(CredentialsError::Key)?;
        let certified = CertifiedKey::new(chain.clone(), signing);
        certified.keys_match().map_err(CredentialsError::Key)?;
        Ok(Self {
            certified: Arc::new(SingleCertAndKey::from(certified)),
            identity,
            not_before: start,
            not_after: end,
            chain,
        })
    }

    /// Who the certificate is for.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// The leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Start of validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether its end has not come.
    pub fn is_valid_now(&self) -> bool {
        SystemTime::now() < self.not_after
    }

    pub(super) fn resolver(&self) -> Arc<SingleCertAndKey> {
        self.certified.clone()
    }
}

/// Without the key.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.identity)
            .field("not_after", &self.not_after)
            .field("chain", &self.chain.len())
            .finish_non_exhaustive()
    }
}
