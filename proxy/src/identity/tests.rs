//! Certificates from a controller on the loopback interface.

use std::path::Path;
use std::sync::Mutex;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use mesh_api::SpiffeId;
use mesh_api::v1::identity_server::{self, IdentityServer};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status};

use super::*;
use crate::tls::tests::Authority;

/// Signs every request as shop/web whose token is "secret".
struct Signer {
    authority: Arc<Authority>,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
    life: u64,
}

#[tonic::async_trait]
impl identity_server::Identity for Signer {
    async fn certify(
        &self,
        request: Request<CertifyRequest>,
    ) -> Result<Response<CertifyResponse>, Status> {
        let request = request.into_inner();
        if request.token != "secret" {
            return Err(Status::unauthenticated("the token is not valid"));
        }
        let now = seconds(SystemTime::now());
        let response = CertifyResponse {
            chain: vec![self.authority.sign_request("web", &request.csr).to_vec()],
            not_before: now - 60,
            not_after: now + self.life,
            bundle: Some(self.authority.bundle().to_wire()),
        };
        self.requests.lock().unwrap().push(request.csr);
        Ok(Response::new(response))
    }
}

/// A controller, the proxy's files, and what the controller was asked.
struct Scene {
    folder: tempfile::TempDir,
    port: u16,
    identity: SpiffeId,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Scene {
    /// The controller has a certificate as `name` of mesh-system; the proxy's file has `trusted`'s root.
    async fn new(name: &str, trusted: Option<&Authority>, life: u64) -> Self {
        let authority = Arc::new(Authority::new());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "secret\n").unwrap();
        let root = trusted.unwrap_or(&authority).root_pem();
        std::fs::write(folder.path().join("bundle.pem"), root).unwrap();

        let id = |name| SpiffeId::new("cluster.local", "mesh-system", name).unwrap();
        let (leaf, key) = authority.issue_id(&id(name));
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![leaf], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::<Mutex<Vec<_>>>::default();
        let seen = requests.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(tls) = acceptor.accept(tcp).await else {
                    continue;
                };
                let signer = Signer {
                    authority: authority.clone(),
                    requests: seen.clone(),
                    life,
                };
                let service = TowerToHyperService::new(IdentityServer::new(signer));
                let server = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(server.serve_connection(TokioIo::new(tls), service));
            }
        });
        Self {
            folder,
            port,
            identity: id("mesh-controller"),
            requests,
        }
    }

    fn proxy(&self) -> (Identity, Tls) {
        let path = self.folder.path();
        let controller = Controller {
            host: "127.0.0.1".into(),
            port: self.port,
            identity: self.identity.clone(),
            token_file: path.join("token"),
            trust_bundle_file: path.join("bundle.pem"),
        };
        let (tls, state) = (Tls::new(), StateDir::open(&path.join("state")).unwrap());
        (
            Identity::new(Arc::new(controller), None, tls.clone(), Some(state)),
            tls,
        )
    }

    fn file(&self, name: &str) -> impl AsRef<Path> {
        self.folder.path().join(name)
    }
}

#[tokio::test]
async fn each_renewal_has_a_new_key() {
    let scene = Scene::new("mesh-controller", None, 3600).await;
    let (identity, tls) = scene.proxy();
    identity.renew().await.unwrap();
    assert!(tls.ready());
    assert_eq!(
        tls.identity().unwrap().as_str(),
        "spiffe://cluster.local/ns/shop/sa/web"
    );
    identity.renew().await.unwrap();
    let requests = scene.requests.lock().unwrap();
    assert_eq!(requests.len(), 2);
    assert_ne!(requests[0], requests[1]);
}

#[tokio::test]
async fn a_restart_takes_the_cached_certificate() {
    let scene = Scene::new("mesh-controller", None, 3600).await;
    let (identity, tls) = scene.proxy();
    let schedule = identity.renew().await.unwrap();
    let expires = tls.credentials().unwrap().not_after();

    let (identity, tls) = scene.proxy();
    let restored = identity.restore().unwrap();
    assert_eq!(tls.credentials().unwrap().not_after(), expires);
    assert_eq!(restored.life(), schedule.life());
    assert_eq!(scene.requests.lock().unwrap().len(), 1, "nobody was asked");

    std::fs::write(scene.file("state/identity"), "nonsense").unwrap();
    let (identity, tls) = scene.proxy();
    assert!(identity.restore().is_none() && !tls.ready());
}

#[tokio::test]
async fn a_cached_certificate_that_is_over_is_not_taken() {
    let scene = Scene::new("mesh-controller", None, 0).await;
    let (identity, _) = scene.proxy();
    identity.renew().await.unwrap();
    let (identity, tls) = scene.proxy();
    assert!(identity.restore().is_none());
    assert!(tls.identity().is_none());
}

#[tokio::test]
async fn refusals_say_why() {
    let scene = Scene::new("mesh-controller", None, 3600).await;
    std::fs::write(scene.file("token"), "stolen").unwrap();
    let error = scene.proxy().0.renew().await.unwrap_err().to_string();
    assert!(error.contains("the token is not valid"), "{error}");
    std::fs::remove_file(scene.file("token")).unwrap();
    let error = scene.proxy().0.renew().await.unwrap_err().to_string();
    assert!(
        error.contains("the token") && error.contains("No such file"),
        "{error}"
    );

    let impostor = Scene::new("somebody", None, 3600).await;
    let error = impostor.proxy().0.renew().await.unwrap_err().to_string();
    assert!(
        error.contains("the peer is spiffe://cluster.local/ns/mesh-system/sa/somebody"),
        "{error}"
    );

    let foreign = Scene::new("mesh-controller", Some(&Authority::new()), 3600).await;
    let error = foreign.proxy().0.renew().await.unwrap_err().to_string();
    assert!(
        error.contains("issued by none of this mesh's roots"),
        "{error}"
    );
}
