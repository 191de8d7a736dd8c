//! One try to send a request over one connection.
//!
//! In: a request that was received, and a [`Lease`]. Out: the response's head, or how the try failed: above
//! all whether the endpoint can have seen the request.

use std::{rc::Rc, time::Duration};

use http::{Request, Response, Version, request};
use hyper::{
    body::Incoming,
    client::conn::TrySendError,
    ext::{Protocol, on_informational},
};

use super::{
    headers::{self, Needs},
    pool::{Channel, Lease, PoolError, Wants},
    retry::Failure,
    upload::{RequestBody, Upload, h2_error},
};

/// A request on its way.
pub(super) struct Forward {
    /// Absent while hyper has it, and when no copy was kept.
    head: Option<request::Parts>,
    pub(super) needs: Needs,
    pub(super) upload: Option<Rc<Upload>>,
}

/// An endpoint's response, of which the head has arrived.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) lease: Lease,
    /// From the sending to the response's head.
    pub(super) rtt: Duration,
}

/// How a try at one endpoint failed.
pub(super) enum Failed {
    Dial(PoolError),
    Try(TryError),
}

/// How a try failed before a response head arrived.
#[derive(Debug)]
pub(super) enum TryError {
    /// hyper handed the request back.
    Unsent,
    /// The endpoint says that it did nothing; `overloaded`, or it is only shutting down.
    Refused { overloaded: bool },
    /// The endpoint reset the stream.
    Reset(hyper::Error),
    /// The connection broke, or what came was no HTTP.
    Lost(hyper::Error),
    /// The client went away while it was sending.
    ClientLeft,
    /// The endpoint's HTTP/2 does not know extended CONNECT.
    NoExtendedConnect,
}

impl TryError {
    /// The row of the retry table.
    pub(super) fn failure(&self) -> Option<Failure> {
        match self {
            Self::Unsent => Some(Failure::Unsent),
            Self::Refused { .. } => Some(Failure::Refused),
            Self::Reset(_) | Self::Lost(_) => Some(Failure::Lost),
            Self::ClientLeft | Self::NoExtendedConnect => None,
        }
    }
}

impl Forward {
    pub(super) fn new(head: request::Parts, needs: Needs, incoming: Incoming, body: bool) -> Self {
        Self {
            head: Some(head),
            needs,
            upload: body.then(|| Upload::new(incoming, needs.continues)),
        }
    }

    /// On which connections the request may travel to a proxy of the mesh (`meshed`) or to an app.
    pub(super) fn wants(&self, meshed: bool) -> Wants {
        if self.needs.version == Version::HTTP_2 {
            Wants::Http2
        } else if meshed
            && !self.needs.http1_only()
            && self.upload.as_ref().is_none_or(|upload| upload.is_small())
        {
            Wants::Either
        } else {
            Wants::Http1
        }
    }

    /// Everything that a further try needs is there.
    pub(super) fn can_replay(&self) -> bool {
        self.head.is_some()
            && self
                .upload
                .as_ref()
                .is_none_or(|upload| upload.can_replay())
    }

    /// Whether it makes sense to keep a copy of the head for a further try.
    pub(super) fn worth_keeping(&self) -> bool {
        !self.needs.tunnel && self.upload.as_ref().is_none_or(|upload| !upload.is_large())
    }

    /// Sends the request; `keep` keeps a copy of its head. `meshed`: to a proxy.
    pub(super) async fn send(
        &mut self,
        lease: &mut Lease,
        meshed: bool,
        keep: bool,
    ) -> Result<Response<Incoming>, TryError> {
        let Some(mut head) = self.head.take() else {
            return Err(TryError::ClientLeft);
        };
        if keep {
            self.head = Some(copy(&head));
        }
        let http2 = matches!(lease.channel, Channel::Http2(_));
        if meshed {
            headers::for_proxy(&mut head, self.needs, http2);
        } else {
            head.version = self.needs.version;
        }
        headers::frame(&mut head, self.needs, http2, self.upload.is_some());
        let body = self
            .upload
            .as_ref()
            .map_or_else(RequestBody::empty, Upload::body);
        let long = self.upload.as_ref().is_some_and(|body| !body.is_small());
        let extended = head.extensions.get::<Protocol>().is_some();
        let mut request = Request::from_parts(head, body);
        if let Some(gate) = self.upload.as_ref().and_then(|upload| upload.gate()) {
            let gate = gate.clone();
            on_informational(&mut request, move |response| {
                if response.status() == http::StatusCode::CONTINUE {
                    gate.open();
                }
            });
        }
        let sent = match &mut lease.channel {
            Channel::Http1(connection) => connection.send(request, self.needs.tunnel, long).await,
            Channel::Http2(stream) => {
                if extended && !stream.takes_extended_connect().await {
                    return Err(TryError::NoExtendedConnect);
                }
                stream.send(request).await
            }
        };
        sent.map_err(|error| self.failed(error))
    }

    fn failed(&mut self, mut error: TrySendError<Request<RequestBody>>) -> TryError {
        if let Some(request) = error.take_message() {
            // What was changed for this connection is changed again for the next.
            self.head = Some(request.into_parts().0);
            return TryError::Unsent;
        }
        if self
            .upload
            .as_ref()
            .is_some_and(|upload| upload.is_broken())
        {
            return TryError::ClientLeft;
        }
        let error = error.into_error();
        match h2_error(&error) {
            Some(h2) if h2.is_remote() && h2.reason() == Some(h2::Reason::REFUSED_STREAM) => {
                TryError::Refused { overloaded: true }
            }
            // h2 fails a stream with the peer's GOAWAY only when its id is above the last one that
            // the peer says it has seen; those below fail with what ends the connection.
            Some(h2) if h2.is_remote() && h2.is_go_away() => {
                TryError::Refused { overloaded: false }
            }
            Some(h2) if h2.is_remote() && h2.is_reset() => TryError::Reset(error),
            _ => TryError::Lost(error),
        }
    }
}

/// The head once more: a try takes it with it, and a retry needs it again. Names and values are shared.
fn copy(head: &request::Parts) -> request::Parts {
    let (mut copy, ()) = Request::new(()).into_parts();
    copy.method = head.method.clone();
    copy.uri = head.uri.clone();
    copy.version = head.version;
    copy.headers = head.headers.clone();
    copy
}
