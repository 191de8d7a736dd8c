//! The client's side of a connection.
//!
//! In: an accepted connection and where its requests go. It ends when the client, an
//! error or a drain ends the connection; after an upgrade, when the tunnel ends.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use http::{Request, Response};

use super::{
    body::ResponseBody, forward::ConnectionError, h1, head::Rejection, http2, incoming::Incoming,
    tunnel::Tunnel,
};
use crate::{detect::HttpVersion, drain::Drain, io::Io};

/// What the requests of one client connection share with it.
#[derive(Default)]
pub(super) struct Client {
    refused: Cell<Option<Rejection>>,
    /// Set by a response that changes the protocol.
    tunnel: RefCell<Option<Tunnel>>,
}

/// The endpoint reset the stream; the client's is reset with the same code.
#[derive(Debug, thiserror::Error)]
#[error("the endpoint reset the stream")]
pub(super) struct Reset(#[source] pub(super) ConnectionError);

impl Client {
    /// Why what this client sends was refused, if it was: the connection ends with the answer.
    pub(super) fn refused(&self) -> Option<Rejection> {
        self.refused.get()
    }

    pub(super) fn refuse(&self, rejection: Rejection) {
        self.refused.set(Some(rejection));
    }

    /// The response to the current request is the last of HTTP on this connection.
    pub(super) fn tunnel(&self, tunnel: Tunnel) {
        self.tunnel.replace(Some(tunnel));
    }

    /// Whether it was.
    pub(super) fn tunnels(&self) -> bool {
        self.tunnel.borrow().is_some()
    }

    pub(super) fn take_tunnel(&self) -> Option<Tunnel> {
        self.tunnel.take()
    }
}

/// Where a connection's requests go.
pub(super) trait Upstream: 'static {
    /// Answers one request.
    async fn forward(
        &self,
        client: &Rc<Client>,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Reset>;
}

/// Serves a connection until it ends.
pub(super) async fn serve(
    io: Io,
    version: HttpVersion,
    drain: &Drain,
    upstream: Rc<impl Upstream>,
) {
    match version {
        HttpVersion::Http1 => h1::server::serve(io, drain, upstream).await,
        HttpVersion::Http2 => http2::server::serve(io, drain, upstream).await,
    }
}
