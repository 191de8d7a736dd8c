//! A client, two proxies and an app on loopback, all on the test's own thread, without redirection.

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use mesh_api::v1::{Direction, Security};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{LocalSet, spawn_local},
    time::timeout,
};

use crate::{
    detect::HttpVersion,
    http::{inbound, outbound},
    inbound::Caller,
    io::Io,
    metrics::PeerLabels,
    tls::Tls,
    worker::Worker,
};

/// Whom an outbound proxy takes its client for.
pub(super) const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50000);

/// Runs a test on a thread of its own, as a worker does.
pub(super) fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        timeout(Duration::from_secs(60), test).await.unwrap()
    })
}

/// Serves each connection to a new port.
pub(super) async fn listen<F, T>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> T + 'static,
    T: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            tcp.set_nodelay(true).unwrap();
            spawn_local(serve(tcp));
        }
    });
    address
}

/// An outbound proxy for `destination`.
pub(super) async fn outbound(version: HttpVersion, destination: SocketAddr) -> SocketAddr {
    let worker = Worker::for_test(Tls::new());
    listen(move |tcp| {
        let worker = worker.clone();
        async move {
            let target = worker.target(destination);
            outbound::serve(worker, Io::from(tcp), CLIENT, version, target).await;
        }
    })
    .await
}

/// An inbound proxy before `app`; `identity`: who its callers prove to be.
pub(super) async fn inbound(
    version: HttpVersion,
    app: SocketAddr,
    identity: Option<&str>,
) -> SocketAddr {
    let worker = Worker::for_test(Tls::new());
    let identity = identity.map(|identity| identity.parse().unwrap());
    listen(move |tcp| {
        let worker = worker.clone();
        let caller = Caller {
            address: tcp.peer_addr().unwrap(),
            metrics: worker.metrics.peer(PeerLabels {
                direction: Direction::Inbound,
                service: None,
                workload: None,
                pod: "".into(),
                identity: identity.clone(),
                security: Security::Mtls,
                authority: "".into(),
            }),
            identity: identity.clone(),
            security: Security::Mtls,
        };
        let port = worker.app(app);
        async move { inbound::serve(worker, Io::from(tcp), version, caller, port).await }
    })
    .await
}

/// Two proxies in a row before `app`.
pub(super) async fn chain(version: HttpVersion, app: SocketAddr) -> SocketAddr {
    let inbound = inbound(version, app, None).await;
    outbound(version, inbound).await
}

/// A client that writes and reads text.
pub(super) struct Text {
    pub(super) tcp: TcpStream,
    read: Vec<u8>,
}

impl Text {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        Self::from(tcp)
    }

    pub(super) async fn send(&mut self, text: &str) {
        self.tcp.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads up to and including `end`.
    pub(super) async fn until(&mut self, end: &str) -> String {
        loop {
            let found = self
                .read
                .windows(end.len())
                .position(|window| window == end.as_bytes());
            if let Some(at) = found {
                let rest = self.read.split_off(at + end.len());
                let taken = std::mem::replace(&mut self.read, rest);
                return String::from_utf8(taken).unwrap();
            }
            let mut piece = [0; 4096];
            let length = timeout(Duration::from_secs(10), self.tcp.read(&mut piece))
                .await
                .unwrap_or_else(|_| panic!("no {end:?} in {:?}", self.so_far()))
                .unwrap();
            assert!(length > 0, "closed before {end:?} in {:?}", self.so_far());
            self.read.extend_from_slice(&piece[..length]);
        }
    }

    /// A head.
    pub(super) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Everything until the other side closes.
    pub(super) async fn rest(&mut self) -> String {
        let mut rest = std::mem::take(&mut self.read);
        // A reset after the last byte is as good as a close.
        let _ = timeout(Duration::from_secs(10), self.tcp.read_to_end(&mut rest))
            .await
            .unwrap();
        String::from_utf8_lossy(&rest).into_owned()
    }

    /// Waits for more, or for the end.
    pub(super) async fn is_closed(&mut self) -> bool {
        let mut byte = [0; 1];
        self.read.is_empty() && matches!(self.tcp.peek(&mut byte).await, Ok(0) | Err(_))
    }

    /// Nothing arrives for a while.
    pub(super) async fn is_silent(&mut self) -> bool {
        let mut piece = [0; 1];
        self.read.is_empty()
            && timeout(Duration::from_millis(100), self.tcp.read(&mut piece))
                .await
                .is_err()
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }
}

impl From<TcpStream> for Text {
    fn from(tcp: TcpStream) -> Self {
        Self {
            tcp,
            read: Vec::new(),
        }
    }
}

/// An app that gives the same bytes for every request head, and closes when `close`.
pub(super) async fn canned(response: &'static str, close: bool) -> SocketAddr {
    listen(move |tcp| async move {
        let mut text = Text::from(tcp);
        while !text.is_closed().await {
            text.head().await;
            text.send(response).await;
            if close {
                return;
            }
        }
    })
    .await
}
