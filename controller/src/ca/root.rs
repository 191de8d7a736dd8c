//! A root: its certificate, its key, and what it is used for.

use std::{sync::Arc, time::SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{
    BACKDATE, CaError,
    rotation::{self, Policy, Root, Stage, Step},
    seconds,
    store::StoredRoot,
    time,
};

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct RootKey {
    pub(super) state: Root,
    pub(super) material: Arc<Material>,
}

/// What never changes of a root.
pub(super) struct Material {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) certificate_pem: String,
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// Seconds since the Unix epoch.
    not_after: u64,
}

/// Takes the steps that are due, and says whether there were any.
pub(super) fn advance(
    roots: &mut Vec<RootKey>,
    trust_domain: &str,
    policy: &Policy,
    now: SystemTime,
) -> Result<bool, CaError> {
    let at = seconds(now);
    let mut changed = false;
    while let Some(step) = rotation::next(&states(roots), at, policy) {
        tracing::info!(?step, "root rotation");
        match step {
            Step::Prepare(stage) => {
                roots.push(RootKey::generate(trust_domain, stage, now, policy)?)
            }
            Step::Promote(promoted) => {
                for root in roots
                    .iter_mut()
                    .filter(|root| root.state.stage == Stage::Issuing)
                {
                    (root.state.stage, root.state.since) = (Stage::Retiring, at);
                }
                (roots[promoted].state.stage, roots[promoted].state.since) = (Stage::Issuing, at);
            }
            Step::Drop(dropped) => {
                roots.remove(dropped);
            }
        }
        changed = true;
    }
    Ok(changed)
}

/// Puts somebody else's root among ours: it is published, and issues when the rotation says so. The one that
/// was offered before and has signed nothing yet makes way. Says whether anything has changed.
pub(super) fn offer(roots: &mut Vec<RootKey>, material: &Arc<Material>, now: SystemTime) -> bool {
    let is_same = |root: &RootKey| root.material.certificate == material.certificate;
    let stage = |root: &RootKey| root.state.stage;
    if roots
        .iter()
        .any(|root| is_same(root) && stage(root) != Stage::Retiring)
    {
        return false;
    }
    roots.retain(|root| !is_same(root) && stage(root) != Stage::Published);
    roots.push(RootKey {
        state: Root {
            stage: Stage::Published,
            since: seconds(now),
            not_after: material.not_after,
        },
        material: Arc::clone(material),
    });
    true
}

pub(super) fn states(roots: &[RootKey]) -> Vec<Root> {
    roots.iter().map(|root| root.state).collect()
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
            certificate_pem: pem(certificate.der()),
            issuer: Issuer::new(params, key),
            not_after,
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

    pub(super) fn restore(stored: StoredRoot) -> Result<Self, String> {
        let material = Material::from_pem(&stored.certificate_pem, &stored.key_pem)?;
        Ok(Self {
            state: Root {
                stage: stored.stage,
                since: stored.since,
                not_after: material.not_after,
            },
            material: Arc::new(material),
        })
    }

    pub(super) fn store(&self) -> StoredRoot {
        StoredRoot {
            stage: self.state.stage,
            since: self.state.since,
            certificate_pem: self.material.certificate_pem.clone(),
            key_pem: self.material.issuer.key().serialize_pem(),
        }
    }
}

impl Material {
    /// A certificate (the first of the text) that may sign others, and its key.
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub(super) fn from_pem(certificate: &str, key: &str) -> Result<Self, String> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| format!("the certificate is not PEM: {error}"))?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| {
            format!("the key is not an unencrypted private key in PEM: {error}")
        })?;
        // By its bytes: a key that came as SEC 1 is stored under the label of PKCS#8.
        let key = KeyPair::try_from(key.secret_der())
            .map_err(|error| format!("the key is not one that can sign certificates: {error}"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|error| format!("the certificate can't be parsed: {error}"))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err("the key is not that of the certificate".into());
        }
        if !parsed.is_ca() {
            return Err(
                "the certificate may not sign others: it lacks the basic constraint CA:TRUE".into(),
            );
        }
        if let Ok(Some(usage)) = parsed.key_usage()
            && !usage.value.key_cert_sign()
        {
            return Err("the certificate's key usage does not include signing certificates".into());
        }
        let not_after = parsed.validity().not_after.timestamp();
        let not_after = not_after.try_into().unwrap_or_default();
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| error.to_string())?;
        Ok(Self {
            certificate_pem: pem(&der),
            certificate: der,
            issuer,
            not_after,
        })
    }
}

/// One form for all, so that replicas agree on the bundle to the byte: of the certificate alone, where somebody's
/// file holds a chain or comments around it.
fn pem(certificate: &CertificateDer<'_>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", certificate.to_vec()), config)
}
