//! The whole way of a request, over sockets of the loopback interface: client, proxies and app are one thread, so
//! that everything happens in the same order each time.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::LocalOptions,
    task::spawn_local,
};

use super::{allocations, pod};

const GET: &[u8] =
    b"GET /users/1234/orders?page=3 HTTP/1.1\r\nhost: orders\r\nuser-agent: bench\r\n\
    accept: application/json\r\nx-request-id: 0193a1b2-7c1e-7f00-8a45-1d2e3f405162\r\n\r\n";
const POST: &[u8] = b"POST /users HTTP/1.1\r\nhost: users\r\nuser-agent: bench\r\n\
    content-type: application/json\r\ncontent-length: 1024\r\n\r\n";
/// No HTTP, but the app knows its end.
const OPAQUE: &[u8] = b"hello\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nserver: bench\r\ncontent-type: text/plain\r\n\
    date: Sun, 29 Nov 2026 10:00:00 GMT\r\ncontent-length: 1000\r\n\r\n";
const BODY: usize = 1000;
/// Requests before those that count: connections get open, buffers and tables their size.
const WARM_UP: u64 = 50;

/// What is between client and app.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Outbound,
    Inbound,
    Clear,
    Mtls,
}

pub(super) fn floor_get(operations: u64) -> u64 {
    http1(operations, Way::Direct, GET.to_vec())
}

pub(super) fn get_outbound(operations: u64) -> u64 {
    http1(operations, Way::Outbound, GET.to_vec())
}

pub(super) fn get_inbound(operations: u64) -> u64 {
    http1(operations, Way::Inbound, GET.to_vec())
}

pub(super) fn get_clear(operations: u64) -> u64 {
    http1(operations, Way::Clear, GET.to_vec())
}

pub(super) fn get_mtls(operations: u64) -> u64 {
    http1(operations, Way::Mtls, GET.to_vec())
}

pub(super) fn post_mtls(operations: u64) -> u64 {
    let request = [POST, &[b'x'; 1024]].concat();
    http1(operations, Way::Mtls, request)
}

pub(super) fn connect_mtls(operations: u64) -> u64 {
    reconnect(operations, GET)
}

pub(super) fn handshake_mtls(operations: u64) -> u64 {
    reconnect(operations, OPAQUE)
}

pub(super) fn floor_h2(operations: u64) -> u64 {
    http2(operations, Way::Direct)
}

pub(super) fn h2_clear(operations: u64) -> u64 {
    http2(operations, Way::Clear)
}

pub(super) fn h2_mtls(operations: u64) -> u64 {
    http2(operations, Way::Mtls)
}

/// A connection that is kept, with one request in flight. Many at once would share connections between the proxies as
/// the moment has it: that is for `compare`.
fn http1(operations: u64, way: Way, request: Vec<u8>) -> u64 {
    on_one_thread(async move {
        let mut client = Client::connect(way.open(app_http1().await?).await?).await?;
        counted(operations, async || {
            client.tcp.write_all(&request).await?;
            client.response().await
        })
        .await
    })
}

/// A new connection each time.
fn reconnect(operations: u64, request: &'static [u8]) -> u64 {
    on_one_thread(async move {
        let address = Way::Mtls.open(app_http1().await?).await?;
        counted(operations, async || {
            let mut client = Client::connect(address).await?;
            client.tcp.write_all(request).await?;
            client.response().await
        })
        .await
    })
}

fn http2(operations: u64, way: Way) -> u64 {
    on_one_thread(async move {
        let address = way.open(app_http2().await?).await?;
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let (client, connection) = h2::client::handshake(tcp).await?;
        spawn_local(connection);
        counted(operations, async || {
            let request = http::Request::get("http://orders/users/1234/orders?page=3").body(())?;
            let (response, _) = client.clone().ready().await?.send_request(request, true)?;
            let mut body = response.await?.into_body();
            let mut length = 0;
            while let Some(data) = body.data().await {
                let data = data?;
                length += data.len();
                body.flow_control().release_capacity(data.len())?;
            }
            ensure!(length == BODY, "a body of {length} bytes");
            Ok(())
        })
        .await
    })
}

impl Way {
    /// Where clients connect.
    async fn open(self, app: SocketAddr) -> anyhow::Result<SocketAddr> {
        let tls = (self == Self::Mtls).then(pod::identity).transpose()?;
        let tls = tls.as_ref();
        match self {
            Self::Direct => Ok(app),
            Self::Outbound => pod::outbound(app, None).await,
            Self::Inbound => pod::inbound(app, None).await,
            Self::Clear | Self::Mtls => pod::outbound(pod::inbound(app, tls).await?, tls).await,
        }
    }
}

/// Runs as a worker runs: one thread, tasks that stay on it.
fn on_one_thread(work: impl Future<Output = anyhow::Result<u64>>) -> u64 {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())?;
        runtime.block_on(work)
    };
    // Whoever started this process reads why.
    run().unwrap()
}

/// The allocations of so many rounds.
async fn counted(
    rounds: u64,
    mut round: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    for _ in 0..WARM_UP {
        round().await?;
    }
    let before = allocations::so_far();
    for _ in 0..rounds {
        round().await?;
    }
    Ok(allocations::so_far() - before)
}

/// A connection whose responses all have the same body.
struct Client {
    tcp: TcpStream,
    read: Vec<u8>,
}

impl Client {
    async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        Ok(Self {
            tcp,
            read: Vec::with_capacity(4096),
        })
    }

    async fn response(&mut self) -> anyhow::Result<()> {
        self.read.clear();
        loop {
            let end = memchr::memmem::find(&self.read, b"\r\n\r\n");
            if end.is_some_and(|end| self.read.len() == end + 4 + BODY) {
                break;
            }
            let read = self.tcp.read_buf(&mut self.read).await?;
            ensure!(
                read > 0,
                "closed after {:?}",
                String::from_utf8_lossy(&self.read)
            );
        }
        ensure!(
            self.read.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&self.read)
        );
        Ok(())
    }
}

/// Answers every request with [`RESPONSE`].
async fn app_http1() -> anyhow::Result<SocketAddr> {
    let (listener, address) = pod::listener().await?;
    let response: Bytes = [RESPONSE, &[b'r'; BODY]].concat().into();
    spawn_local(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let response = response.clone();
            spawn_local(async move {
                // The client says what is wrong when its response does not come.
                let _ = answer_http1(tcp, &response).await;
            });
        }
    });
    Ok(address)
}

async fn answer_http1(mut tcp: TcpStream, response: &[u8]) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut read = Vec::with_capacity(4096);
    while tcp.read_buf(&mut read).await? > 0 {
        let Some(end) = memchr::memmem::find(&read, b"\r\n\r\n") else {
            continue;
        };
        let body = if read.starts_with(b"POST") { 1024 } else { 0 };
        if read.len() == end + 4 + body {
            read.clear();
            tcp.write_all(response).await?;
        }
    }
    Ok(())
}

/// Answers every stream with a body of the same length.
async fn app_http2() -> anyhow::Result<SocketAddr> {
    let (listener, address) = pod::listener().await?;
    spawn_local(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            spawn_local(async move {
                let _ = answer_http2(tcp).await.context("the app's connection");
            });
        }
    });
    Ok(address)
}

async fn answer_http2(tcp: TcpStream) -> anyhow::Result<()> {
    tcp.set_nodelay(true)?;
    let mut connection = h2::server::handshake(tcp).await?;
    while let Some(stream) = connection.accept().await {
        let (_, mut respond) = stream?;
        let response = http::Response::builder()
            .header("content-type", "text/plain")
            .header("content-length", BODY)
            .body(())?;
        respond
            .send_response(response, false)?
            .send_data(Bytes::from_static(&[b'r'; BODY]), true)?;
    }
    Ok(())
}
