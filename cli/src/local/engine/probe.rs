//! Asks containers how they are.
//!
//! Questions over the network are asked from inside of the pod and carry the proxy's mark: they reach the app
//! itself, whatever the proxy does, and don't show up as traffic.

mod tls;

use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr, TcpStream},
    process::Stdio,
    thread,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use mesh_api::names;
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::oneshot,
    time::timeout,
};
use tonic::transport::Endpoint;

use super::container::Place;
use crate::local::manifest::Check;

/// Asks once. The error says what the answer was.
pub(super) async fn ask(place: &Place, check: &Check, limit: Duration) -> Result<(), String> {
    let answer = async {
        match check {
            Check::Exec(command) => exec(place, command).await,
            Check::Tcp(port) => connect(place, *port, limit).await.map(drop),
            Check::Http {
                port,
                tls,
                host,
                path,
                headers,
            } => {
                let stream = connect(place, *port, limit).await?;
                let host = host
                    .clone()
                    .unwrap_or_else(|| format!("{}:{port}", place.ip));
                match tls {
                    false => http(stream, &host, path, headers).await,
                    true => http(tls::connect(stream, place.ip).await?, &host, path, headers).await,
                }
            }
            Check::Grpc { port, service } => {
                let stream = connect(place, *port, limit).await?;
                grpc(stream, service).await
            }
        }
    };
    timeout(limit, answer)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
}

/// Whether something in the pod listens on all of these TCP ports; nothing is sent.
pub(super) fn listens(place: &Place, ports: &[u16]) -> bool {
    let read = |name| fs::read_to_string(format!("/proc/{}/net/{name}", place.holder));
    let sockets = read("tcp").unwrap_or_default() + &read("tcp6").unwrap_or_default();
    let open: Vec<u16> = sockets.lines().filter_map(listening_port).collect();
    ports.iter().all(|port| open.contains(port))
}

/// The port of a line of /proc/net/tcp that is a listening socket (state 0A).
fn listening_port(line: &str) -> Option<u16> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (_, port) = fields.next()?.rsplit_once(':')?;
    (fields.nth(1)? == "0A").then_some(())?;
    u16::from_str_radix(port, 16).ok()
}

async fn exec(place: &Place, command: &[String]) -> Result<(), String> {
    let mut process = place.command(command);
    process.stdout(Stdio::null()).stderr(Stdio::piped());
    let output = process
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let last = words.lines().last().unwrap_or_default();
    Err(
        format!("{} {last}", super::process::describe(output.status))
            .trim_end()
            .into(),
    )
}

/// Connects from within the pod. Only the thread that makes the socket has to be there.
async fn connect(
    place: &Place,
    port: u16,
    limit: Duration,
) -> Result<tokio::net::TcpStream, String> {
    let (answer, connected) = oneshot::channel();
    let (holder, address) = (place.holder, SocketAddr::new(IpAddr::V4(place.ip), port));
    // A thread of its own, which ends: it never comes back from the pod's namespace.
    thread::spawn(move || answer.send(connect_blocking(holder, address, limit)));
    let stream = connected.await.map_err(|_| "the probe's thread ended")?;
    let stream = stream.map_err(|error| format!("cannot connect to port {port}: {error}"))?;
    tokio::net::TcpStream::from_std(stream).map_err(|error| error.to_string())
}

fn connect_blocking(
    holder: u32,
    address: SocketAddr,
    limit: Duration,
) -> std::io::Result<TcpStream> {
    let namespace = File::open(format!("/proc/{holder}/ns/net"))?;
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_mark(names::PROXY_MARK)?;
    socket.connect_timeout(&address.into(), limit)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

async fn http(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    path: &str,
    headers: &[(String, String)],
) -> Result<(), String> {
    let mut request =
        format!("GET {path} HTTP/1.1\r\nuser-agent: mesh-probe\r\nconnection: close\r\n");
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"))
    {
        request += &format!("host: {host}\r\n");
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += "\r\n";
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    let mut buffer = [0; 512];
    while !answer.contains(&b'\n') && answer.len() < 4096 {
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(error) => return Err(error.to_string()),
        }
    }
    let line = String::from_utf8_lossy(&answer);
    let status = line.split_ascii_whitespace().nth(1);
    match status.and_then(|status| status.parse::<u16>().ok()) {
        Some(200..400) => Ok(()),
        Some(status) => Err(format!("GET {path} answers {status}")),
        None => Err(format!("GET {path} does not answer with HTTP")),
    }
}

/// grpc.health.v1.HealthCheckRequest
#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// grpc.health.v1.HealthCheckResponse
#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    /// 1 is SERVING.
    #[prost(int32, tag = "1")]
    status: i32,
}

async fn grpc(stream: tokio::net::TcpStream, service: &str) -> Result<(), String> {
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream
            .take()
            .ok_or_else(|| std::io::Error::other("already used"));
        async move { stream }
    });
    let endpoint = Endpoint::from_static("http://probe");
    let channel = endpoint.connect_with_connector(connector).await;
    let channel = channel.map_err(|error| error.to_string())?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| error.to_string())?;
    let request = tonic::Request::new(HealthRequest {
        service: service.into(),
    });
    let codec = tonic_prost::ProstCodec::<HealthRequest, HealthResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let answer = client.unary(request, path, codec).await;
    match answer
        .map_err(|status| status.message().to_owned())?
        .into_inner()
        .status
    {
        1 => Ok(()),
        status => Err(format!("health status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_listen() {
        let listening = "   0: 00000000:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1";
        let connected = "   1: 0100007F:1F40 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 1 1";
        assert_eq!(listening_port(listening), Some(8000));
        assert_eq!(listening_port(connected), None);
        assert_eq!(listening_port("  sl  local_address rem_address   st"), None);
    }
}
