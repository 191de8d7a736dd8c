use std::{os::unix::fs::PermissionsExt, path::Path};

use rcgen::{BasicConstraints, KeyPair};
use rustls::{RootCertStore, server::WebPkiClientVerifier};
use rustls_pki_types::UnixTime;

use super::*;

const LEAF: Duration = Duration::from_secs(10);

fn id() -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", "web").unwrap()
}

const ROOT: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) fn terms() -> Terms {
    Terms {
        trust_domain: "cluster.local".into(),
        leaf_lifetime: LEAF,
        root_lifetime: ROOT,
    }
}

async fn try_open(folder: &Path, now: SystemTime) -> Result<Authority, CaError> {
    Authority::open(Store::File(folder.join("ca.json")), terms(), now).await
}

async fn open(folder: &Path, now: SystemTime) -> Authority {
    try_open(folder, now).await.unwrap()
}

fn issue(authority: &Authority, now: SystemTime) -> Leaf {
    authority
        .issue(&id(), &KeyPair::generate().unwrap(), now)
        .unwrap()
}

/// As a peer with this bundle would.
fn is_trusted(bundle: &Bundle, leaf: &Leaf, now: SystemTime) -> bool {
    let mut roots = RootCertStore::empty();
    for root in &bundle.roots {
        roots.add(root.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .unwrap();
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap());
    verifier
        .verify_client_cert(&leaf.certificate, &[], now)
        .is_ok()
}

fn now() -> SystemTime {
    time(1_800_000_000)
}

#[tokio::test]
async fn a_leaf_says_who_it_is_and_how_long() {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(folder.path(), now()).await;
    let leaf = issue(&authority, now());
    let bundle = authority.bundle().borrow().clone();
    assert!(is_trusted(&bundle, &leaf, now()));
    assert!(!is_trusted(
        &bundle,
        &leaf,
        now() + LEAF + Duration::from_secs(1)
    ));
    assert_eq!(leaf.not_after, seconds(now()) + 10);
    assert_eq!(leaf.not_before, seconds(now()) - 1);
    let (_, parsed) = x509_parser::parse_x509_certificate(&leaf.certificate).unwrap();
    assert_eq!(parsed.subject().iter().count(), 0);
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    assert!(
        names.critical,
        "RFC 5280, 4.2.1.6: critical where the subject is empty"
    );
    assert_eq!(names.value.general_names.len(), 1);
    assert!(
        names.value.general_names[0]
            .to_string()
            .contains(id().as_str())
    );
}

#[tokio::test]
async fn a_restart_keeps_the_root() {
    let folder = tempfile::tempdir().unwrap();
    let leaf = issue(&open(folder.path(), now()).await, now());
    let again = open(folder.path(), now()).await;
    assert!(is_trusted(&again.bundle().borrow(), &leaf, now()));
    let mode = std::fs::metadata(folder.path().join("ca.json"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn damaged_state_is_reported_and_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.json");
    std::fs::write(
        &file,
        "[{\"stage\":\"issuing\",\"since\":0,\"certificate_pem\":\"\",\"key_pem\":\"\"}]",
    )
    .unwrap();
    let result = try_open(folder.path(), now()).await;
    assert!(matches!(result, Err(CaError::Corrupt { .. })));
    assert!(std::fs::read_to_string(file).unwrap().contains("issuing"));
}

#[tokio::test]
async fn roots_rotate_with_overlap() {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(folder.path(), now()).await;
    let bundles = authority.bundle();
    let first = bundles.borrow().clone();
    let rotate = async |at: SystemTime| -> Arc<Bundle> {
        authority.rotate(at).await.unwrap();
        bundles.borrow().clone()
    };

    let due = now() + authority.policy.root_lifetime * 7 / 10;
    let overlap = rotate(due).await;
    assert_eq!(overlap.roots.len(), 2, "the new root is published");
    let old_leaf = issue(&authority, due);
    assert!(
        is_trusted(&first, &old_leaf, due),
        "the old root still issues"
    );

    let promoted = due + LEAF;
    assert_eq!(rotate(promoted).await.roots.len(), 2);
    let new_leaf = issue(&authority, promoted);
    assert!(
        !is_trusted(&first, &new_leaf, promoted),
        "the new root issues"
    );
    assert!(
        is_trusted(&overlap, &new_leaf, promoted),
        "and was trusted before it did"
    );
    let late = promoted - Duration::from_secs(1);
    assert!(
        is_trusted(&*rotate(promoted).await, &old_leaf, late),
        "the old leaf lives on"
    );

    let last = rotate(promoted + authority.policy.retire_for).await;
    assert_eq!(last.roots.len(), 1);
    assert_ne!(last.roots, first.roots);
    assert_eq!(
        open(folder.path(), promoted + authority.policy.retire_for)
            .await
            .bundle()
            .borrow()
            .roots,
        last.roots
    );
}

#[test]
fn requests_are_checked() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["ignored.example".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    assert_eq!(public_key(csr.der()).unwrap().der_bytes(), key.der_bytes());

    let mut forged = csr.der().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(public_key(&forged).unwrap_err(), CsrError::Signature);
    assert!(matches!(
        public_key(b"nonsense"),
        Err(CsrError::Malformed(_))
    ));
    assert!(matches!(
        public_key(&[csr.der().as_ref(), b"x"].concat()),
        Err(CsrError::Malformed(_))
    ));
}
