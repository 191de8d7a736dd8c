//! The whole controller over real sockets, and a client as small as a proxy can be.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use hyper_util::rt::TokioIo;
use mesh_api::v1::{
    Address, CertifyRequest, CertifyResponse, Direction, DiscoveryRequest, DiscoveryUpdate, Hello,
    InventoryRequest, RequestStats, Security, Selector, StatRequest, TapEvent, TapRequest,
    TelemetryCommand, TelemetryReport, Workload, discovery_client::DiscoveryClient,
    discovery_request, discovery_update, identity_client::IdentityClient,
    observe_client::ObserveClient, telemetry_client::TelemetryClient, telemetry_command,
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
    Code, Streaming,
    transport::{Channel, Endpoint},
};

use super::*;
use crate::listen::Listen;

/// `printf %s secret | sha256sum`
const TOKEN_FILE: &str =
    "tokens/2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b.json";

/// Folders of a controller, and the controller while it runs.
struct Mesh {
    folder: tempfile::TempDir,
    listen: SocketAddr,
    running: Option<(CancellationToken, JoinHandle<anyhow::Result<()>>)>,
}

/// A proxy's credentials.
struct Identity {
    certified: CertifyResponse,
    key: KeyPair,
}

impl Mesh {
    fn new() -> Self {
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

    fn write(&self, path: &str, content: &Value) {
        let path = self.folder.path().join("objects").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let temporary = path.with_extension("new");
        fs::write(&temporary, content.to_string()).unwrap();
        fs::rename(temporary, path).unwrap();
    }

    fn write_pod(&self, name: &str, workload: &str, ip: &str) {
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

    fn write_slice(&self, ready: bool) {
        self.write("endpointslices/shop.api.json", &json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": "shop", "name": "api", "labels": {"kubernetes.io/service-name": "api"}},
            "ports": [{"port": 8080}],
            "endpoints": [{"addresses": ["10.0.0.2"], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": "api-1"}}],
        }));
    }

    fn start(&mut self) {
        let path = |name: &str| self.folder.path().join(name);
        let args = RunArgs {
            source: SourceKind::Directory,
            directory: path("objects"),
            state_dir: path("state"),
            listen: self.listen,
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            observe_listen: Some(Listen::Path(path("observe"))),
            trust_domain: "cluster.local".into(),
            leaf_lifetime: Duration::from_secs(60),
            bundle_file: Some(path("bundle.pem")),
            log_level: "info".into(),
            log_format: LogFormat::Plain,
        };
        let (_, log_level) = reload::Layer::new(EnvFilter::new("off"));
        let stop = CancellationToken::new();
        let mut registry = Registry::default();
        let source = Directory::new(args.directory.clone(), &mut registry);
        let stopped = stop.clone();
        let task =
            tokio::spawn(async move { run(&args, source, registry, log_level, stopped).await });
        self.running = Some((stop, task));
    }

    async fn stop(&mut self) {
        let (stop, task) = self.running.take().unwrap();
        stop.cancel();
        task.await.unwrap().unwrap();
    }

    /// A connection as a proxy makes it: it trusts the bundle file, and shows its certificate if it has one.
    async fn connect(&self, identity: Option<&Identity>) -> Channel {
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

    async fn observe(&self) -> ObserveClient<Channel> {
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

    async fn certify(&self, token: &str) -> Result<Identity, tonic::Status> {
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
struct ByUri(Arc<WebPkiServerVerifier>);

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
struct Stream {
    requests: mpsc::Sender<DiscoveryRequest>,
    updates: Streaming<DiscoveryUpdate>,
}

impl Stream {
    async fn open(channel: Channel) -> Result<Self, tonic::Status> {
        let (requests, receiver) = mpsc::channel(16);
        let receiver =
            futures_util::stream::unfold(receiver, |mut r| async { Some((r.recv().await?, r)) });
        let updates = DiscoveryClient::new(channel)
            .stream(receiver)
            .await?
            .into_inner();
        Ok(Self { requests, updates })
    }

    async fn say(&self, kind: discovery_request::Kind) {
        self.requests
            .send(DiscoveryRequest { kind: Some(kind) })
            .await
            .unwrap();
    }

    async fn hello(&self, namespace: &str, pod: &str) {
        let hello = Hello {
            namespace: namespace.into(),
            pod: pod.into(),
            proxy_version: "test".into(),
        };
        self.say(discovery_request::Kind::Hello(hello)).await;
    }

    async fn next(&mut self) -> discovery_update::Kind {
        self.updates.message().await.unwrap().unwrap().kind.unwrap()
    }
}

fn address(text: &str) -> Address {
    text.parse::<SocketAddr>().unwrap().into()
}

/// Everything has to come within this; nothing sleeps for it.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("this takes too long")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identities_are_for_those_with_a_token() {
    let mut mesh = Mesh::new();
    mesh.start();
    let forged = soon(mesh.certify("forged")).await.err().unwrap();
    assert_eq!(forged.code(), Code::Unauthenticated);
    let mut client = IdentityClient::new(mesh.connect(None).await);
    let bad = CertifyRequest {
        token: "secret".into(),
        csr: b"nonsense".to_vec(),
    };
    assert_eq!(
        client.certify(bad).await.unwrap_err().code(),
        Code::InvalidArgument
    );

    let identity = soon(mesh.certify("secret")).await.unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&identity.certified.chain[0]).unwrap();
    let names = leaf
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names[0]
        .to_string();
    assert!(
        names.contains("spiffe://cluster.local/ns/shop/sa/web"),
        "{names}"
    );
    assert_eq!(
        leaf.validity().not_after.timestamp() as u64,
        identity.certified.not_after
    );

    let anonymous = Stream::open(mesh.connect(None).await).await.err().unwrap();
    assert_eq!(anonymous.code(), Code::Unauthenticated);
    for (namespace, pod) in [("other", "web-1"), ("shop", "api-1")] {
        let mut stream = Stream::open(mesh.connect(Some(&identity)).await)
            .await
            .unwrap();
        stream.hello(namespace, pod).await;
        let denied = soon(stream.updates.message()).await.unwrap_err();
        assert_eq!(denied.code(), Code::PermissionDenied, "{namespace}/{pod}");
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovery_pushes_what_changes_and_survives_a_restart() {
    let mut mesh = Mesh::new();
    mesh.start();
    let identity = soon(mesh.certify("secret")).await.unwrap();
    let mut stream = Stream::open(mesh.connect(Some(&identity)).await)
        .await
        .unwrap();
    stream.hello("shop", "web-1").await;
    let discovery_update::Kind::Bundle(bundle) = soon(stream.next()).await else {
        panic!("no bundle")
    };
    assert_eq!(Some(&bundle), identity.certified.bundle.as_ref());
    let discovery_update::Kind::Inbound(inbound) = soon(stream.next()).await else {
        panic!("no policy")
    };
    assert_eq!(inbound.workload.unwrap().to_string(), "deployment/web");

    stream
        .say(discovery_request::Kind::Subscribe(address("10.96.0.1:80")))
        .await;
    let discovery_update::Kind::Destination(api) = soon(stream.next()).await else {
        panic!("no destination")
    };
    assert_eq!(
        api.endpoints[0].identity,
        "spiffe://cluster.local/ns/shop/sa/api"
    );
    mesh.write_slice(false);
    let discovery_update::Kind::Delta(delta) = soon(stream.next()).await else {
        panic!("no delta")
    };
    assert_eq!(delta.remove, [address("10.0.0.2:8080")]);
    mesh.write_slice(true);
    let discovery_update::Kind::Delta(delta) = soon(stream.next()).await else {
        panic!("no delta")
    };
    assert_eq!(delta.upsert[0].address, Some(address("10.0.0.2:8080")));

    soon(mesh.stop()).await;
    let end = soon(stream.updates.message()).await;
    assert!(end.is_err() || end.unwrap().is_none());
    mesh.start();
    let mut stream = soon(async {
        Stream::open(mesh.connect(Some(&identity)).await)
            .await
            .unwrap()
    })
    .await;
    stream.hello("shop", "web-1").await;
    let discovery_update::Kind::Bundle(after) = soon(stream.next()).await else {
        panic!("no bundle")
    };
    assert_eq!(after, bundle, "the same root");
    mesh.stop().await;
}

/// Sends reports until it is dropped, as proxies do.
async fn report(
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cli_sees_what_proxies_report() {
    let mut mesh = Mesh::new();
    mesh.start();
    let identity = soon(mesh.certify("secret")).await.unwrap();
    let api = Workload {
        namespace: "shop".into(),
        kind: "deployment".into(),
        name: "api".into(),
    };
    let template = TelemetryReport {
        namespace: "shop".into(),
        pod: "web-1".into(),
        window_ms: 50,
        requests: vec![RequestStats {
            direction: Direction::Outbound.into(),
            peer: Some(api.clone()),
            security: Security::Mtls.into(),
            method: "GET".into(),
            route: "/".into(),
            success: 1,
            ..RequestStats::default()
        }],
        taps: vec![TapEvent {
            direction: Direction::Outbound.into(),
            source_address: Some(address("10.0.0.1:5000")),
            destination: Some(api.clone()),
            path: "/seen".into(),
            ..TapEvent::default()
        }],
        ..TelemetryReport::default()
    };
    let (mut commands, _reports) = report(mesh.connect(Some(&identity)).await, template).await;
    let mut observe = mesh.observe().await;

    let inventory = soon(async {
        loop {
            let inventory = observe
                .inventory(InventoryRequest {})
                .await
                .unwrap()
                .into_inner();
            if !inventory.proxies.is_empty() {
                break inventory;
            }
        }
    })
    .await;
    assert_eq!(inventory.namespaces, ["shop"]);
    assert_eq!(inventory.workloads.len(), 2);
    assert_eq!(
        inventory.proxies[0].identity,
        "spiffe://cluster.local/ns/shop/sa/web"
    );

    let web = Selector {
        kind: "deployment".into(),
        name: "web".into(),
        ..Selector::default()
    };
    let to_api = StatRequest {
        selector: Some(web),
        window_s: 10,
        to: Some(Selector {
            name: "api".into(),
            ..Selector::default()
        }),
        from: None,
    };
    let rows = observe.stat(to_api).await.unwrap().into_inner().rows;
    assert!(rows[0].traffic.as_ref().unwrap().secured > 0);
    let unknown = StatRequest {
        selector: Some(Selector {
            name: "aip".into(),
            ..Selector::default()
        }),
        ..StatRequest::default()
    };
    let unknown = observe.stat(unknown).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(
        unknown.message().contains("did you mean \"api\""),
        "{}",
        unknown.message()
    );

    let mut tap = observe
        .tap(TapRequest::default())
        .await
        .unwrap()
        .into_inner();
    let started = soon(commands.message())
        .await
        .unwrap()
        .unwrap()
        .kind
        .unwrap();
    let telemetry_command::Kind::StartTap(start) = started else {
        panic!("{started:?}")
    };
    let event = soon(tap.message()).await.unwrap().unwrap();
    assert_eq!(event.path, "/seen");
    assert_eq!(
        event.source.unwrap().to_string(),
        "deployment/web",
        "named by its address"
    );
    drop(tap);
    assert_eq!(
        soon(commands.message()).await.unwrap().unwrap().kind,
        Some(telemetry_command::Kind::StopTap(start.id))
    );
    mesh.stop().await;
}

#[tokio::test]
async fn the_observe_socket_is_replaced_but_files_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("observe");
    drop(Listener::bind(&Listen::Path(path.clone())).await.unwrap());
    assert!(
        Listener::bind(&Listen::Path(path.clone())).await.is_ok(),
        "left by a predecessor"
    );
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    assert!(Listener::bind(&Listen::Path(path.clone())).await.is_err());
    assert_eq!(fs::read_to_string(Path::new(&path)).unwrap(), "precious");
}
