//! Clients that say nothing at first: the first side to speak decides what the connection is.
//!
//! In: an accepted connection, and a way to open its upstream. While the client is quiet for longer than a
//! moment, the upstream is opened too; a banner from there is passed on at once, whatever the protocol. Out:
//! who spoke [`First`], and what.

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt;
use std::future::{pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use crate::detect::{self, Detection, Protocol};
use crate::io::Io;
use crate::metrics::Cause;

/// A client that has begun like HTTP or TLS gets this long to say which exactly.
const BEGINNING_LIMIT: Duration = Duration::from_secs(10);
/// A client that has begun like nothing known is taken to be waiting for an answer after this long.
const UNCLEAR_LIMIT: Duration = Duration::from_millis(100);
/// A server that speaks later than this does not do so because it is its turn: HTTP servers say 408 to an
/// idle connection after 5 s and more.
const BANNER_LIMIT: Duration = Duration::from_secs(3);
/// Where the upstream can't be opened, a client that is only slow gets this long to speak: an HTTP client is
/// owed an answer, one that waits for a banner the end.
const SLOW_CLIENT: Duration = Duration::from_millis(500);
/// Upstreams that are open to hear whether the server speaks first, per destination. A server that does ends
/// such a race at once, so that only those that do not come to this; then ten thousand quiet clients are no
/// ten thousand connections to it.
const MAX_RACES: usize = 128;
/// First read of a connection: a ClientHello or request head fits, and few bytes are wasted.
const FIRST_READ: usize = 2048;

/// [`detect::detect`], or a narrower one.
pub type Detect = fn(&[u8]) -> Detection;

/// Who speaks first at a destination, as far as it has been seen: so that later connections neither wait nor
/// open an upstream in vain.
#[derive(Debug)]
pub struct Learnt {
    speaker: Cell<Speaker>,
    races: Semaphore,
}

/// Who spoke first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speaker {
    /// Not seen yet.
    #[default]
    Unknown,
    /// Clients, of a protocol that has them speak first (HTTP, TLS).
    Client,
    /// The server.
    Server,
}

/// Who spoke first on one connection.
#[derive(Debug)]
pub enum First {
    /// The client did. Opaque without bytes: it closed its half without a word.
    Client {
        /// What it speaks.
        protocol: Protocol,
        /// All that it has said so far.
        bytes: Bytes,
        /// Open already where the client had been quiet before.
        upstream: Option<Io>,
    },
    /// The upstream did, or closed its half.
    Server {
        /// The connection to it.
        upstream: Io,
        /// What it said; empty if it only closed its half.
        bytes: Bytes,
        /// What the client had begun to say.
        client_bytes: Bytes,
    },
}

/// The connection ended before anything was decided.
#[derive(Debug, thiserror::Error)]
pub enum Undecided<E> {
    /// The client is gone.
    #[error("the client is gone: {0}")]
    Client(#[source] io::Error),
    /// The client began like HTTP or TLS and stopped amid.
    #[error("the client stopped amid its first {bytes} bytes for {BEGINNING_LIMIT:?}")]
    Stalled {
        /// How many it sent.
        bytes: usize,
    },
    /// The upstream can't be opened, and the client still waits for it to speak.
    #[error(transparent)]
    Open(E),
    /// The upstream broke without a word.
    #[error("the server is gone: {0}")]
    Server(#[source] io::Error),
}

impl<E: fmt::Display> Undecided<E> {
    /// As what it is counted. None: the client changed its mind, or the failure to open is counted already.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::Client(_) | Self::Open(_) => None,
            Self::Stalled { .. } => Some(Cause::IdleTimeout),
            Self::Server(_) => Some(Cause::Reset),
        }
    }

    /// Ends the client's connection as the upstream's ended.
    pub fn end(&self, client: TcpStream) {
        match self {
            Self::Client(_) | Self::Stalled { .. } => drop(client),
            Self::Open(_) | Self::Server(_) => Io::from(client).reset(),
        }
    }
}

impl Default for Learnt {
    fn default() -> Self {
        Self {
            speaker: Cell::default(),
            races: Semaphore::new(MAX_RACES),
        }
    }
}

impl Learnt {
    /// What has been seen.
    pub fn speaker(&self) -> Speaker {
        self.speaker.get()
    }

    /// Whether clients are known to speak first.
    pub fn client_speaks_first(&self) -> bool {
        self.speaker() == Speaker::Client
    }

    /// Protocols that have the client speak first are certain; opaque bytes from the client say nothing about
    /// the next connection.
    fn client_spoke(&self, protocol: &Protocol) {
        if !matches!(protocol, Protocol::Opaque) {
            self.speaker.set(Speaker::Client);
        }
    }

    fn server_spoke(&self, after: Duration) {
        if after < BANNER_LIMIT {
            self.speaker.set(Speaker::Server);
        }
    }
}

/// Finds out who speaks first, and what by `detect`. `moment` is how long the client may be quiet before
/// `open` is called; a destination whose clients are known to speak first has all the time, and nothing is opened.
///
/// # Errors
/// See [`Undecided`].
pub async fn first<E>(
    client: &TcpStream,
    learnt: &Learnt,
    moment: Duration,
    detect: Detect,
    open: impl AsyncFnOnce() -> Result<Io, E>,
) -> Result<First, Undecided<E>> {
    let mut bytes = BytesMut::new();
    let said = if learnt.client_speaks_first() {
        Some(listen(client, &mut bytes, detect).await)
    } else {
        timeout(moment, listen(client, &mut bytes, detect))
            .await
            .ok()
    };
    match said {
        Some(said) => {
            let protocol = said?;
            learnt.client_spoke(&protocol);
            Ok(First::Client {
                protocol,
                bytes: bytes.freeze(),
                upstream: None,
            })
        }
        // Boxed: most connections never get here.
        None => Box::pin(race(client, bytes, learnt, detect, open)).await,
    }
}

/// Reads until the client's first bytes say what it speaks; nothing is opened meanwhile.
///
/// # Errors
/// The client is gone, or stopped amid.
pub async fn hear(client: &TcpStream) -> Result<(Protocol, Bytes), Undecided<Infallible>> {
    let mut bytes = BytesMut::new();
    let protocol = listen(client, &mut bytes, detect::detect).await?;
    Ok((protocol, bytes.freeze()))
}

/// Opens the upstream while the client is quiet, as soon as there are few enough such.
async fn race<E>(
    client: &TcpStream,
    mut bytes: BytesMut,
    learnt: &Learnt,
    detect: Detect,
    open: impl AsyncFnOnce() -> Result<Io, E>,
) -> Result<First, Undecided<E>> {
    let turn = async {
        let slot = learnt.races.acquire().await;
        if learnt.client_speaks_first() {
            // Learnt from others meanwhile: the turn is the next one's, and the client has all the time.
            drop(slot);
            return pending().await;
        }
        slot
    };
    let _slot = tokio::select! {
        biased;
        said = listen(client, &mut bytes, detect) => {
            let protocol = said?;
            learnt.client_spoke(&protocol);
            return Ok(First::Client { protocol, bytes: bytes.freeze(), upstream: None });
        }
        slot = turn => slot,
    };
    let mut opening = pin!(open());
    let mut opened = tokio::select! {
        biased;
        said = listen(client, &mut bytes, detect) => {
            let protocol = said?;
            learnt.client_spoke(&protocol);
            // An HTTP connection has requests balanced one by one; all else goes where this one leads.
            let upstream = match protocol {
                Protocol::Http(_) => None,
                _ => Some(opening.await.map_err(Undecided::Open)?),
            };
            return Ok(First::Client { protocol, bytes: bytes.freeze(), upstream });
        }
        opened = &mut opening => opened,
    };
    let since = Instant::now();
    let spoken = async {
        match &mut opened {
            Ok(upstream) => poll_fn(|cx| Pin::new(&mut *upstream).poll_read_bytes(cx)).await,
            Err(_) => {
                tokio::time::sleep(SLOW_CLIENT).await;
                Ok(Bytes::new())
            }
        }
    };
    tokio::select! {
        biased;
        said = listen(client, &mut bytes, detect) => {
            let protocol = said?;
            learnt.client_spoke(&protocol);
            Ok(First::Client { protocol, bytes: bytes.freeze(), upstream: opened.ok() })
        }
        spoken = spoken => {
            let upstream = opened.map_err(Undecided::Open)?;
            let spoken = spoken.map_err(Undecided::Server)?;
            if !spoken.is_empty() {
                learnt.server_spoke(since.elapsed());
            }
            Ok(First::Server { upstream, bytes: spoken, client_bytes: bytes.freeze() })
        }
    }
}

/// Reads until the bytes say what the client speaks. May be dropped and called again: `bytes` keeps all.
async fn listen<E>(
    client: &TcpStream,
    bytes: &mut BytesMut,
    detect: Detect,
) -> Result<Protocol, Undecided<E>> {
    let mut begun = None;
    loop {
        let deadline = match detect(bytes) {
            Detection::Decided(protocol) => return Ok(protocol),
            _ if bytes.is_empty() => None,
            undecided => {
                let limit = *begun.get_or_insert_with(Instant::now) + BEGINNING_LIMIT;
                Some(match undecided {
                    Detection::Unclear => limit.min(Instant::now() + UNCLEAR_LIMIT),
                    _ => limit,
                })
            }
        };
        let more = match deadline {
            None => read(client, bytes).await,
            Some(deadline) => match timeout_at(deadline, read(client, bytes)).await {
                Ok(more) => more,
                Err(_) if detect(bytes) == Detection::Unclear => return Ok(Protocol::Opaque),
                Err(_) => return Err(Undecided::Stalled { bytes: bytes.len() }),
            },
        };
        // The end amid something: it is for the server to make sense of it.
        if more.map_err(Undecided::Client)? == 0 {
            return Ok(Protocol::Opaque);
        }
    }
}

/// Reads what is there, at least one byte; 0 at the end. No buffer is kept while there is nothing: ten
/// thousand idle connections cost no buffers.
async fn read(client: &TcpStream, bytes: &mut BytesMut) -> io::Result<usize> {
    loop {
        client.readable().await?;
        let room = if bytes.is_empty() {
            FIRST_READ
        } else {
            detect::LIMIT
        };
        bytes.reserve(room - bytes.len().min(room) + 1);
        match client.try_read_buf(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}
