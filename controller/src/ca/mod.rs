//! The mesh's own certificate authority.
//!
//! In: public keys with the identity that a checked token gives them. Out: leaves, and the trust bundle as it
//! changes. What can fail: its state on disk ([`CaError`]).
//!
//! Leaves are signed by the root itself. An intermediate protects a root whose key is kept offline; here the
//! controller holds both keys and rotates its roots by itself, so that an intermediate would only add its
//! certificate to every handshake between proxies.

mod csr;
pub mod rotation;
mod store;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mesh_api::{SpiffeId, v1};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::sync::watch;

pub use csr::{CsrError, public_key};
use rotation::{Policy, Root, Stage, Step};
use store::StoredRoot;

/// Certificates are valid from a little before they are made, for peers whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(60);

/// Issues certificates; keeps its roots in a folder.
pub struct Authority {
    trust_domain: String,
    leaf_lifetime: Duration,
    policy: Policy,
    file: PathBuf,
    roots: Mutex<Vec<RootKey>>,
    bundle: watch::Sender<Arc<Bundle>>,
}

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

/// A new leaf certificate.
pub struct Leaf {
    /// The certificate. It needs no intermediates.
    pub certificate: CertificateDer<'static>,
    /// Seconds since the Unix epoch.
    pub not_before: u64,
    /// Seconds since the Unix epoch.
    pub not_after: u64,
}

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
    /// Its file is not what it wrote.
    #[error(
        "{path:?} does not hold usable roots ({reason}): restore it, or remove it to start with a new root \
         that every proxy has to be given"
    )]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Making a key or signing failed.
    #[error("making a certificate failed: {0}")]
    Sign(#[from] rcgen::Error),
}

#[derive(Clone)]
struct RootKey {
    state: Root,
    material: Arc<Material>,
}

struct Material {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Opens the authority in `folder`, and makes its first root if there is none.
    ///
    /// # Errors
    /// The folder can't be used, or what is in it is damaged.
    pub fn open(
        folder: &Path,
        trust_domain: &str,
        leaf_lifetime: Duration,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let file = folder.join("ca.json");
        let disk = |source| CaError::Disk {
            path: file.clone(),
            source,
        };
        std::fs::create_dir_all(folder).map_err(disk)?;
        let stored = store::load(&file).map_err(disk)?;
        let roots = stored
            .into_iter()
            .map(RootKey::restore)
            .collect::<Result<Vec<_>, _>>();
        let roots = roots.map_err(|reason| CaError::Corrupt {
            path: file.clone(),
            reason,
        })?;
        let authority = Self {
            trust_domain: trust_domain.into(),
            leaf_lifetime,
            policy: Policy::for_leaves(leaf_lifetime),
            file,
            bundle: watch::Sender::new(Arc::new(bundle(trust_domain, &roots))),
            roots: Mutex::new(roots),
        };
        authority.rotate(now)?;
        Ok(authority)
    }

    /// Takes the steps of the rotation that are due. To be called every now and then.
    ///
    /// # Errors
    /// The state can't be written; nothing has changed then.
    pub fn rotate(&self, now: SystemTime) -> Result<(), CaError> {
        let mut current = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        // A copy: what could not be written to disk must not be used either.
        let mut roots = current.clone();
        let at = seconds(now);
        let mut changed = false;
        loop {
            let states: Vec<Root> = roots.iter().map(|root| root.state).collect();
            let Some(step) = rotation::next(&states, at, &self.policy) else {
                break;
            };
            tracing::info!(?step, "root rotation");
            match step {
                Step::Prepare(stage) => {
                    roots.push(RootKey::generate(
                        &self.trust_domain,
                        stage,
                        now,
                        &self.policy,
                    )?);
                }
                Step::Promote(promoted) => {
                    for root in roots
                        .iter_mut()
                        .filter(|root| root.state.stage == Stage::Issuing)
                    {
                        (root.state.stage, root.state.since) = (Stage::Retiring, at);
                    }
                    (roots[promoted].state.stage, roots[promoted].state.since) =
                        (Stage::Issuing, at);
                }
                Step::Drop(dropped) => {
                    roots.remove(dropped);
                }
            }
            changed = true;
        }
        if changed {
            let stored: Vec<StoredRoot> = roots.iter().map(RootKey::store).collect();
            store::save(&self.file, &stored).map_err(|source| CaError::Disk {
                path: self.file.clone(),
                source,
            })?;
            self.bundle
                .send_replace(Arc::new(bundle(&self.trust_domain, &roots)));
            *current = roots;
        }
        Ok(())
    }

    /// Issues a leaf for both sides of mutual TLS. Its only name is the identity.
    ///
    /// # Errors
    /// Signing failed.
    pub fn issue(
        &self,
        id: &SpiffeId,
        key: &impl PublicKeyData,
        now: SystemTime,
    ) -> Result<Leaf, CaError> {
        let roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        let issuing = roots.iter().find(|root| root.state.stage == Stage::Issuing);
        // Invariant: `rotate`, which `open` calls, leaves exactly one issuing root.
        let issuing = issuing.ok_or(rcgen::Error::CouldNotParseKeyPair)?;
        let backdate = BACKDATE.min(self.leaf_lifetime / 10).as_secs();
        let not_before = seconds(now).saturating_sub(backdate);
        let not_after = (seconds(now) + self.leaf_lifetime.as_secs()).min(issuing.state.not_after);

        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.not_before = time(not_before).into();
        params.not_after = time(not_after).into();
        let certificate = params.signed_by(key, &issuing.material.issuer)?;
        Ok(Leaf {
            certificate: certificate.der().clone(),
            not_before,
            not_after,
        })
    }

    /// The trust bundle now and as it changes.
    pub fn bundle(&self) -> watch::Receiver<Arc<Bundle>> {
        self.bundle.subscribe()
    }

    /// Identities are in this trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }
}

impl Bundle {
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
        store::replace(path, self.pem.as_bytes(), store::PUBLIC).map_err(disk)
    }
}

impl RootKey {
    fn generate(
        trust_domain: &str,
        stage: Stage,
        now: SystemTime,
        policy: &Policy,
    ) -> Result<Self, CaError> {
        let (since, not_after) = (seconds(now), seconds(now) + policy.root_lifetime.as_secs());
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // Distinct names, so that a verifier needs not try every root.
        params.distinguished_name.push(
            DnType::CommonName,
            format!("mesh root of {trust_domain}, {since}"),
        );
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = time(since.saturating_sub(BACKDATE.as_secs())).into();
        params.not_after = time(not_after).into();
        let certificate = params.self_signed(&key)?;
        let material = Material {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        };
        Ok(Self {
            state: Root {
                stage,
                since,
                not_after,
            },
            material: Arc::new(material),
        })
    }

    fn restore(stored: StoredRoot) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let certificate = CertificateDer::from_pem_slice(stored.certificate_pem.as_bytes())
            .map_err(|e| text(&e))?;
        let key = KeyPair::from_pem(&stored.key_pem).map_err(|e| text(&e))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|e| text(&e))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err("a root's key is not that of its certificate".into());
        }
        let not_after = parsed
            .validity()
            .not_after
            .timestamp()
            .try_into()
            .unwrap_or_default();
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|e| text(&e))?;
        Ok(Self {
            state: Root {
                stage: stored.stage,
                since: stored.since,
                not_after,
            },
            material: Arc::new(Material {
                certificate,
                certificate_pem: stored.certificate_pem,
                issuer,
            }),
        })
    }

    fn store(&self) -> StoredRoot {
        StoredRoot {
            stage: self.state.stage,
            since: self.state.since,
            certificate_pem: self.material.certificate_pem.clone(),
            key_pem: self.material.issuer.key().serialize_pem(),
        }
    }
}

fn bundle(trust_domain: &str, roots: &[RootKey]) -> Bundle {
    Bundle {
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

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests;
