//! pods/portforward: bytes between a client and the ports of a pod, over the WebSocket channels of `v4.channel.k8s.io`.
//!
//! The port number `i` of those asked for has the channels `2i` (its bytes) and `2i + 1` (an error, as text); the first
//! byte of each message is its channel, and the first message of each channel from here is the port
//! (`k8s.io/cri-streaming/pkg/streaming/portforward`). The pod's ports are sockets that the test named.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, sync::PoisonError};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream::SplitSink};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::OwnedReadHalf},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

use super::{
    respond::Body,
    state::{Api, Call},
    status::Status,
};

const PROTOCOL: &str = "v4.channel.k8s.io";
/// How much is read from a port at once.
const CHUNK: usize = 32 * 1024;

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Switches to WebSocket and forwards from then on.
///
/// # Errors
/// No such pod (404), a pod on no node or no port asked for (400), no WebSocket asked for (400).
pub(super) fn answer(
    api: &Arc<Api>,
    call: &Call,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let target = &call.target;
    let name = target.name.as_deref().unwrap_or_default();
    let pod = api.lock().find(target);
    let pod = pod.ok_or_else(|| Status::not_found(&target.resource, name))?;
    let served = {
        let pods = api.pod_ports.lock().unwrap_or_else(PoisonError::into_inner);
        pods.get(&(target.place().to_owned(), name.to_owned()))
            .cloned()
    };
    if served.is_none() && pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
        return Err(no_host(name));
    }
    let asked = call.query.all("ports").flat_map(|ports| ports.split(','));
    let asked: Result<Vec<u16>, _> = asked.map(str::parse).collect();
    let ports = asked
        .ok()
        .filter(|ports| !ports.is_empty() && ports.len() <= 127);
    let ports =
        ports.ok_or_else(|| Status::bad_request("query parameter \"ports\" is required"))?;
    let response = switch(request.headers())?;
    let served = served.unwrap_or_default();
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let io = TokioIo::new(upgraded);
            let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
            forward(socket, &ports, &served).await;
        }
    });
    Ok(response)
}

/// Logs are kept by nodes, and no node is here.
pub(super) fn no_log(api: &Api, call: &Call) -> Status {
    let name = call.target.name.as_deref().unwrap_or_default();
    match api.lock().find(&call.target) {
        None => Status::not_found(&call.target.resource, name),
        Some(pod) if pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty) => no_host(name),
        Some(pod) => {
            let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            Status::internal(format!("dial tcp: lookup {node}: no such host"))
        }
    }
}

fn no_host(pod: &str) -> Status {
    Status::bad_request(format!("pod {pod} does not have a host assigned"))
}

fn switch(headers: &HeaderMap) -> Result<Response<Body>, Status> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let refused = || Status::bad_request("Upgrade request required");
    if !text(header::UPGRADE).eq_ignore_ascii_case("websocket") {
        return Err(refused());
    }
    let protocols = text(header::SEC_WEBSOCKET_PROTOCOL);
    if !protocols
        .split(',')
        .any(|protocol| protocol.trim() == PROTOCOL)
    {
        return Err(refused());
    }
    let accept = derive_accept_key(text(header::SEC_WEBSOCKET_KEY).as_bytes());
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .header(header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL)
        .body(Empty::new().boxed_unsync())
        .map_err(Status::internal)
}

/// Forwards until all ports or the client have ended.
async fn forward(socket: Socket, ports: &[u16], served: &HashMap<u16, SocketAddr>) {
    let (mut to_client, mut from_client) = socket.split();
    // Messages of all ports to the client; ends when all ports have.
    let (sender, mut messages) = mpsc::channel::<(u8, Bytes)>(ports.len());
    let mut writers = HashMap::new();
    for (channel, port) in (0u8..).step_by(2).zip(ports) {
        for channel in [channel, channel + 1] {
            if send(&mut to_client, channel, &port.to_le_bytes())
                .await
                .is_err()
            {
                return;
            }
        }
        match dial(*port, served).await {
            Ok(stream) => {
                let (reader, writer) = stream.into_split();
                writers.insert(channel, writer);
                tokio::spawn(read(channel, reader, sender.clone()));
            }
            Err(why) => {
                let _ = sender.try_send((channel + 1, why.into()));
            }
        }
    }
    drop(sender);
    loop {
        tokio::select! {
            message = messages.recv() => {
                let Some((channel, bytes)) = message else { break };
                if send(&mut to_client, channel, &bytes).await.is_err() {
                    return;
                }
            }
            message = from_client.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    let Some((channel, bytes)) = bytes.split_first() else { continue };
                    if let Some(writer) = writers.get_mut(channel)
                        && writer.write_all(bytes).await.is_err()
                    {
                        writers.remove(channel);
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
    let _ = to_client.close().await;
}

async fn dial(port: u16, served: &HashMap<u16, SocketAddr>) -> Result<TcpStream, String> {
    let refused = |why: &dyn std::fmt::Display| {
        format!("error forwarding port {port} to pod: failed to connect to localhost:{port}: {why}")
    };
    let address = served
        .get(&port)
        .ok_or_else(|| refused(&"connect: connection refused"))?;
    TcpStream::connect(address)
        .await
        .map_err(|why| refused(&why))
}

async fn read(channel: u8, mut reader: OwnedReadHalf, sender: mpsc::Sender<(u8, Bytes)>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = reader.read(&mut buffer).await {
        let bytes = Bytes::copy_from_slice(&buffer[..count]);
        if sender.send((channel, bytes)).await.is_err() {
            return;
        }
    }
}

async fn send(
    to: &mut SplitSink<Socket, Message>,
    channel: u8,
    bytes: &[u8],
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    let mut message = Vec::with_capacity(bytes.len() + 1);
    message.push(channel);
    message.extend_from_slice(bytes);
    to.send(Message::binary(message)).await
}
