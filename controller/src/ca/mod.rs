//! The mesh's own certificate authority.
//!
//! In: public keys with the identity that a checked token gives them. Out: leaves, and the trust bundle as it
//! changes. What can fail: the place where its roots are kept ([`CaError`]).
//!
//! Leaves are signed by the root itself. An intermediate protects a root whose key is kept offline; here the
//! controller holds both keys and rotates its roots by itself, so that an intermediate would only add its
//! certificate to every handshake between proxies.

mod bundle;
mod csr;
mod error;
mod keep;
mod root;
pub mod rotation;
mod secret;
mod store;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mesh_api::SpiffeId;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::{Notify, watch};

pub use bundle::Bundle;
pub use csr::{CsrError, public_key};
pub use error::CaError;
use root::{Material, RootKey, advance, offer, states};
use rotation::{Policy, Stage};
pub use secret::SecretStore;
pub use store::Store;
use store::{StoredRoot, Written};

/// Certificates are valid from a little before they are made, for peers whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(60);
/// How often a replacement is based anew on what somebody else wrote meanwhile.
const ATTEMPTS: usize = 5;

/// Issues certificates; keeps its roots in a [`Store`].
pub struct Authority {
    terms: Terms,
    policy: Policy,
    store: Store,
    /// One writer at a time.
    turn: tokio::sync::Mutex<()>,
    roots: Mutex<Vec<RootKey>>,
    bundle: watch::Sender<Arc<Bundle>>,
    /// The store has lost its content.
    lost: AtomicBool,
    wake: Notify,
}

/// What the authority goes by.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Identities are in this trust domain.
    pub trust_domain: String,
    /// Life of leaves.
    pub leaf_lifetime: Duration,
    /// Life of the roots that are made here.
    pub root_lifetime: Duration,
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

impl Authority {
    /// Opens the authority that is kept in `store`, and makes its first root if there is none.
    ///
    /// # Errors
    /// The store can't be used, or what is in it is damaged.
    pub async fn open(store: Store, terms: Terms, now: SystemTime) -> Result<Self, CaError> {
        if let Store::File(path) = &store
            && let Some(folder) = path.parent()
        {
            std::fs::create_dir_all(folder).map_err(|source| CaError::Disk {
                path: folder.into(),
                source,
            })?;
        }
        let provided = match &store {
            Store::Secret(secret) => secret.provided().await,
            Store::File(_) => None,
        };
        let authority = Self {
            policy: Policy {
                root_lifetime: terms.root_lifetime,
                own_roots: provided.is_none(),
                ..Policy::for_leaves(terms.leaf_lifetime)
            },
            bundle: watch::Sender::new(Arc::new(Bundle::new(&terms.trust_domain, &[]))),
            terms,
            store,
            turn: tokio::sync::Mutex::default(),
            roots: Mutex::default(),
            lost: AtomicBool::new(true),
            wake: Notify::new(),
        };
        match provided {
            Some(Ok(material)) => authority.offer(material, now).await?,
            Some(Err(error)) => {
                authority.rotate(now).await?;
                if authority.lock().is_empty() {
                    return Err(error);
                }
                tracing::error!(%error, "the roots that were taken from it before are used on");
            }
            None => authority.rotate(now).await?,
        }
        Ok(authority)
    }

    /// Takes the steps of the rotation that are due, in memory and in the store. To be called every now and
    /// then, by one of those who share the store. Costs nothing while no step is due.
    ///
    /// # Errors
    /// The store can't be written; nothing has changed then.
    pub async fn rotate(&self, now: SystemTime) -> Result<(), CaError> {
        let due = rotation::next(&states(&self.lock()), seconds(now), &self.policy);
        if due.is_none() && !self.lost.load(Ordering::Acquire) {
            return Ok(());
        }
        self.update(|roots| advance(roots, &self.terms.trust_domain, &self.policy, now))
            .await
    }

    /// Takes somebody else's root, which will issue as soon as everybody can know of it.
    async fn offer(&self, material: Material, now: SystemTime) -> Result<(), CaError> {
        let material = Arc::new(material);
        self.update(|roots| {
            let offered = offer(roots, &material, now);
            Ok(advance(roots, &self.terms.trust_domain, &self.policy, now)? || offered)
        })
        .await
    }

    /// Changes what is stored, and takes it over.
    async fn update(
        &self,
        change: impl Fn(&mut Vec<RootKey>) -> Result<bool, CaError>,
    ) -> Result<(), CaError> {
        let _turn = self.turn.lock().await;
        for _ in 0..ATTEMPTS {
            let found = self.store.load().await?;
            let (mut roots, stored) = match found.roots {
                Some(stored) => (self.restore(stored)?, true),
                // If somebody has removed it, it is what was known before: proxies trust that.
                None => (self.lock().clone(), false),
            };
            let changed = change(&mut roots)?;
            if changed || (!stored && !roots.is_empty()) {
                let text: Vec<StoredRoot> = roots.iter().map(RootKey::store).collect();
                if self.store.save(&text, found.revision).await? == Written::Conflict {
                    continue;
                }
            }
            self.adopt(roots);
            return Ok(());
        }
        Err(CaError::Contended {
            place: self.store.to_string(),
        })
    }

    fn restore(&self, stored: Vec<StoredRoot>) -> Result<Vec<RootKey>, CaError> {
        let roots: Result<Vec<_>, _> = stored.into_iter().map(RootKey::restore).collect();
        roots.map_err(|reason| self.store.corrupt(reason))
    }

    fn adopt(&self, roots: Vec<RootKey>) {
        let after = Bundle::new(&self.terms.trust_domain, &roots);
        *self.lock() = roots;
        self.lost.store(false, Ordering::Release);
        self.bundle.send_if_modified(|before| {
            let differs = **before != after;
            if differs {
                *before = Arc::new(after);
            }
            differs
        });
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
        let usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let name = SanType::URI(id.as_str().try_into()?);
        self.sign(vec![name], usages, key, now)
    }

    /// Issues a leaf for a server that is known by names of DNS. It is nobody's identity in the mesh.
    ///
    /// # Errors
    /// Signing failed.
    pub fn issue_server(
        &self,
        hosts: &[String],
        key: &impl PublicKeyData,
        now: SystemTime,
    ) -> Result<Leaf, CaError> {
        let names = hosts
            .iter()
            .map(|host| Ok(SanType::DnsName(host.as_str().try_into()?)));
        let names = names.collect::<Result<_, rcgen::Error>>()?;
        self.sign(names, vec![ExtendedKeyUsagePurpose::ServerAuth], key, now)
    }

    fn sign(
        &self,
        names: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        key: &impl PublicKeyData,
        now: SystemTime,
    ) -> Result<Leaf, CaError> {
        let roots = self.lock();
        let issuing = roots.iter().find(|root| root.state.stage == Stage::Issuing);
        let issuing = issuing.ok_or(CaError::NoIssuer)?;
        let lifetime = self.terms.leaf_lifetime;
        let backdate = BACKDATE.min(lifetime / 10).as_secs();
        let not_before = seconds(now).saturating_sub(backdate);
        let not_after = (seconds(now) + lifetime.as_secs()).min(issuing.state.not_after);

        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
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
        &self.terms.trust_domain
    }

    /// When the root that issues now expires, in seconds since the Unix epoch.
    pub fn expires(&self) -> Option<u64> {
        let roots = self.lock();
        let issuing = roots.iter().find(|root| root.state.stage == Stage::Issuing);
        issuing.map(|root| root.state.not_after)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<RootKey>> {
        // Roots are replaced whole: a panic can't leave half of them.
        self.roots.lock().unwrap_or_else(PoisonError::into_inner)
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
