//! Connections: TLS, HTTP/1.1 and HTTP/2, and who is at the other end.

use std::{convert::Infallible, net::TcpListener, sync::Arc};

use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    faults::Availability,
    respond::Body,
    route,
    state::{Api, User},
};

/// What the server shows and whom it trusts, all PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
    /// Issues the certificates of users.
    pub(crate) authority: String,
}

/// The server's side of TLS; a client certificate is asked for and may be left out.
pub(super) fn tls(identity: &Identity) -> Arc<ServerConfig> {
    let certificate = |pem: &str| {
        CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate made just now")
    };
    let mut roots = RootCertStore::empty();
    roots
        .add(certificate(&identity.authority))
        .expect("a CA made just now");
    let clients = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated();
    let clients = clients.build().expect("a verifier with one root");
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key made just now");
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certificate(&identity.certificate)], key)
        .expect("a certificate and its key");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Accepts connections for ever.
pub(super) async fn serve(api: Arc<Api>, listener: TcpListener, tls: Arc<ServerConfig>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listening socket");
    let acceptor = TlsAcceptor::from(tls);
    loop {
        // A connection that ended before it was accepted is no reason to stop.
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let connection = connection(api.clone(), stream, acceptor.clone());
        tokio::spawn(while_available(api.clone(), connection));
    }
}

/// Drives a connection; closes it, or leaves it hanging, when the server is to be unavailable.
async fn while_available(api: Arc<Api>, connection: impl Future<Output = ()>) {
    let mut availability = api.faults.availability();
    tokio::pin!(connection);
    loop {
        let now = *availability.borrow_and_update();
        match now {
            Availability::Refusing => return,
            Availability::Hanging => {
                if availability.changed().await.is_err() {
                    return;
                }
            }
            Availability::Up => tokio::select! {
                // A request that comes after the change must not be answered.
                biased;
                changed = availability.changed() => if changed.is_err() { return },
                () = &mut connection => return,
            },
        }
    }
}

async fn connection(api: Arc<Api>, stream: TcpStream, acceptor: TlsAcceptor) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let user = certificates
        .and_then(|chain| chain.first())
        .and_then(|leaf| user(leaf));
    let service = service_fn(move |request: Request<Incoming>| {
        let (api, user) = (api.clone(), user.clone());
        async move { Ok::<Response<Body>, Infallible>(route::answer(api, user, request).await) }
    });
    let server = auto::Builder::new(TokioExecutor::new());
    // The client went away: there is nobody to tell.
    let _ = server
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
}

/// The user whom a client certificate names: CN, and O for the groups.
fn user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject
        .iter_organization()
        .filter_map(|group| group.as_str().ok());
    let groups = groups
        .map(str::to_owned)
        .chain(["system:authenticated".to_owned()]);
    Some(User {
        name,
        groups: groups.collect(),
        ..User::default()
    })
}
