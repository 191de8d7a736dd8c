//! The roots of the mesh.

use std::fmt;

use mesh_api::v1;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, TrustAnchor};

/// The roots of one trust domain; old and new ones overlap while a root is being rotated. Never empty.
#[derive(Clone)]
pub struct TrustBundle {
    domain: String,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

/// Bytes that are no roots to trust.
#[derive(Debug, thiserror::Error)]
pub enum TrustBundleError {
    /// Nobody could be trusted.
    #[error("the trust bundle has no certificate")]
    Empty,
    /// Not PEM.
    #[error("the trust bundle is not PEM: {0}")]
    Pem(#[from] pem::Error),
    /// Not a certificate.
    #[error("certificate {index} of the trust bundle can't be used: {source}")]
    Certificate {
        /// Which one, from 0.
        index: usize,
        /// Why.
        source: webpki::Error,
    },
}

impl TrustBundle {
    /// The roots, DER.
    ///
    /// # Errors
    /// None, or one that is no certificate.
    pub fn new(
        domain: impl Into<String>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, TrustBundleError> {
        let anchors = roots.iter().enumerate().map(|(index, root)| {
            webpki::anchor_from_trusted_cert(root)
                .map(|anchor| anchor.to_owned())
                .map_err(|source| TrustBundleError::Certificate { index, source })
        });
        let anchors = anchors.collect::<Result<Vec<_>, _>>()?;
        if anchors.is_empty() {
            return Err(TrustBundleError::Empty);
        }
        Ok(Self {
            domain: domain.into(),
            roots,
            anchors,
        })
    }

    /// As it comes over the wire.
    ///
    /// # Errors
    /// As [`TrustBundle::new`].
    pub fn from_wire(bundle: v1::TrustBundle) -> Result<Self, TrustBundleError> {
        let roots = bundle.roots.into_iter().map(CertificateDer::from).collect();
        Self::new(bundle.trust_domain, roots)
    }

    /// As it comes from a file.
    ///
    /// # Errors
    /// As [`TrustBundle::new`].
    pub fn from_pem(domain: impl Into<String>, text: &[u8]) -> Result<Self, TrustBundleError> {
        let roots = CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>()?;
        Self::new(domain, roots)
    }

    /// The roots of both, in this one's domain.
    pub fn union(mut self, other: &Self) -> Self {
        for (root, anchor) in other.roots.iter().zip(&other.anchors) {
            if !self.roots.contains(root) {
                self.roots.push(root.clone());
                self.anchors.push(anchor.clone());
            }
        }
        self
    }

    /// To be sent or stored.
    pub fn to_wire(&self) -> v1::TrustBundle {
        v1::TrustBundle {
            trust_domain: self.domain.clone(),
            roots: self.roots.iter().map(|root| root.to_vec()).collect(),
        }
    }

    /// For example "cluster.local".
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The certificates, DER.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// SHA-256 of each root, in hexadecimal: what `openssl x509 -fingerprint -sha256` prints, less the colons.
    pub fn fingerprints(&self) -> Vec<String> {
        // Invariant: the name of the suite says that it has SHA-256.
        let Some(suite) = TLS13_AES_128_GCM_SHA256.tls13() else {
            return Vec::new();
        };
        let sha256 = suite.common.hash_provider;
        let digests = self.roots.iter().map(|root| sha256.hash(root));
        digests
            .map(|digest| {
                digest
                    .as_ref()
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect()
            })
            .collect()
    }

    pub(super) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "TrustBundle({}, {} roots)",
            self.domain,
            self.roots.len()
        )
    }
}
