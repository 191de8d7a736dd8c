//! A controller on folders of its own, and a client as small as a proxy can be.

use std::{fs, net::SocketAddr, sync::Arc};

use hyper_util::rt::TokioIo;
use mesh_api::v1::{
    Address, CertifyRequest, CertifyResponse, DiscoveryRequest, DiscoveryUpdate, Hello,
    TelemetryCommand, TelemetryReport, discovery_client::DiscoveryClient, discovery_request,
    discovery_update, identity_client::IdentityClient, observe_client::ObserveClient,
    telemetry_client::TelemetryClient,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use serde_json::{Value, json};
use tokio::{net::TcpStream, net::UnixStream, sync::mpsc, task::JoinHandle};
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

use super::super::*;
use crate::listen::Listen;

/// `printf %s secret | sha256sum`
pub(super) const TOKEN_FILE: &str =
    "tokens/2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b.json";

/// Folders of a controller, and the controller while it runs.
pub(super) struct Mesh {
    pub(super) folder: tempfile::TempDir,
    pub(super) listen: SocketAddr,
    pub(super) running: Option<(CancellationToken, JoinHandle<anyhow::Result<()>>)>,
}

/// A proxy's credentials.
pub(super) struct Identity {
    pub(super) certified: CertifyResponse,
    pub(super) key: KeyPair,
}

impl Mesh {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("objects")).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mesh = Self {
            folder,
            listen: free.local_addr().unwrap(),
            running: None,
        };
        mesh.write(
            TOKEN_FILE,
            &json!({"namespace": "shop", "serviceAccount": "web", "pod": "web-1"}),
        );
        mesh.write_pod("web-1", "web", "10.0.0.1");
        mesh.write_pod("api-1", "api", "10.0.0.2");
        mesh.write("services/shop.api.json", &json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "api"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
        }));
        mesh.write_slice(true);
        mesh
    }

    pub(super) fn write(&self, path: &str, content: &Value) {
        let path = self.folder.path().join("objects").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let temporary = path.with_extension("new");
        fs::write(&temporary, content.to_string()).unwrap();
        fs::rename(temporary, path).unwrap();
    }

    pub(super) fn write_pod(&self, name: &str, workload: &str, ip: &str) {
        self.write(&format!("pods/shop.{name}.json"), &json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "namespace": "shop", "name": name, "annotations": {"mesh.internal/proxy": "true"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": workload, "uid": "1"}],
            },
            "spec": {"serviceAccountName": workload, "containers": []},
            "status": {"podIP": ip},
        }));
    }

    pub(super) fn write_slice(&self, ready: bool) {
        self.write("endpointslices/shop.api.json", &json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": "shop", "name": "api", "labels": {"kubernetes.io/service-name": "api"}},
            "ports": [{"port": 8080}],
            "endpoints": [{"addresses": ["10.0.0.2"], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": "api-1"}}],
        }));
    }

    pub(super) fn start(&mut self) {
        let mut registry = Registry::default();
        let source = Directory::new(self.folder.path().join("objects"), &mut registry);
        self.start_on(source, registry);
    }

    pub(super) fn start_on(&mut self, source: impl Source, registry: Registry) {
        let path = |name: &str| self.folder.path().join(name);
        let args = RunArgs {
            source: SourceKind::Directory,
            directory: Some(path("objects")),
            state_dir: Some(path("state")),
            namespace: "mesh-system".into(),
            pod: None,
            webhook_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            inject_settings: None,
            ca_secret: None,
            listen: self.listen,
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            observe_listen: Some(Listen::Path(path("observe"))),
            trust_domain: "cluster.local".into(),
            leaf_lifetime: Duration::from_secs(60),
            root_lifetime: Duration::from_secs(3600),
            bundle_file: Some(path("bundle.pem")),
            log_level: "info".into(),
            log_format: LogFormat::Plain,
        };
        let (_, log_level) = reload::Layer::new(tracing_subscriber::filter::Targets::new());
        let stop = CancellationToken::new();
        let platform = Platform::Machine {
            state_dir: path("state"),
        };
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            run(&args, source, platform, registry, log_level, stopped).await
        });
        self.running = Some((stop, task));
    }

    pub(super) async fn stop(&mut self) {
        let (stop, task) = self.running.take().unwrap();
        stop.cancel();
        task.await.unwrap().unwrap();
    }

    /// A connection as a proxy makes it: it trusts the bundle file, and shows its certificate if it has one.
    pub(super) async fn connect(&self, identity: Option<&Identity>) -> Channel {
        let mut roots = RootCertStore::empty();
        let file = self.folder.path().join("bundle.pem");
        while !file.exists() {
            tokio::task::yield_now().await;
        }
        for root in CertificateDer::pem_file_iter(&file).unwrap() {
            roots.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let webpki =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .unwrap();
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ByUri(webpki)));
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let chain = identity
                    .certified
                    .chain
                    .iter()
                    .map(|der| der.clone().into())
                    .collect();
                let key = PrivateKeyDer::try_from(identity.key.serialize_der()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (connector, listen) = (
            tokio_rustls::TlsConnector::from(Arc::new(config)),
            self.listen,
        );
        let connect = tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let stream = loop {
                    match TcpStream::connect(listen).await {
                        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                            tokio::task::yield_now().await
                        }
                        stream => break stream?,
                    }
                };
                connector
                    .connect(ServerName::try_from("controller").unwrap(), stream)
                    .await
                    .map(TokioIo::new)
            }
        });
        Endpoint::from_static("http://controller")
            .connect_with_connector(connect)
            .await
            .unwrap()
    }

    pub(super) async fn observe(&self) -> ObserveClient<Channel> {
        let path = self.folder.path().join("observe");
        let connect = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        ObserveClient::new(
            Endpoint::from_static("http://observe")
                .connect_with_connector(connect)
                .await
                .unwrap(),
        )
    }

    pub(super) async fn certify(&self, token: &str) -> Result<Identity, tonic::Status> {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default()
            .serialize_request(&key)
            .unwrap()
            .der()
            .to_vec();
        let request = CertifyRequest {
            token: token.into(),
            csr,
        };
        let mut client = IdentityClient::new(self.connect(None).await);
        Ok(Identity {
            certified: client.certify(request).await?.into_inner(),
            key,
        })
    }
}

/// Checks the chain; the name is the business of the proxy's own verifier.
#[derive(Debug)]
pub(super) struct ByUri(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for ByUri {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self
            .0
            .verify_server_cert(leaf, intermediates, name, ocsp, now)
        {
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

/// A discovery stream.
pub(super) struct Stream {
    pub(super) requests: mpsc::Sender<DiscoveryRequest>,
    pub(super) updates: Streaming<DiscoveryUpdate>,
}

impl Stream {
    pub(super) async fn open(channel: Channel) -> Result<Self, tonic::Status> {
        let (requests, receiver) = mpsc::channel(16);
        let receiver =
            futures_util::stream::unfold(receiver, |mut r| async { Some((r.recv().await?, r)) });
        let updates = DiscoveryClient::new(channel)
            .stream(receiver)
            .await?
            .into_inner();
        Ok(Self { requests, updates })
    }

    pub(super) async fn say(&self, kind: discovery_request::Kind) {
        self.requests
            .send(DiscoveryRequest { kind: Some(kind) })
            .await
            .unwrap();
    }

    pub(super) async fn hello(&self, namespace: &str, pod: &str) {
        let hello = Hello {
            namespace: namespace.into(),
            pod: pod.into(),
            proxy_version: "test".into(),
        };
        self.say(discovery_request::Kind::Hello(hello)).await;
    }

    pub(super) async fn next(&mut self) -> discovery_update::Kind {
        self.updates.message().await.unwrap().unwrap().kind.unwrap()
    }
}

pub(super) fn address(text: &str) -> Address {
    text.parse::<SocketAddr>().unwrap().into()
}

/// Everything has to come within this; nothing sleeps for it.
pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("this takes too long")
}

/// Sends reports until it is dropped, as proxies do.
pub(super) async fn report(
    channel: Channel,
    template: TelemetryReport,
) -> (Streaming<TelemetryCommand>, AbortOnDropHandle<()>) {
    let (sender, receiver) = mpsc::channel(1);
    let task = tokio::spawn(async move {
        while sender.send(template.clone()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let receiver =
        futures_util::stream::unfold(receiver, |mut r| async { Some((r.recv().await?, r)) });
    let commands = TelemetryClient::new(channel)
        .report(receiver)
        .await
        .unwrap()
        .into_inner();
    (commands, AbortOnDropHandle::new(task))
}
