//! HTTP/2: this proxy's handling of requests around h2's frames and streams.
//!
//! Each stream of a client has a task; it opens the stream to the endpoint, sends what is there of the body, waits for
//! the response and passes it on. Only a request's body that is still to come gets a task of its own.

pub(super) mod body;
pub(super) mod client;
mod keep_alive;
pub(super) mod server;
mod tunnel;
mod upload;

use std::time::Duration;

pub(super) use tunnel::TunnelledStream;

/// Windows of HTTP/2 streams and connections (the design's minimum). Fixed: hyper's adaptive windows begin at
/// 64 KiB for both, where one stream whose client does not read stops all others of its connection.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// How often a silent HTTP/2 connection is asked whether it is alive, and how long it may take.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
