//! What a proxy does with a controller: gets its certificate with a token, and follows its stream.

use std::{net::SocketAddr, sync::Arc};

use hyper_util::rt::TokioIo;
use mesh_api::v1::{
    CertifyRequest, CertifyResponse, DiscoveryRequest, DiscoveryUpdate, Hello, TrustBundle,
    discovery_client::DiscoveryClient, discovery_request, discovery_update,
    identity_client::IdentityClient,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::{net::TcpStream, sync::mpsc};
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

/// A proxy's credentials.
pub(crate) struct Identity {
    pub(crate) certified: CertifyResponse,
    key: KeyPair,
}

/// A discovery stream.
pub(crate) struct Stream {
    /// The stream ends with it.
    _requests: mpsc::Sender<DiscoveryRequest>,
    pub(crate) updates: Streaming<DiscoveryUpdate>,
}

/// A certificate for whose `token` it is. `bundle` is what the proxy starts with, as PEM.
pub(crate) async fn certify(at: SocketAddr, bundle: &str, token: &str) -> Result<Identity, Status> {
    let key = KeyPair::generate().expect("a key");
    let csr = CertificateParams::default()
        .serialize_request(&key)
        .expect("a request");
    let roots = CertificateDer::pem_slice_iter(bundle.as_bytes()).map(|root| root.expect("a root"));
    let channel = connect(at, roots.collect(), None).await?;
    let request = CertifyRequest {
        token: token.into(),
        csr: csr.der().to_vec(),
    };
    let certified = IdentityClient::new(channel).certify(request).await?;
    Ok(Identity {
        certified: certified.into_inner(),
        key,
    })
}

impl Identity {
    /// Opens a discovery stream, and says hello for a pod.
    pub(crate) async fn discover(
        &self,
        at: SocketAddr,
        namespace: &str,
        pod: &str,
    ) -> Result<Stream, Status> {
        let TrustBundle { roots, .. } = self.certified.bundle.clone().expect("a bundle");
        let roots = roots.into_iter().map(CertificateDer::from).collect();
        let channel = connect(at, roots, Some(self)).await?;
        let (requests, receiver) = mpsc::channel(16);
        let hello = Hello {
            namespace: namespace.into(),
            pod: pod.into(),
            proxy_version: "test".into(),
        };
        let kind = Some(discovery_request::Kind::Hello(hello));
        let _ = requests.send(DiscoveryRequest { kind }).await;
        let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let updates = DiscoveryClient::new(channel).stream(receiver).await?;
        Ok(Stream {
            _requests: requests,
            updates: updates.into_inner(),
        })
    }
}

impl Stream {
    /// The next update.
    pub(crate) async fn next(&mut self) -> Result<discovery_update::Kind, Status> {
        let update = tokio::time::timeout(crate::replica::PATIENCE, self.updates.message()).await;
        let update = update.map_err(|_| Status::deadline_exceeded("no update"))??;
        update
            .and_then(|update| update.kind)
            .ok_or_else(|| Status::unavailable("the stream has ended"))
    }

    /// The next trust bundle.
    pub(crate) async fn bundle(&mut self) -> Result<TrustBundle, Status> {
        loop {
            if let discovery_update::Kind::Bundle(bundle) = self.next().await? {
                return Ok(bundle);
            }
        }
    }
}

async fn connect(
    at: SocketAddr,
    roots: Vec<CertificateDer<'static>>,
    identity: Option<&Identity>,
) -> Result<Channel, Status> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root).expect("a root");
    }
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider));
    let verifier = ByChain(verifier.build().expect("a verifier"));
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let chain = identity.certified.chain.iter();
            let chain = chain.map(|der| CertificateDer::from(der.clone())).collect();
            let key = PrivateKeyDer::try_from(identity.key.serialize_der()).expect("a key");
            config
                .with_client_auth_cert(chain, key)
                .expect("a certificate")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connect = tower::service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(at).await?;
            let name = ServerName::try_from("controller").expect("a name");
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://controller")
        .connect_with_connector(connect)
        .await
        .map_err(|error| Status::unavailable(error.to_string()))
}

/// Checks the chain; the name is the business of the proxy's own verifier.
#[derive(Debug)]
struct ByChain(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for ByChain {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self
            .0
            .verify_server_cert(leaf, intermediates, name, ocsp, now);
        match verified {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, leaf, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, leaf, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
