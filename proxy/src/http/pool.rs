//! The connections to one endpoint: idle HTTP/1.x ones, last in first out, and shared HTTP/2 ones.
//!
//! In: a request's needs and a way to dial. Out: a [`Lease`] on a connection. Few requests in flight go
//! over HTTP/1.1 connections of their own; many share one HTTP/2 connection, where the peer is a proxy of
//! the mesh. Both directions have a threshold of their own, so that the choice does not flap.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::{Future, poll_fn},
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{sync::Notify, task::spawn_local};

use super::{
    answer::causes,
    h1::client::Connection as Http1,
    http2::client::{Connection as Http2, Stream as Http2Stream},
};
use crate::{connect::ConnectError, io::Io};

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(60);
/// From so many requests in flight on, they share an HTTP/2 connection …
const MANY: usize = 16;
/// … until there are only so few.
const FEW: usize = 4;
/// A connection that is found closed so soon after a response was closed by a server that does not say so.
const SOON: Duration = Duration::from_secs(1);
/// One that is still open after so long is none that its server closes with the response.
const SETTLED: Duration = Duration::from_millis(100);
/// Connections that are being made at the same time; a burst waits for these or for idle ones.
const MAX_DIALS: usize = 32;
/// While so many are, further requests share, where they may: each handshake takes a millisecond of both proxies' time,
/// in which more requests arrive.
const BURST: usize = 2;

/// Which protocols a request may travel on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    Http1,
    Http2,
    /// The pool chooses.
    Either,
}

/// What a connection is dialled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Which of the idle HTTP/1.x connections a request may travel on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reuse {
    Any,
    /// Those that have been idle for [`SETTLED`].
    Settled,
    None,
}

/// No connection could be made. Shared by all requests that waited for it.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum PoolError {
    #[error("{0}")]
    Dial(Rc<ConnectError>),
    /// The stream is there, but HTTP can't begin on it: the peer has just closed it.
    #[error("the connection was made, but HTTP can't begin on it: {}", causes(&**.0))]
    Handshake(Rc<h2::Error>),
}

/// The HTTP connections to one endpoint, or to the app, on one worker.
#[derive(Default)]
pub struct Pool {
    connections: Rc<Connections>,
}

#[derive(Default)]
struct Connections {
    idle: RefCell<Vec<Idle>>,
    http2: RefCell<Vec<Shared>>,
    in_flight: Cell<usize>,
    /// The peer closes connections after responses that did not say so, and the next request may be lost on its way.
    hasty: Cell<bool>,
    /// Many requests are in flight: they share.
    sharing: Cell<bool>,
    dials: Cell<usize>,
    dialling_http2: Cell<bool>,
    /// Counts failed dials, so that all who wait for one learn of it.
    failures: Cell<u64>,
    failure: RefCell<Option<PoolError>>,
    /// An HTTP/1.x connection or a place to dial one became free, or a dial failed.
    changed: Notify,
    /// An HTTP/2 connection was made, or could not be made.
    changed_http2: Notify,
}

struct Idle {
    connection: Box<Http1>,
    since: Instant,
    until: Instant,
}

struct Shared {
    connection: Http2,
    used: Instant,
}

/// A request in flight: counted from before it has a connection.
struct Slot(Rc<Connections>);

/// A connection that may carry one request.
pub(super) struct Lease {
    pub(super) channel: Channel,
    slot: Slot,
}

pub(super) enum Channel {
    Http1(Box<Http1>),
    Http2(Http2Stream),
}

impl Pool {
    /// Closes what has been idle for too long. The worker calls it every few seconds.
    pub fn evict_idle(&self, now: Instant) {
        let connections = &self.connections;
        connections
            .idle
            .borrow_mut()
            .retain(|idle| idle.until > now && idle.connection.is_usable());
        connections.http2.borrow_mut().retain_mut(|shared| {
            if !shared.connection.is_idle() {
                shared.used = now;
            }
            shared.used + IDLE > now && !shared.connection.is_closed()
        });
    }

    /// Gets a connection: an idle one, a shared one, or one that `dial` makes.
    ///
    /// `fresh`: an idle HTTP/1.x connection was stale a moment ago; its neighbours may be too. `safe`: no harm is done
    /// if the request has to be sent twice.
    pub(super) async fn lease<D, F>(
        &self,
        wants: Wants,
        fresh: bool,
        safe: bool,
        dial: D,
    ) -> Result<Lease, PoolError>
    where
        D: Fn(Protocol) -> F,
        F: Future<Output = Result<Io, ConnectError>>,
    {
        let connections = &self.connections;
        let slot = Slot::new(connections);
        let http2 = match wants {
            Wants::Http1 => false,
            Wants::Http2 => true,
            Wants::Either => connections.shares() || connections.is_in_burst(),
        };
        let channel = if http2 {
            Channel::Http2(connections.stream(dial).await?)
        } else {
            let reuse = match (fresh, connections.hasty.get()) {
                (true, _) => Reuse::None,
                (false, true) if !safe => Reuse::Settled,
                (false, _) => Reuse::Any,
            };
            Channel::Http1(connections.connection(reuse, dial).await?)
        };
        Ok(Lease { channel, slot })
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = &self.connections;
        f.debug_struct("Pool")
            .field("idle", &connections.idle.borrow().len())
            .field("http2", &connections.http2.borrow().len())
            .field("in_flight", &connections.in_flight.get())
            .finish()
    }
}

impl Connections {
    fn shares(&self) -> bool {
        let sharing = if self.sharing.get() {
            self.in_flight.get() > FEW
        } else {
            self.in_flight.get() > MANY
        };
        self.sharing.set(sharing);
        sharing
    }

    fn is_in_burst(&self) -> bool {
        self.dials.get() >= BURST && self.idle.borrow().is_empty()
    }

    async fn connection<D, F>(&self, reuse: Reuse, dial: D) -> Result<Box<Http1>, PoolError>
    where
        D: Fn(Protocol) -> F,
        F: Future<Output = Result<Io, ConnectError>>,
    {
        loop {
            if let Some(connection) = self.take_idle(reuse) {
                return Ok(connection);
            }
            let seen = self.failures.get();
            // Registered before the check, so that nothing is missed in between.
            let changed = self.changed.notified();
            if self.dials.get() < MAX_DIALS {
                let dialling = Dialling::begin(self);
                // Boxed, being rare: each request's future would have room for it.
                let opened = Box::pin(dial(Protocol::Http1)).await;
                drop(dialling);
                return opened
                    .map(Http1::new)
                    .map_err(|error| self.failed(PoolError::Dial(Rc::new(error))));
            }
            changed.await;
            if let Some(error) = self.failed_since(seen) {
                return Err(error);
            }
        }
    }

    /// The one that was used last, of those that may be.
    fn take_idle(&self, reuse: Reuse) -> Option<Box<Http1>> {
        let mut idle = self.idle.borrow_mut();
        let now = Instant::now();
        loop {
            let at = match reuse {
                Reuse::Any => idle.len().checked_sub(1)?,
                Reuse::Settled => idle.iter().rposition(|idle| idle.since + SETTLED <= now)?,
                Reuse::None => return None,
            };
            let Idle {
                connection,
                since,
                until,
            } = idle.remove(at);
            if until <= now {
                continue;
            }
            if connection.is_usable() {
                return Some(connection);
            }
            if now < since + SOON {
                self.hasty.set(true);
            }
        }
    }

    async fn stream<D, F>(&self, dial: D) -> Result<Http2Stream, PoolError>
    where
        D: Fn(Protocol) -> F,
        F: Future<Output = Result<Io, ConnectError>>,
    {
        loop {
            if let Some(stream) = self.shared_stream() {
                return Ok(stream);
            }
            let seen = self.failures.get();
            let changed = self.changed_http2.notified();
            if !self.dialling_http2.get() {
                let dialling = DiallingHttp2::begin(self);
                let opened = match Box::pin(dial(Protocol::Http2)).await {
                    Ok(io) => Box::pin(Http2::open(io))
                        .await
                        .map_err(|error| PoolError::Handshake(Rc::new(error))),
                    Err(error) => Err(PoolError::Dial(Rc::new(error))),
                };
                let stream = match opened {
                    Ok(connection) => {
                        let stream = connection.stream();
                        self.http2.borrow_mut().push(Shared {
                            connection,
                            used: Instant::now(),
                        });
                        Ok(stream)
                    }
                    Err(error) => Err(self.failed(error)),
                };
                drop(dialling);
                return stream;
            }
            changed.await;
            if let Some(error) = self.failed_since(seen) {
                return Err(error);
            }
        }
    }

    fn shared_stream(&self) -> Option<Http2Stream> {
        let mut http2 = self.http2.borrow_mut();
        // A connection that got a GOAWAY takes no more requests; its streams keep it alive.
        http2.retain_mut(|shared| !shared.connection.is_closed());
        let shared = http2
            .iter_mut()
            .find(|shared| shared.connection.has_room())?;
        shared.used = Instant::now();
        Some(shared.connection.stream())
    }

    /// Lets all who wait for a dial learn that the endpoint can't be reached. A connection that broke right
    /// after it was made says nothing about the next: they dial themselves.
    fn failed(&self, error: PoolError) -> PoolError {
        if matches!(error, PoolError::Handshake(_)) {
            return error;
        }
        self.failures.set(self.failures.get() + 1);
        self.failure.replace(Some(error.clone()));
        self.changed.notify_waiters();
        error
    }

    fn failed_since(&self, seen: u64) -> Option<PoolError> {
        (self.failures.get() != seen)
            .then(|| self.failure.borrow().clone())
            .flatten()
    }

    fn put(&self, connection: Box<Http1>, keep: Duration) {
        if !connection.is_reusable() {
            return;
        }
        if connection.is_reused() {
            self.hasty.set(false);
        }
        let now = Instant::now();
        self.idle.borrow_mut().push(Idle {
            connection,
            since: now,
            until: now + keep.min(IDLE),
        });
        self.changed.notify_one();
    }
}

impl Lease {
    /// The connection for good: its protocol has changed.
    pub(super) fn into_http1(self) -> Option<Box<Http1>> {
        match self.channel {
            Channel::Http1(connection) => Some(connection),
            Channel::Http2(_) => None,
        }
    }

    /// The response was read to its end: the connection may be used again for so long.
    pub(super) fn release(self, keep: Duration) {
        let Self { channel, slot } = self;
        let connections = slot.0.clone();
        drop(slot);
        let mut connection = match channel {
            Channel::Http1(connection) => connection,
            Channel::Http2(_) => return,
        };
        if !connection.is_uploading() {
            if !keep.is_zero() {
                connections.put(connection, keep);
            }
            return;
        }
        // The endpoint has answered early, and may read the rest of the request.
        let connections = Rc::downgrade(&connections);
        spawn_local(async move {
            let sent = poll_fn(|cx| connection.poll_upload(cx)).await;
            if sent.is_ok()
                && let Some(connections) = connections.upgrade()
            {
                connections.put(connection, keep);
            }
        });
    }
}

impl Slot {
    fn new(connections: &Rc<Connections>) -> Self {
        connections.in_flight.set(connections.in_flight.get() + 1);
        Self(connections.clone())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
    }
}

/// Counts a dial, also when the request that waits for it is dropped.
struct Dialling<'a>(&'a Connections);

impl<'a> Dialling<'a> {
    fn begin(connections: &'a Connections) -> Self {
        connections.dials.set(connections.dials.get() + 1);
        Self(connections)
    }
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        self.0.dials.set(self.0.dials.get() - 1);
        self.0.changed.notify_one();
    }
}

/// Marks the one dial of an HTTP/2 connection.
struct DiallingHttp2<'a>(&'a Connections);

impl<'a> DiallingHttp2<'a> {
    fn begin(connections: &'a Connections) -> Self {
        connections.dialling_http2.set(true);
        Self(connections)
    }
}

impl Drop for DiallingHttp2<'_> {
    fn drop(&mut self) {
        self.0.dialling_http2.set(false);
        self.0.changed_http2.notify_waiters();
    }
}
