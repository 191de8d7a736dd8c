//! The stream against a controller in memory.

use std::io;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use mesh_api::v1::discovery_server::{self, DiscoveryServer};
use mesh_api::v1::{Destination, DestinationDelta, Inbound, Outside, destination};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request as Call, Response, Status, Streaming};

use super::*;
use crate::state_dir::StateDir;
use crate::tls::tests::Authority;

const ADDRESS: &str = "192.0.2.7:443";

/// Hands every stream that is opened to the test.
struct Controller {
    opened: mpsc::UnboundedSender<Opened>,
}

/// The controller's end of one stream.
struct Opened {
    requests: Streaming<DiscoveryRequest>,
    updates: mpsc::Sender<Result<DiscoveryUpdate, Status>>,
}

#[tonic::async_trait]
impl discovery_server::Discovery for Controller {
    type StreamStream = ReceiverStream<Result<DiscoveryUpdate, Status>>;

    async fn stream(
        &self,
        call: Call<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let (updates, outgoing) = mpsc::channel(16);
        let opened = Opened {
            requests: call.into_inner(),
            updates,
        };
        self.opened
            .send(opened)
            .map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

impl Opened {
    async fn next(&mut self) -> Request {
        self.requests.next().await.unwrap().unwrap().kind.unwrap()
    }

    async fn send(&mut self, version: u64, kind: Update) -> Request {
        let update = DiscoveryUpdate {
            version,
            kind: Some(kind),
        };
        self.updates.send(Ok(update)).await.unwrap();
        self.next().await
    }
}

/// Streams of the proxy arrive at the receiver.
fn controller() -> (Channel, mpsc::UnboundedReceiver<Opened>) {
    let (opened, streams) = mpsc::unbounded_channel();
    let connector = tower::service_fn(move |_: http::Uri| {
        let service = DiscoveryServer::new(Controller {
            opened: opened.clone(),
        });
        let (near, far) = tokio::io::duplex(64 * 1024);
        tokio::spawn(
            http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(far), TowerToHyperService::new(service)),
        );
        async { Ok::<_, io::Error>(TokioIo::new(near)) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://controller");
    (endpoint.connect_with_connector_lazy(connector), streams)
}

fn outside() -> Update {
    Update::Destination(Destination {
        address: Some(address().into()),
        kind: Some(destination::Kind::Outside(Outside {})),
        ..Destination::default()
    })
}

fn address() -> SocketAddr {
    ADDRESS.parse().unwrap()
}

fn ack(version: u64) -> Request {
    Request::Ack(Ack { version })
}

#[tokio::test]
async fn asks_answers_and_comes_back() {
    let (ca, tls) = (Authority::new(), Authority::new().trusted("web"));
    let (discovery, stream) = Stream::new("shop", "web-1", tls.clone(), None);
    let (channel, mut streams) = controller();
    let mut watch = discovery.watch(address());
    tokio::spawn(stream.run(channel));

    let mut first = streams.recv().await.unwrap();
    let hello = Hello {
        namespace: "shop".into(),
        pod: "web-1".into(),
        proxy_version: env!("CARGO_PKG_VERSION").into(),
    };
    assert_eq!(first.next().await, Request::Hello(hello.clone()));
    assert_eq!(first.next().await, Request::Subscribe(address().into()));
    assert_eq!(
        first.send(1, Update::Bundle(ca.bundle().to_wire())).await,
        ack(1)
    );
    assert_eq!(tls.bundle().unwrap().roots(), ca.bundle().roots());
    assert_eq!(
        first.send(2, Update::Inbound(Inbound::default())).await,
        ack(2)
    );
    assert_eq!(first.send(3, outside()).await, ack(3));
    assert!(watch.wait_for(Option::is_some).await.is_ok());
    assert!(discovery.is_connected());

    let second_address: SocketAddr = "192.0.2.8:443".parse().unwrap();
    let _second_watch = discovery.watch(second_address);
    assert_eq!(
        first.next().await,
        Request::Subscribe(second_address.into())
    );

    let delta = DestinationDelta {
        address: Some(second_address.into()),
        ..Default::default()
    };
    let answer = first.send(4, Update::Delta(delta)).await;
    assert!(
        matches!(&answer, Request::Nack(nack) if nack.version == 4),
        "{answer:?}"
    );

    drop(first);
    let mut again = streams.recv().await.unwrap();
    assert_eq!(again.next().await, Request::Hello(hello));
    assert_eq!(again.next().await, Request::Subscribe(address().into()));
    assert_eq!(
        again.next().await,
        Request::Subscribe(second_address.into())
    );
    assert!(watch.borrow().is_some(), "what was known serves on");
}

#[tokio::test]
async fn a_restarted_proxy_starts_from_its_cache() {
    let folder = tempfile::tempdir().unwrap();
    let cache = || Some(Cache::new(StateDir::open(folder.path()).unwrap()));
    let (ca, tls) = (Authority::new(), Authority::new().trusted("web"));

    let (discovery, stream) = Stream::new("shop", "web-1", tls.clone(), cache());
    drop(discovery.watch(address()));
    let update = DiscoveryUpdate {
        version: 1,
        kind: Some(outside()),
    };
    assert_eq!(stream.answer(update), ack(1));
    let rotated = Update::Bundle(ca.bundle().to_wire());
    assert_eq!(
        stream.answer(DiscoveryUpdate {
            version: 2,
            kind: Some(rotated)
        }),
        ack(2)
    );
    stream.upkeep();
    drop((discovery, stream));

    let tls = Tls::new();
    let (discovery, _stream) = Stream::new("shop", "web-1", tls.clone(), cache());
    assert_eq!(tls.bundle().unwrap().roots(), ca.bundle().roots());
    let known = discovery.watch(address()).borrow().clone();
    assert_eq!(known.map(|known| known.address), Some(address()));
    assert!(!discovery.is_connected());
}

/// Without the controller, a service that was idle for a minute is neither waited for nor sent to in clear.
#[tokio::test]
async fn a_forgotten_service_is_known_at_once_when_the_controller_is_gone() {
    let (discovery, stream) = Stream::new("shop", "web-1", Authority::new().trusted("web"), None);
    let (channel, mut streams) = controller();
    drop(discovery.watch(address()));
    tokio::spawn(stream.run(channel));
    let mut first = streams.recv().await.unwrap();
    assert!(matches!(first.next().await, Request::Hello(_)));
    assert_eq!(first.next().await, Request::Subscribe(address().into()));
    let service = Destination {
        address: Some(address().into()),
        kind: Some(destination::Kind::Service(Default::default())),
        ..Destination::default()
    };
    first.send(1, Update::Destination(service)).await;
    let now = Instant::now();
    let later = now + Duration::from_secs(60);
    discovery.world().forget_idle(now, true);
    assert_eq!(discovery.world().forget_idle(later, true), [address()]);

    let mut waiting = discovery.watch(address());
    assert!(waiting.borrow().is_none(), "the controller is there to ask");
    drop((first, streams));
    waiting.wait_for(Option::is_some).await.unwrap();
    drop(waiting);
    discovery.world().forget_idle(now, true);
    discovery.world().forget_idle(later, true);
    assert!(discovery.watch(address()).borrow().is_some());
}
