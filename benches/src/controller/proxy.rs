//! The control connection of a proxy, without the proxy.

use std::{
    collections::HashSet,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use mesh_api::v1::{
    CertifyRequest, CertifyResponse, Direction, DiscoveryRequest, DiscoveryUpdate, Hello,
    RequestStats, Security, TelemetryReport, Workload, discovery_client::DiscoveryClient,
    discovery_request, discovery_update, identity_client::IdentityClient,
    telemetry_client::TelemetryClient,
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
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::MissedTickBehavior,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

use super::objects::Pod;

/// A proxy that hears nothing for so long is not served.
const PATIENCE: Duration = Duration::from_secs(60);

/// How proxies reach the controller, and when they hear of changes.
pub(super) struct Network {
    controller: SocketAddr,
    bundle: PathBuf,
    pub(super) arrivals: Arc<Arrivals>,
}

/// When each proxy heard of a change.
#[derive(Default)]
pub(super) struct Arrivals {
    state: Mutex<(usize, Vec<Instant>)>,
    complete: Notify,
}

/// A proxy's certificate.
pub(super) struct Identity {
    certified: CertifyResponse,
    key: KeyPair,
}

/// A proxy that has been told all that it asked for. Dropping it disconnects it.
pub(super) struct Proxy {
    channel: Channel,
    pod: Pod,
    listening: JoinHandle<()>,
    /// The stream ends with it.
    _requests: mpsc::Sender<DiscoveryRequest>,
}

/// Reports until it is dropped.
pub(super) struct Reporting(JoinHandle<()>);

impl Network {
    pub(super) fn new(controller: SocketAddr, bundle: PathBuf) -> Self {
        Self {
            controller,
            bundle,
            arrivals: Arc::default(),
        }
    }

    async fn connect(&self, identity: Option<&Identity>) -> anyhow::Result<Channel> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(&self.bundle)? {
            roots.add(root?)?;
        }
        let webpki = WebPkiServerVerifier::builder(Arc::new(roots)).build()?;
        let config = ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyName(webpki)));
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let chain = identity.certified.chain.iter().cloned();
                let key = PrivateKeyDer::try_from(identity.key.serialize_der());
                let key = key.map_err(anyhow::Error::msg)?;
                config.with_client_auth_cert(chain.map(CertificateDer::from).collect(), key)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config));
        let controller = self.controller;
        let connect = tower::service_fn(move |_| {
            let tls = tls.clone();
            async move {
                let stream = TcpStream::connect(controller).await?;
                stream.set_nodelay(true)?;
                let name = ServerName::from(controller.ip());
                tls.connect(name, stream).await.map(TokioIo::new)
            }
        });
        let endpoint = Endpoint::from_static("http://controller");
        endpoint
            .connect_with_connector(connect)
            .await
            .context("connecting to the controller")
    }
}

impl Arrivals {
    /// The next change will be heard of by `proxies`.
    pub(super) fn expect(&self, proxies: usize) {
        *self.lock() = (proxies, Vec::with_capacity(proxies));
    }

    /// When each heard of it, in order.
    pub(super) async fn all(&self) -> Vec<Instant> {
        self.complete.notified().await;
        std::mem::take(&mut self.lock().1)
    }

    fn add(&self) {
        let mut state = self.lock();
        state.1.push(Instant::now());
        if state.1.len() == state.0 {
            self.complete.notify_one();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (usize, Vec<Instant>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Identity {
    /// A new key, certified.
    pub(super) async fn certified(network: &Network, token: &str) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let csr = CertificateParams::default().serialize_request(&key)?;
        let request = CertifyRequest {
            token: token.into(),
            csr: csr.der().to_vec(),
        };
        let mut client = IdentityClient::new(network.connect(None).await?);
        let certified = client.certify(request).await.context("certifying")?;
        Ok(Self {
            certified: certified.into_inner(),
            key,
        })
    }
}

impl Proxy {
    /// Connects and asks for `destinations`; returns when all of them are known.
    pub(super) async fn join(
        network: &Network,
        identity: Identity,
        pod: Pod,
        destinations: Vec<SocketAddr>,
    ) -> anyhow::Result<Self> {
        let channel = network.connect(Some(&identity)).await?;
        let (requests, receiver) = mpsc::channel(destinations.len() + 1);
        let hello = Hello {
            namespace: pod.namespace.into(),
            pod: pod.name.clone(),
            proxy_version: env!("CARGO_PKG_VERSION").into(),
        };
        let watched = destinations.first().copied();
        let mut unknown: HashSet<SocketAddr> = destinations.iter().copied().collect();
        let subscriptions = unknown.iter().map(|at| (*at).into());
        let asked = std::iter::once(discovery_request::Kind::Hello(hello))
            .chain(subscriptions.map(discovery_request::Kind::Subscribe));
        for kind in asked {
            requests.send(DiscoveryRequest { kind: Some(kind) }).await?;
        }
        let mut client = DiscoveryClient::new(channel.clone());
        let updates = client.stream(ReceiverStream::new(receiver)).await?;
        let mut updates = updates.into_inner();
        let told = async {
            while !unknown.is_empty() {
                let update = updates.message().await?.context("the stream has ended")?;
                if let Some(discovery_update::Kind::Destination(destination)) = update.kind {
                    let at = destination
                        .address
                        .context("a destination without address")?;
                    unknown.remove(&SocketAddr::try_from(&at)?);
                }
            }
            anyhow::Ok(())
        };
        let told = tokio::time::timeout(PATIENCE, told).await;
        told.context("the controller does not answer")??;
        let arrivals = Arc::clone(&network.arrivals);
        Ok(Self {
            listening: tokio::spawn(listen(updates, watched, arrivals)),
            channel,
            pod,
            _requests: requests,
        })
    }

    /// Starts to report `series` once a second; proxies do so at different moments.
    pub(super) fn report(&self, series: usize, seed: u32) -> Reporting {
        let workload = |name: String| Workload {
            namespace: self.pod.namespace.into(),
            kind: "deployment".into(),
            name,
        };
        let requests = (0..series as u32).map(|n| RequestStats {
            direction: Direction::Outbound.into(),
            peer: Some(workload(format!("s{}", (seed + n * 7) % 97))),
            security: Security::Mtls.into(),
            method: "GET".into(),
            route: format!("/route/{}", n % 5),
            success: 50,
            ..RequestStats::default()
        });
        let report = TelemetryReport {
            namespace: self.pod.namespace.into(),
            pod: self.pod.name.clone(),
            window_ms: 1000,
            requests: requests.collect(),
            ..TelemetryReport::default()
        };
        let mut client = TelemetryClient::new(self.channel.clone());
        let first = Duration::from_millis(u64::from(seed.wrapping_mul(7919) % 1000));
        Reporting(tokio::spawn(async move {
            let (sender, receiver) = mpsc::channel(1);
            let Ok(commands) = client.report(ReceiverStream::new(receiver)).await else {
                return;
            };
            let _commands = commands.into_inner();
            tokio::time::sleep(first).await;
            let mut every = tokio::time::interval(Duration::from_secs(1));
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                every.tick().await;
                if sender.send(report.clone()).await.is_err() {
                    return;
                }
            }
        }))
    }
}

/// Hears of changes of the first destination.
async fn listen(
    mut updates: Streaming<DiscoveryUpdate>,
    watched: Option<SocketAddr>,
    arrivals: Arc<Arrivals>,
) {
    while let Ok(Some(update)) = updates.message().await {
        if let Some(discovery_update::Kind::Delta(delta)) = update.kind
            && delta.address.and_then(|at| SocketAddr::try_from(&at).ok()) == watched
        {
            arrivals.add();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Checks the chain; the controller's name is the business of the proxy's own verifier.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
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
