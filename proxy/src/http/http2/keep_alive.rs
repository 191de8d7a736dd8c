//! Whether the peer of a silent connection is still there.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

use super::{PING_INTERVAL, PING_TIMEOUT};
use crate::io::Cork;

/// Asks the peer when nothing has been heard for a while.
pub(super) struct KeepAlive {
    ping_pong: PingPong,
    timer: Pin<Box<Sleep>>,
    asked: bool,
}

impl KeepAlive {
    pub(super) fn new(ping_pong: PingPong) -> Self {
        Self {
            ping_pong,
            timer: Box::pin(sleep(PING_INTERVAL)),
            asked: false,
        }
    }

    /// Ready when the peer has not answered in time. Whatever is heard on `connection` is a sign of life.
    pub(super) fn poll_lost(&mut self, cx: &mut Context<'_>, connection: &Cork) -> Poll<()> {
        loop {
            if self.asked && self.ping_pong.poll_pong(cx).is_ready() {
                self.asked = false;
                self.wait(PING_INTERVAL);
            }
            ready!(self.timer.as_mut().poll(cx));
            match (connection.take_heard(), self.asked) {
                (true, true) => self.wait(PING_TIMEOUT),
                (true, false) => self.wait(PING_INTERVAL),
                (false, true) => return Poll::Ready(()),
                (false, false) => {
                    // It fails where the connection has: that shows there.
                    let _ = self.ping_pong.send_ping(Ping::opaque());
                    self.asked = true;
                    self.wait(PING_TIMEOUT);
                }
            }
        }
    }

    fn wait(&mut self, time: std::time::Duration) {
        self.timer.as_mut().reset(Instant::now() + time);
    }
}
