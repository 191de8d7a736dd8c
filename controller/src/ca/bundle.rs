//! The roots as others see them.

use std::path::Path;

use mesh_api::v1;
use rustls_pki_types::CertificateDer;

use super::{
    CaError,
    root::RootKey,
    store::{PUBLIC, replace},
};

/// What peers are verified against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The trust domain that the roots are good for.
    pub trust_domain: String,
    /// Trust anchors.
    pub roots: Vec<CertificateDer<'static>>,
    /// The same, as a file holds them.
    pub pem: String,
}

impl Bundle {
    pub(super) fn new(trust_domain: &str, roots: &[RootKey]) -> Self {
        Self {
            trust_domain: trust_domain.into(),
            roots: roots
                .iter()
                .map(|root| root.material.certificate.clone())
                .collect(),
            pem: roots
                .iter()
                .map(|root| root.material.certificate_pem.as_str())
                .collect(),
        }
    }

    /// As it travels.
    pub fn wire(&self) -> v1::TrustBundle {
        v1::TrustBundle {
            trust_domain: self.trust_domain.clone(),
            roots: self.roots.iter().map(|root| root.to_vec()).collect(),
        }
    }

    /// Writes the roots as PEM, atomically.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(&self, path: &Path) -> Result<(), CaError> {
        let disk = |source| CaError::Disk {
            path: path.to_owned(),
            source,
        };
        replace(path, self.pem.as_bytes(), PUBLIC).map_err(disk)
    }
}
