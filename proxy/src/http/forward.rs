//! One try to send a request over one connection.
//!
//! In: a request that was received, and a [`Lease`]. Out: the response's head, or how the try failed: above
//! all whether the endpoint can have seen the request.

use std::{rc::Rc, time::Duration};

use http::{Request, Version, request, response};

use super::{
    h1,
    headers::{self, Needs},
    http2,
    incoming::Incoming,
    pool::{Channel, Lease, PoolError, Wants},
    retry::Failure,
    upload::{RequestBody, Upload},
};

/// A request on its way.
pub(super) struct Forward {
    /// Absent while HTTP/2 has it, and when no copy was kept.
    head: Option<request::Parts>,
    /// What is for proxies only stands in it.
    for_proxy: bool,
    pub(super) needs: Needs,
    pub(super) upload: Option<Rc<Upload>>,
}

/// An endpoint's response, of which the head has arrived.
pub(super) struct Answer {
    pub(super) head: response::Parts,
    pub(super) body: Received,
    pub(super) lease: Lease,
    /// From the sending to the response's head.
    pub(super) rtt: Duration,
}

/// The body of an endpoint's response.
pub(super) enum Received {
    /// On the connection that is leased; complete already, or still to be read from it.
    Http1,
    Http2(http2::client::ResponseBody),
}

/// How a try at one endpoint failed.
pub(super) enum Failed {
    Dial(PoolError),
    Try(TryError),
}

/// How a connection to an endpoint failed a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error(transparent)]
    Http1(h1::client::Error),
    #[error("HTTP/2")]
    Http2(#[source] h2::Error),
}

/// How a try failed before a response head arrived.
#[derive(Debug)]
pub(super) enum TryError {
    /// Nothing of the request left this proxy.
    Unsent,
    /// The endpoint says that it did nothing; `overloaded`, or it is only shutting down.
    Refused { overloaded: bool },
    /// The endpoint reset the stream.
    Reset(ConnectionError),
    /// The connection broke, or what came was no HTTP.
    Lost(ConnectionError),
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
            for_proxy: false,
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

    /// Whether a second copy would do no harm.
    pub(super) fn is_safe(&self) -> bool {
        self.head.as_ref().is_some_and(|head| head.method.is_safe())
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

    /// Sends the request; `keep`: a further try may need its head again. `meshed`: to a proxy.
    pub(super) async fn send(
        &mut self,
        lease: &mut Lease,
        meshed: bool,
        keep: bool,
    ) -> Result<(response::Parts, Received), TryError> {
        let http2 = matches!(lease.channel, Channel::Http2(_));
        self.prepare(meshed, http2);
        match &mut lease.channel {
            Channel::Http1(connection) => {
                let sent = self.send_http1(connection).await;
                // It was written, not given away. What was changed for this connection is changed again for the next.
                if !keep && !matches!(sent, Err(TryError::Unsent)) {
                    self.head = None;
                }
                Ok((sent?, Received::Http1))
            }
            Channel::Http2(stream) => self.send_http2(stream, keep).await,
        }
    }

    /// Makes the head fit for the next connection.
    fn prepare(&mut self, meshed: bool, http2: bool) {
        let Some(head) = &mut self.head else {
            return;
        };
        if meshed {
            headers::for_proxy(head, self.needs, http2);
            self.for_proxy = true;
        } else {
            if std::mem::take(&mut self.for_proxy) {
                headers::original_version(head);
            }
            head.version = self.needs.version;
        }
        headers::frame(head, self.needs, http2, self.upload.is_some());
    }

    async fn send_http1(
        &self,
        connection: &mut h1::client::Connection,
    ) -> Result<response::Parts, TryError> {
        let Some(head) = &self.head else {
            return Err(TryError::ClientLeft);
        };
        let upload = self.upload.as_ref();
        let long = upload.is_some_and(|upload| !upload.is_small());
        let gate = upload.and_then(|upload| upload.gate());
        let sent = connection.send(head, self.body(), gate, long).await;
        sent.map_err(|error| match error {
            _ if self.client_left() => TryError::ClientLeft,
            h1::client::Error::Unsent => TryError::Unsent,
            error => TryError::Lost(ConnectionError::Http1(error)),
        })
    }

    async fn send_http2(
        &mut self,
        stream: &mut http2::client::Stream,
        keep: bool,
    ) -> Result<(response::Parts, Received), TryError> {
        if self.is_extended_connect() && !stream.takes_extended_connect().await {
            return Err(TryError::NoExtendedConnect);
        }
        let response = self.open(stream, keep)?.response().await;
        let (head, body) = response.map_err(|error| self.failed(error))?;
        Ok((head, Received::Http2(body)))
    }

    fn is_extended_connect(&self) -> bool {
        let protocol = |head: &request::Parts| head.extensions.get::<h2::ext::Protocol>().is_some();
        self.head.as_ref().is_some_and(protocol)
    }

    /// Opens a stream: gives the head away, and keeps a copy of it if a further try may need it.
    fn open(
        &mut self,
        stream: &mut http2::client::Stream,
        keep: bool,
    ) -> Result<http2::client::Opened, TryError> {
        let kept = self.head.as_ref().filter(|_| keep).map(copy);
        let Some(head) = std::mem::replace(&mut self.head, kept) else {
            return Err(TryError::ClientLeft);
        };
        let opened = stream.open(head, self.body());
        opened.map_err(|error| self.failed(error))
    }

    /// The body for this try.
    fn body(&self) -> RequestBody {
        self.upload
            .as_ref()
            .map_or_else(RequestBody::empty, Upload::body)
    }

    fn client_left(&self) -> bool {
        self.upload
            .as_ref()
            .is_some_and(|upload| upload.is_broken())
    }

    fn failed(&mut self, error: http2::client::Error) -> TryError {
        let error = match error {
            http2::client::Error::Unsent(head) => {
                self.head = Some(*head);
                return TryError::Unsent;
            }
            http2::client::Error::Failed(error) => error,
        };
        if self.client_left() {
            return TryError::ClientLeft;
        }
        if error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM) {
            return TryError::Refused { overloaded: true };
        }
        // h2 fails a stream with the peer's GOAWAY only when its id is above the last one that
        // the peer says it has seen; those below fail with what ends the connection.
        if error.is_remote() && error.is_go_away() {
            return TryError::Refused { overloaded: false };
        }
        let reset = error.is_remote() && error.is_reset();
        let error = ConnectionError::Http2(error);
        match reset {
            true => TryError::Reset(error),
            false => TryError::Lost(error),
        }
    }
}

impl Answer {
    /// Whether there is no body, or no more of it.
    pub(super) fn is_end_stream(&self) -> bool {
        match (&self.body, &self.lease.channel) {
            (Received::Http2(body), _) => body.is_end_stream(),
            (Received::Http1, Channel::Http1(connection)) => connection.is_end_stream(),
            (Received::Http1, Channel::Http2(_)) => true,
        }
    }
}

/// The head once more: HTTP/2 takes it with it, and a retry needs it again. Names and values are shared.
fn copy(head: &request::Parts) -> request::Parts {
    let (mut copy, ()) = Request::new(()).into_parts();
    copy.method = head.method.clone();
    copy.uri = head.uri.clone();
    copy.version = head.version;
    copy.headers = head.headers.clone();
    copy
}
