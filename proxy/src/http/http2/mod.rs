//! HTTP/2: h2's frames and streams, with this proxy's own handling of requests around them where it sends, and
//! hyper's where it serves.
//!
//! Towards endpoints a request costs no task and no channel either: its own task opens the stream, sends what is there
//! of the body and waits for the response. Only a body that is still to come gets a task of its own.

pub(super) mod client;
mod keep_alive;
mod tunnel;
mod upload;

pub(super) use tunnel::TunnelledStream;

use std::{future::Future, time::Duration};

use tokio::task::spawn_local;

/// Windows of HTTP/2 streams and connections (the design's minimum). Fixed: hyper's adaptive windows begin at
/// 64 KiB for both, where one stream whose client does not read stops all others of its connection.
pub(super) const STREAM_WINDOW: u32 = 1024 * 1024;
pub(super) const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// How often a silent HTTP/2 connection is asked whether it is alive, and how long it may take.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(30);
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Spawns hyper's tasks on the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub(super) struct Local;

impl<F> hyper::rt::Executor<F> for Local
where
    F: Future<Output: 'static> + 'static,
{
    fn execute(&self, task: F) {
        // As it is: a future around it would be twice as large, and be copied once more.
        spawn_local(task);
    }
}
