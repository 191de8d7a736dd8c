//! Certificates for those that have no control plane.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

use crate::compare::topology::Pod;

/// For both sides, PEM. Every peer gets the same kind as the mesh's own: ECDSA P-256.
pub(super) struct Certificates {
    pub(super) root: String,
    pub(super) chain: String,
    pub(super) key: String,
}

impl Certificates {
    pub(super) fn new() -> anyhow::Result<Self> {
        let root_key = KeyPair::generate()?;
        let mut root = CertificateParams::new(Vec::new())?;
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Without names of their own, issuer and subject are equal, and OpenSSL takes the leaf for self-signed.
        root.distinguished_name
            .push(DnType::CommonName, "bench root");
        let root_pem = root.self_signed(&root_key)?.pem();
        let issuer = Issuer::new(root, root_key);
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(vec!["peer.bench".to_owned()])?;
        leaf.distinguished_name
            .push(DnType::CommonName, "bench peer");
        leaf.subject_alt_names
            .push(SanType::IpAddress(Pod::Server.ip().into()));
        Ok(Self {
            root: root_pem,
            chain: leaf.signed_by(&key, &issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }
}
