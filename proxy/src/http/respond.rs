//! Passes an endpoint's response on: its head made fit for the client, its body watched to the end.

use std::rc::Rc;

use http::{Method, Response, StatusCode, Version, response};

use super::{
    answer::Refusal,
    body::ResponseBody,
    exchange::Exchange,
    forward::Received,
    headers::{self, Needs},
    server::Client,
    tunnel::Tunnel,
};

/// The way back to the client that waits for a response.
pub(super) struct WayBack<'a> {
    pub(super) client: &'a Rc<Client>,
    /// What the request asked for, in the version that the client speaks.
    pub(super) needs: Needs,
}

/// Whether a response can be passed on at all; removes what its reader has settled already, and `mesh-not-delivered`,
/// which was for this proxy: from an app, it would have the caller's proxy send the request again.
///
/// # Errors
/// A 502: its framing could be read in two ways, or it changes the protocol without being asked.
pub(super) fn check(head: &mut response::Parts, needs: Needs) -> Result<(), Refusal> {
    head.headers.remove(headers::NOT_DELIVERED);
    if head.version != Version::HTTP_2 {
        headers::check_response(&mut head.headers)
            .map_err(|words| Refusal::new(StatusCode::BAD_GATEWAY, words))?;
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS && !needs.tunnel {
        return Err(Refusal::new(
            StatusCode::BAD_GATEWAY,
            "the endpoint changed the protocol without being asked",
        ));
    }
    Ok(())
}

/// The response as the client gets it.
pub(super) fn pass_on(
    way_back: WayBack<'_>,
    mut head: response::Parts,
    received: Received,
    exchange: Exchange,
) -> Response<ResponseBody> {
    let WayBack { client, needs } = way_back;
    headers::respond(&mut head, needs.version);
    let connected = exchange.arrived.method() == Method::CONNECT && head.status.is_success();
    if !needs.tunnel || !(connected || head.status == StatusCode::SWITCHING_PROTOCOLS) {
        return Response::from_parts(head, ResponseBody::endpoint(received, exchange));
    }
    if let (Some(lease), busy) = exchange.into_tunnel() {
        let stream = match received {
            Received::Http1 => None,
            Received::Http2(body) => body.into_tunnel(),
        };
        let tunnel = Tunnel::new(lease, busy, stream);
        if needs.version == Version::HTTP_2 {
            return Response::from_parts(head, ResponseBody::tunnel(tunnel));
        }
        client.tunnel(tunnel);
    }
    Response::from_parts(head, ResponseBody::words(""))
}
