//! Handshakes between proxies with every kind of certificate, in memory.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, PublicKeyData, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use std::time::SystemTime;

use super::*;

const DOMAIN: &str = "cluster.local";

/// A certificate authority for tests.
pub(crate) struct Authority {
    root: CertificateDer<'static>,
    root_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// What is asked of an [`Authority`].
struct Order {
    uris: Vec<String>,
    usages: Vec<ExtendedKeyUsagePurpose>,
    /// Start and end, seconds from now.
    validity: (i64, i64),
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let (root, root_pem) = (certificate.der().clone(), certificate.pem());
        Self {
            root,
            root_pem,
            issuer: Issuer::new(params, key),
        }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::new(DOMAIN, vec![self.root.clone()]).unwrap()
    }

    /// A proxy with a good certificate, that trusts this authority.
    pub(crate) fn trusted(&self, name: &str) -> Tls {
        self.proxy(&order(name))
    }

    /// The root, as a file holds it.
    pub(crate) fn root_pem(&self) -> String {
        self.root_pem.clone()
    }

    /// A good certificate for any id.
    pub(crate) fn issue_id(
        &self,
        id: &SpiffeId,
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        self.issue(&Order {
            uris: vec![id.to_string()],
            ..order("any")
        })
    }

    /// A good certificate for the key of a PKCS#10 request.
    pub(crate) fn sign_request(&self, name: &str, csr: &[u8]) -> CertificateDer<'static> {
        let request = CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        self.sign(&order(name), &request.public_key)
    }

    fn issue(&self, order: &Order) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let leaf = self.sign(order, &key);
        (leaf, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
    }

    fn sign(&self, order: &Order, key: &impl PublicKeyData) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = order
            .uris
            .iter()
            .map(|uri| SanType::URI(uri.as_str().try_into().unwrap()))
            .collect();
        params.extended_key_usages = order.usages.clone();
        // rcgen's type of a time is not ours to name; it can be made of a date, and moved by durations.
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap();
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        let at = |seconds: i64| {
            epoch + Duration::from_secs(now.as_secs().saturating_add_signed(seconds))
        };
        (params.not_before, params.not_after) = (at(order.validity.0), at(order.validity.1));
        params.signed_by(key, &self.issuer).unwrap().der().clone()
    }

    /// A proxy with a certificate made to order, that trusts this authority.
    fn proxy(&self, order: &Order) -> Tls {
        let (leaf, key) = self.issue(order);
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        // The proxy believes in its own certificate; it is the peer that is under test.
        let tls = Tls::new();
        tls.set_credentials(
            Credentials::new(vec![leaf], &key, DOMAIN, (now - 60, now + 60)).unwrap(),
        );
        tls.set_bundle(self.bundle());
        tls
    }
}

fn order(name: &str) -> Order {
    Order {
        uris: vec![id(name).to_string()],
        usages: vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ],
        validity: (-60, 60),
    }
}

pub(crate) fn id(name: &str) -> SpiffeId {
    SpiffeId::new(DOMAIN, "shop", name).unwrap()
}

type Outcome<T> = Result<T, TlsError>;
type Stream = tokio::io::DuplexStream;

/// A handshake between two proxies, and what each side makes of it. The client reads once, since a TLS 1.3
/// client only learns by reading that it was refused.
async fn meet(
    client: &Tls,
    server: &Tls,
    expected: &str,
) -> (Outcome<String>, Outcome<Accepted<Stream>>) {
    let (near, far) = duplex(64 * 1024);
    let expected = id(expected);
    let call = async {
        let mut stream = client.connect(near, &expected, Alpn::Http2).await?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await?;
        Ok(said)
    };
    let answer = async {
        let mut accepted = server.accept(far).await?;
        accepted.stream.write_all(b"hello").await?;
        accepted.stream.shutdown().await?;
        Ok(accepted)
    };
    tokio::join!(call, answer)
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let ca = Authority::new();
    let (web, api) = (ca.proxy(&order("web")), ca.proxy(&order("api")));
    let (call, answer) = meet(&web, &api, "api").await;
    assert_eq!(call.unwrap(), "hello");
    let accepted = answer.unwrap();
    assert_eq!((accepted.peer, accepted.alpn), (id("web"), Alpn::Http2));
    let session = accepted.stream.get_ref().1;
    assert_eq!(
        session.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    assert_eq!(
        session
            .negotiated_key_exchange_group()
            .map(|group| group.name()),
        Some(rustls::NamedGroup::X25519MLKEM768)
    );
    assert_eq!(session.server_name(), None);
    assert_eq!((web.identity(), web.ready()), (Some(id("web")), true));
}

#[tokio::test]
async fn wrong_identity_is_named() {
    let ca = Authority::new();
    let (call, answer) = meet(&ca.proxy(&order("web")), &ca.proxy(&order("api")), "db").await;
    let error = call.unwrap_err();
    assert!(matches!(&error, TlsError::WrongIdentity { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "the peer is spiffe://cluster.local/ns/shop/sa/api, not spiffe://cluster.local/ns/shop/sa/db"
    );
    assert!(matches!(answer, Err(TlsError::Refused(_))), "{answer:?}");
}

#[tokio::test]
async fn foreign_issuers_are_refused() {
    let (ca, other) = (Authority::new(), Authority::new());
    let stranger = other.proxy(&order("api"));
    let (call, _) = meet(&ca.proxy(&order("web")), &stranger, "api").await;
    assert!(matches!(call, Err(TlsError::ForeignIssuer)), "{call:?}");

    // As a client, of a server that it would trust.
    stranger.set_bundle(ca.bundle());
    let (call, answer) = meet(&stranger, &ca.proxy(&order("web")), "web").await;
    assert!(matches!(answer, Err(TlsError::ForeignIssuer)), "{answer:?}");
    assert!(matches!(call, Err(TlsError::Refused(_))), "{call:?}");
}

#[tokio::test]
async fn certificates_are_valid_in_their_time_only() {
    let ca = Authority::new();
    let web = ca.proxy(&order("web"));
    let expired = ca.proxy(&Order {
        validity: (-600, -300),
        ..order("api")
    });
    let (call, _) = meet(&web, &expired, "api").await;
    assert!(
        matches!(call, Err(TlsError::Expired { ago }) if ago.as_secs().abs_diff(300) < 5),
        "{call:?}"
    );
    let (_, answer) = meet(&expired, &web, "web").await;
    assert!(
        matches!(answer, Err(TlsError::Expired { .. })),
        "{answer:?}"
    );

    let early = ca.proxy(&Order {
        validity: (300, 600),
        ..order("api")
    });
    let (call, _) = meet(&web, &early, "api").await;
    assert!(
        matches!(call, Err(TlsError::NotYetValid { .. })),
        "{call:?}"
    );
}

#[tokio::test]
async fn certificates_are_for_their_purpose_only() {
    let ca = Authority::new();
    let web = ca.proxy(&order("web"));
    let client_only = ca.proxy(&Order {
        usages: vec![ExtendedKeyUsagePurpose::ClientAuth],
        ..order("api")
    });
    let (call, _) = meet(&web, &client_only, "api").await;
    assert!(matches!(call, Err(TlsError::BadCertificate(_))), "{call:?}");
    let server_only = ca.proxy(&Order {
        usages: vec![ExtendedKeyUsagePurpose::ServerAuth],
        ..order("api")
    });
    let (_, answer) = meet(&server_only, &web, "web").await;
    assert!(
        matches!(answer, Err(TlsError::BadCertificate(_))),
        "{answer:?}"
    );
}

#[test]
fn a_leaf_names_exactly_one_workload_of_this_domain() {
    let ca = Authority::new();
    for uris in [
        vec![],
        vec!["https://example.com/"],
        vec!["spiffe://elsewhere/ns/shop/sa/web"],
        vec![
            "spiffe://cluster.local/ns/shop/sa/web",
            "spiffe://cluster.local/ns/shop/sa/admin",
        ],
    ] {
        let uris = uris.into_iter().map(str::to_owned).collect();
        let (leaf, _) = ca.issue(&Order {
            uris,
            ..order("web")
        });
        let found = verify::identity(&leaf, DOMAIN);
        assert!(
            matches!(found, Err(TlsError::NoIdentity { .. })),
            "{found:?}"
        );
    }
}

#[test]
fn a_key_must_fit_its_certificate() {
    let ca = Authority::new();
    let ((leaf, _), (_, other_key)) = (ca.issue(&order("web")), ca.issue(&order("web")));
    let mixed = Credentials::new(vec![leaf], &other_key, DOMAIN, (1, 2));
    assert!(matches!(mixed, Err(CredentialsError::Key(_))), "{mixed:?}");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let ca = Authority::new();
    let anonymous = Tls::new();
    let (near, far) = duplex(64 * 1024);
    let bundle = Arc::new(ca.bundle());
    let config = anonymous
        .client_config(None, bundle, &id("web"), names::ALPN_TCP)
        .unwrap();
    let web = ca.proxy(&order("web"));
    let (_, answer) = tokio::join!(handshake(config, near), web.accept(far));
    assert!(matches!(answer, Err(TlsError::NoCertificate)), "{answer:?}");
}

#[tokio::test]
async fn other_protocols_inside_are_refused() {
    let ca = Authority::new();
    let (web, api) = (ca.proxy(&order("web")), ca.proxy(&order("api")));
    let (near, far) = duplex(64 * 1024);
    let bundle = web.bundle().unwrap();
    let config = web
        .client_config(web.credentials(), bundle, &id("api"), b"http/1.1")
        .unwrap();
    let (call, answer) = tokio::join!(handshake(config, near), api.accept(far));
    assert!(matches!(answer, Err(TlsError::Alpn)), "{answer:?}");
    assert!(matches!(call, Err(TlsError::Alpn)), "{call:?}");
}

#[tokio::test]
async fn a_silent_peer_is_given_up() {
    let silence = std::future::pending::<io::Result<()>>();
    let outcome = in_time(Duration::from_millis(1), silence).await;
    assert!(matches!(outcome, Err(TlsError::Timeout(_))), "{outcome:?}");
}

#[tokio::test]
async fn garbage_is_an_error() {
    let web = Authority::new().proxy(&order("web"));
    let (near, mut far) = duplex(64 * 1024);
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    let call = web.connect(near, &id("api"), Alpn::Tcp).await;
    assert!(matches!(call, Err(TlsError::Protocol(_))), "{call:?}");
}

#[tokio::test]
async fn rotation_keeps_old_connections_and_secures_new_ones() {
    let (old, new) = (Authority::new(), Authority::new());
    let (web, api) = (old.proxy(&order("web")), old.proxy(&order("api")));
    let both = || TrustBundle::new(DOMAIN, vec![old.root.clone(), new.root.clone()]).unwrap();
    let (near, far) = duplex(64 * 1024);
    let api_id = id("api");
    let (client, server) = tokio::join!(web.connect(near, &api_id, Alpn::Tcp), api.accept(far));
    let (mut client, mut server) = (client.unwrap(), server.unwrap().stream);

    // The new root is trusted before anybody uses it; then one side renews, then the other.
    web.set_bundle(both());
    api.set_bundle(both());
    assert!(meet(&web, &api, "api").await.0.is_ok());
    let renew = |tls: &Tls, name: &str| {
        let (leaf, key) = new.issue(&order(name));
        tls.set_credentials(Credentials::new(vec![leaf], &key, DOMAIN, (1, 1 << 40)).unwrap());
    };
    renew(&api, "api");
    assert!(meet(&web, &api, "api").await.0.is_ok());
    renew(&web, "web");
    web.set_bundle(new.bundle());
    api.set_bundle(new.bundle());
    assert!(meet(&web, &api, "api").await.0.is_ok());

    server.write_all(b"still here").await.unwrap();
    server.shutdown().await.unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "still here");
}

#[tokio::test]
async fn without_a_certificate_nothing_is_secured() {
    let tls = Tls::new();
    let (near, _far) = duplex(1024);
    assert!(!tls.ready());
    assert!(matches!(
        tls.connect(near, &id("api"), Alpn::Tcp).await,
        Err(TlsError::NotReady)
    ));
    let (near, _far) = duplex(1024);
    assert!(matches!(tls.accept(near).await, Err(TlsError::NotReady)));
}

#[test]
fn bundles_round_trip_and_reject_nonsense() {
    let bundle = Authority::new().bundle();
    assert_eq!(bundle.clone().union(&bundle).roots().len(), 1);
    assert_eq!(Authority::new().bundle().union(&bundle).roots().len(), 2);
    let again = TrustBundle::from_wire(bundle.to_wire()).unwrap();
    assert_eq!((again.domain(), again.roots()), (DOMAIN, bundle.roots()));
    assert!(matches!(
        TrustBundle::from_pem(DOMAIN, b""),
        Err(TrustBundleError::Empty)
    ));
    let nonsense = TrustBundle::new(DOMAIN, vec![vec![1, 2, 3].into()]);
    assert!(
        matches!(
            nonsense,
            Err(TrustBundleError::Certificate { index: 0, .. })
        ),
        "{nonsense:?}"
    );
}
