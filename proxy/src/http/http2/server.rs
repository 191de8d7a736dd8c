//! Serves a client's connection: each of its streams in a task of its own.
//!
//! In: an accepted connection and where its requests go. It ends when the client or an error ends it; in a drain, once
//! its last stream has ended.

use std::{
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{
    RecvStream,
    server::{Builder, SendResponse},
};
use http::{
    Method, Request, Response,
    header::{CONTENT_LENGTH, Entry},
};
use hyper::body::Body;
use tokio::task::spawn_local;

use super::{
    CONNECTION_WINDOW, STREAM_WINDOW,
    body::ReceivedBody,
    keep_alive::KeepAlive,
    tunnel::TunnelledStream,
    upload::{SendBody, reason},
};
use crate::{
    drain::Drain,
    http::{
        answer::reject,
        body::ResponseBody,
        head::{MAX_HEAD, check_authority},
        headers,
        incoming::Incoming,
        server::{Client, Upstream},
        tunnel::Tunnel,
    },
    io::{Corked, Io, cork},
};

/// Requests that one client may have in flight. Above nginx's 128 and hyper's 200, since a client
/// proxy puts all requests of its pod on one connection.
const MAX_STREAMS: u32 = 2048;
/// Streams that a client may reset before they are accepted, and that may be reset for its errors,
/// before it loses its connection: against rapid reset (CVE-2023-44487) and MadeYouReset
/// (CVE-2025-8671).
const MAX_PENDING_RESETS: usize = 64;
const MAX_ERROR_RESETS: usize = 1024;

/// Serves a connection until it ends.
pub(in crate::http) async fn serve(io: Io, drain: &Drain, upstream: Rc<impl Upstream>) {
    let (corked, cork) = cork(io);
    let handshake = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(Some(MAX_ERROR_RESETS))
        .max_header_list_size(MAX_HEAD as u32)
        .enable_connect_protocol()
        .handshake::<_, Bytes>(corked);
    let mut handshake = pin!(handshake);
    let opened = poll_fn(|cx| {
        let opened = handshake.as_mut().poll(cx);
        cork.poll_flush(cx);
        opened
    });
    let mut connection = match opened.await {
        Ok(connection) => connection,
        Err(error) => {
            tracing::debug!(%error, "a client's HTTP/2 connection did not begin");
            return;
        }
    };
    let client = Rc::new(Client::default());
    let mut keep_alive = connection.ping_pong().map(KeepAlive::new);
    let mut draining = pin!(drain.started());
    let mut drained = false;
    let ended = poll_fn(|cx| {
        if !drained && draining.as_mut().poll(cx).is_ready() {
            drained = true;
            connection.graceful_shutdown();
        }
        let ended = poll_streams(cx, &mut connection, &client, &upstream);
        KeepAlive::poll_after(&mut keep_alive, cx, &cork, ended)
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's HTTP/2 connection ended");
    }
}

/// Begins what streams the client opens; ready when there will be no more and all have ended.
fn poll_streams(
    cx: &mut Context<'_>,
    connection: &mut h2::server::Connection<Corked, Bytes>,
    client: &Rc<Client>,
    upstream: &Rc<impl Upstream>,
) -> Poll<Result<(), h2::Error>> {
    while let Some(accepted) = ready!(connection.poll_accept(cx)) {
        let (request, respond) = accepted?;
        spawn_local(exchange(client.clone(), upstream.clone(), request, respond));
    }
    Poll::Ready(Ok(()))
}

/// Forwards one request and sends its response.
fn exchange(
    client: Rc<Client>,
    upstream: Rc<impl Upstream>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> impl Future<Output = ()> {
    let (head, stream) = request.into_parts();
    let (body, tunnelled) = match head.method == Method::CONNECT {
        false => (ReceivedBody::new(stream, &head.headers), None),
        // What comes on the stream is for the tunnel.
        true => (ReceivedBody::empty(), Some(stream)),
    };
    // Why it is not clear to whom the request is.
    let refused = check_authority(&head.uri, &head.headers).err();
    let request = Request::from_parts(head, Incoming::Http2(body));
    async move {
        let response = match refused {
            Some(rejection) => reject(rejection),
            None => {
                let mut forwarding = pin!(upstream.forward(&client, request));
                let forwarded = poll_fn(|cx| match forwarding.as_mut().poll(cx) {
                    Poll::Ready(forwarded) => Poll::Ready(Some(forwarded)),
                    // The client may reset the stream: then nobody waits for the response.
                    Poll::Pending => respond.poll_reset(cx).map(|_| None),
                });
                match forwarded.await {
                    None => return,
                    Some(Ok(response)) => response,
                    Some(Err(reset)) => {
                        respond.send_reset(reason(&reset));
                        return;
                    }
                }
            }
        };
        match answer(response, tunnelled, respond) {
            None => {}
            Some(Rest::Body(body)) => {
                body.await;
            }
            Some(Rest::Tunnel(tunnel, stream)) => tunnel.run_stream(stream).await,
        }
    }
}

/// What follows the head of a response.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly always the large one, and in a task of its own"
)]
enum Rest {
    Body(SendBody<ResponseBody>),
    Tunnel(Box<Tunnel>, TunnelledStream),
}

/// Sends the head of a response. `tunnelled`: what the client sends, if it asked for a tunnel.
fn answer(
    response: Response<ResponseBody>,
    tunnelled: Option<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Option<Rest> {
    let (mut head, mut body) = response.into_parts();
    headers::strip_for_http2(&mut head.headers);
    let received = tunnelled.filter(|_| head.status.is_success());
    let ends = received.is_none() && body.is_end_stream();
    if received.is_some() {
        // RFC 9110, section 9.3.6: what follows is no content.
        head.headers.remove(CONTENT_LENGTH);
    } else if !ends
        && let Some(length) = body.size_hint().exact()
        && let Entry::Vacant(vacant) = head.headers.entry(CONTENT_LENGTH)
    {
        vacant.insert(length.into());
    }
    let stream = match respond.send_response(Response::from_parts(head, ()), ends) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "a response could not be sent");
            return None;
        }
    };
    match (received, body.take_tunnel()) {
        (Some(received), Some(tunnel)) => {
            Some(Rest::Tunnel(tunnel, TunnelledStream::new(stream, received)))
        }
        _ => (!ends).then(|| Rest::Body(SendBody::new(body, stream))),
    }
}
