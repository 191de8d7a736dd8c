//! Several authorities on one Secret of an API server that does no more than compare revisions.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use rcgen::{CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use super::{
    super::{Authority, CaError, Store, rotation::Stage, tests::terms},
    *,
};

/// Secrets by name, and a clock of revisions.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<(BTreeMap<String, Value>, u64)>>);

impl Server {
    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let name = head.uri.path().rsplit('/').next().unwrap();
                let (code, answer) = server.answer(&head.method, name, &body);
                // Others get their turn between any two requests.
                tokio::task::yield_now().await;
                let answer = Response::builder()
                    .status(code)
                    .body(Body::from(answer.to_string().into_bytes()));
                Ok::<_, std::convert::Infallible>(answer.unwrap())
            }
        });
        Client::new(service, "mesh-system")
    }

    fn answer(&self, method: &Method, name: &str, body: &[u8]) -> (u16, Value) {
        let mut state = self.0.lock().unwrap();
        let (secrets, revision) = &mut *state;
        let failed = |code: u16, reason: &str| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason});
            (code, status)
        };
        if *method == Method::GET {
            return match secrets.get(name) {
                Some(secret) => (200, secret.clone()),
                None => failed(404, "NotFound"),
            };
        }
        let mut object: Value = serde_json::from_slice(body).unwrap();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        match (method, secrets.get(&name)) {
            (&Method::POST, Some(_)) => return failed(409, "AlreadyExists"),
            (&Method::PUT, None) => return failed(404, "NotFound"),
            (&Method::PUT, Some(current))
                if current["metadata"]["resourceVersion"]
                    != object["metadata"]["resourceVersion"] =>
            {
                return failed(409, "Conflict");
            }
            _ => {}
        }
        *revision += 1;
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        secrets.insert(name, object.clone());
        (200, object)
    }

    fn put(&self, name: &str, data: &[(&str, &str)]) {
        let data: BTreeMap<_, _> = data
            .iter()
            .map(|(key, value)| (*key, ByteString(value.as_bytes().to_vec())))
            .collect();
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data});
        self.0.lock().unwrap().0.insert(name.into(), secret);
    }

    fn remove(&self, name: &str) {
        self.0.lock().unwrap().0.remove(name);
    }

    fn store(&self, provided: Option<&str>) -> SecretStore {
        SecretStore::new(self.client(), "mesh-system", provided)
    }

    async fn open(&self, provided: Option<&str>, now: SystemTime) -> Result<Authority, CaError> {
        Authority::open(Store::Secret(self.store(provided)), terms(), now).await
    }
}

/// Somebody else's root: certificate and key.
fn root(name: &str, is_ca: IsCa) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.is_ca = is_ca;
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn ca() -> IsCa {
    IsCa::Ca(rcgen::BasicConstraints::Unconstrained)
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn pem(authority: &Authority) -> String {
    authority.bundle().borrow().pem.clone()
}

fn stages(authority: &Authority) -> Vec<Stage> {
    authority
        .lock()
        .iter()
        .map(|root| root.state.stage)
        .collect()
}

#[tokio::test]
async fn replicas_that_start_together_agree_on_one_root() {
    let server = Server::default();
    let opened = futures_util::future::join_all((0..5).map(|_| server.open(None, now()))).await;
    let bundles: Vec<String> = opened
        .iter()
        .map(|opened| pem(opened.as_ref().unwrap()))
        .collect();
    assert!(bundles.iter().all(|bundle| *bundle == bundles[0]));
    assert_eq!(server.0.lock().unwrap().1, 1, "written once");
}

#[tokio::test]
async fn two_that_rotate_at_once_make_one_new_root() {
    let server = Server::default();
    let (one, two) = (
        server.open(None, now()).await.unwrap(),
        server.open(None, now()).await.unwrap(),
    );
    let due = now() + terms().root_lifetime * 8 / 10;
    let (first, second) = tokio::join!(one.rotate(due), two.rotate(due));
    first.unwrap();
    second.unwrap();
    assert_eq!(stages(&one), [Stage::Issuing, Stage::Published]);
    assert_eq!(pem(&one), pem(&two));
}

#[tokio::test]
async fn a_secret_that_was_removed_is_written_again_and_not_anew() {
    let server = Server::default();
    let authority = server.open(None, now()).await.unwrap();
    let before = pem(&authority);
    server.remove(names::CA_SECRET);
    // As `follow` does when it hears of it.
    authority
        .lost
        .store(true, std::sync::atomic::Ordering::Release);
    authority.rotate(now()).await.unwrap();
    assert_eq!(pem(&authority), before);
    assert_eq!(pem(&server.open(None, now()).await.unwrap()), before);
}

#[tokio::test]
async fn damaged_roots_are_kept_for_whoever_can_repair_them() {
    let server = Server::default();
    server.put(names::CA_SECRET, &[(names::CA_KEY, "{")]);
    let error = server.open(None, now()).await.err().unwrap();
    assert!(
        error.to_string().contains("Secret mesh-system/mesh-ca"),
        "{error}"
    );
    assert_eq!(server.0.lock().unwrap().1, 0, "not written");
}

#[tokio::test]
async fn a_root_of_the_users_issues_at_once_and_a_second_one_after_an_overlap() {
    let server = Server::default();
    let missing = server.open(Some("mine"), now()).await.err().unwrap();
    assert!(
        missing.to_string().contains("mesh-system/mine"),
        "{missing}"
    );

    let (certificate, key) = root("one", ca());
    server.put("mine", &[("tls.crt", &certificate), ("tls.key", &key)]);
    let authority = server.open(Some("mine"), now()).await.unwrap();
    assert_eq!(
        pem(&authority).replace('\r', ""),
        certificate.replace('\r', "")
    );
    assert_eq!(stages(&authority), [Stage::Issuing]);

    let (other, key) = root("two", ca());
    server.put("mine", &[("tls.crt", &other), ("tls.key", &key)]);
    let again = server.open(Some("mine"), now()).await.unwrap();
    assert_eq!(
        stages(&again),
        [Stage::Issuing, Stage::Published],
        "both are trusted"
    );
    authority
        .lost
        .store(true, std::sync::atomic::Ordering::Release);
    let promoted = now() + terms().leaf_lifetime;
    authority.rotate(promoted).await.unwrap();
    assert_eq!(stages(&authority), [Stage::Retiring, Stage::Issuing]);
    authority
        .rotate(promoted + terms().leaf_lifetime + Duration::from_secs(60))
        .await
        .unwrap();
    assert_eq!(
        stages(&authority),
        [Stage::Issuing],
        "and never one of our own"
    );
}

#[tokio::test]
async fn a_users_secret_that_cannot_sign_is_refused_and_the_old_root_used_on() {
    let server = Server::default();
    let (certificate, key) = root("one", ca());
    server.put("mine", &[("tls.crt", &certificate), ("tls.key", &key)]);
    let before = pem(&server.open(Some("mine"), now()).await.unwrap());

    let (leaf, leaf_key) = root("leaf", IsCa::NoCa);
    for (certificate, key, problem) in [
        (&leaf, &leaf_key, "CA:TRUE"),
        (&certificate, &leaf_key, "not that of the certificate"),
        (&"nonsense".to_owned(), &key, "not PEM"),
        (&certificate, &"nonsense".to_owned(), "private key"),
    ] {
        server.put("mine", &[("tls.crt", certificate), ("tls.key", key)]);
        let error = server
            .store(Some("mine"))
            .provided()
            .await
            .unwrap()
            .err()
            .unwrap();
        assert!(error.to_string().contains(problem), "{error}");
        assert_eq!(
            pem(&server.open(Some("mine"), now()).await.unwrap()),
            before
        );
    }
}

#[tokio::test]
async fn roots_of_our_own_give_way_to_the_users_and_back() {
    let server = Server::default();
    let ours = server.open(None, now()).await.unwrap();
    let (certificate, key) = root("one", ca());
    server.put("mine", &[("tls.crt", &certificate), ("tls.key", &key)]);
    let theirs = server.open(Some("mine"), now()).await.unwrap();
    assert_eq!(stages(&theirs), [Stage::Issuing, Stage::Published]);
    assert!(pem(&theirs).starts_with(&pem(&ours)));
    let promoted = now() + terms().leaf_lifetime;
    theirs.rotate(promoted).await.unwrap();
    assert_eq!(stages(&theirs), [Stage::Retiring, Stage::Issuing]);
    // The flag is gone: the root lives on until it is time for one of ours.
    assert_eq!(
        stages(&server.open(None, promoted).await.unwrap()),
        [Stage::Retiring, Stage::Issuing]
    );
}

#[tokio::test]
async fn a_chain_is_no_trust_in_what_is_above_it() {
    let (_, root_key) = root("root", ca());
    let root_key = KeyPair::from_pem(&root_key).unwrap();
    let mut root_params = CertificateParams::default();
    root_params.is_ca = ca();
    let root_certificate = root_params.self_signed(&root_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = ca();
    let issuer = Issuer::new(root_params, root_key);
    let certificate = params.signed_by(&key, &issuer).unwrap();

    let server = Server::default();
    let chain = certificate.pem() + &root_certificate.pem();
    server.put(
        "mine",
        &[
            ("tls.crt", &chain),
            ("tls.key", &key.serialize_pem()),
            ("ca.crt", &root_certificate.pem()),
        ],
    );
    let authority = server.open(Some("mine"), now()).await.unwrap();
    let bundle = authority.bundle().borrow().clone();
    assert_eq!(bundle.roots, [certificate.der().clone()]);
}
