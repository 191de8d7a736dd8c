//! A worker for tests, and connections on loopback as the kernel would hand them over.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroUsize;

use mesh_api::SpiffeId;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::*;
use crate::config::{AccessLog, LogFormat};
use crate::discovery::{Destination, Endpoint, Kind};

impl Worker {
    /// A worker that discovers nothing but what [`Worker::know`] tells it.
    pub(crate) fn for_test(tls: Tls) -> Rc<Self> {
        let config = Config {
            outbound_port: 4140,
            inbound_port: 4143,
            admin_port: 4191,
            workers: NonZeroUsize::MIN,
            mark: None,
            namespace: "shop".to_owned(),
            pod: "web-1".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            controller: None,
            state_dir: None,
            drain_timeout: Duration::from_secs(1),
            access_log: AccessLog::Off,
            log_level: "info".to_owned(),
            log_format: LogFormat::Plain,
        };
        let (trigger, drain) = crate::drain::channel(config.drain_timeout);
        drop(trigger);
        Self::new(Parts {
            config: Arc::new(config),
            tls,
            discovery: Discovery::disconnected(),
            metrics: Metrics::new(),
            drain,
        })
    }

    /// Discovery answers about a destination: a service with these endpoints. More can be said later.
    pub(crate) fn know(
        &self,
        address: SocketAddr,
        protocol: v1::Protocol,
        endpoints: &[(SocketAddr, Option<SpiffeId>)],
    ) -> watch::Sender<Option<Arc<Destination>>> {
        let destination = Destination {
            address,
            kind: Kind::Service(Arc::default()),
            protocol,
            endpoints: endpoints
                .iter()
                .map(|(address, identity)| {
                    Arc::new(Endpoint {
                        address: *address,
                        weight: 1,
                        identity: identity.clone(),
                        workload: Arc::default(),
                        pod: address.to_string().into(),
                        zone: "".into(),
                    })
                })
                .collect(),
        };
        let (sender, receiver) = watch::channel(Some(Arc::new(destination)));
        let target = Target::new(
            address,
            receiver,
            self.config.clone(),
            self.metrics.clone(),
            Instant::now(),
        );
        self.targets.borrow_mut().insert(address, Rc::new(target));
        sender
    }
}

/// A server on loopback.
pub(crate) async fn server(v6: bool) -> (TcpListener, SocketAddr) {
    let ip: std::net::IpAddr = match v6 {
        true => Ipv6Addr::LOCALHOST.into(),
        false => Ipv4Addr::LOCALHOST.into(),
    };
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A client, its connection as the proxy accepted it, and the client's address.
pub(crate) async fn redirected(v6: bool) -> (TcpStream, TcpStream, SocketAddr) {
    let (listener, address) = server(v6).await;
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (accepted, peer) = accepted.unwrap();
    (client.unwrap(), accepted, peer)
}

/// A connection that an app in the pod of `worker` opened to `destination`, served on the current [`LocalSet`].
pub(crate) async fn dial(worker: &Rc<Worker>, destination: SocketAddr) -> TcpStream {
    let (client, accepted, address) = redirected(destination.is_ipv6()).await;
    let connection = outbound::connection(worker.clone(), accepted, address, destination);
    spawn_local(connection);
    client
}

/// Resets one end of a connection; the other end must see a reset.
pub(crate) async fn assert_reset_passes(breaks: TcpStream, mut sees: TcpStream) {
    breaks.set_zero_linger().unwrap();
    drop(breaks);
    let error = sees.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// An address of loopback where nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    server(false).await.1
}
