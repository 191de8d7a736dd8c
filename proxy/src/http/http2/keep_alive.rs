//! Whether the peer of a silent connection is still there.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

use super::{PING_INTERVAL, PING_TIMEOUT};
use crate::io::Cork;

/// Asks the peer when nothing has been heard for a while.
pub(super) struct KeepAlive {
    ping_pong: PingPong,
    interval: Duration,
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    asked: bool,
}

impl KeepAlive {
    pub(super) fn new(ping_pong: PingPong) -> Self {
        Self::with(ping_pong, PING_INTERVAL, PING_TIMEOUT)
    }

    fn with(ping_pong: PingPong, interval: Duration, timeout: Duration) -> Self {
        Self {
            ping_pong,
            interval,
            timeout,
            timer: Box::pin(sleep(interval)),
            asked: false,
        }
    }

    /// What is due each time that a connection was polled, which gave `ended`: whether its peer is lost, and letting out
    /// what was written. Dropping a connection whose peer is lost fails all of its streams.
    pub(super) fn poll_after(
        this: &mut Option<Self>,
        cx: &mut Context<'_>,
        cork: &Cork,
        ended: Poll<Result<(), h2::Error>>,
    ) -> Poll<Result<(), h2::Error>> {
        let lost = this
            .as_mut()
            .is_some_and(|keep_alive| keep_alive.poll_lost(cx, cork).is_ready());
        cork.poll_flush(cx);
        match lost {
            true => Poll::Ready(Ok(())),
            false => ended,
        }
    }

    /// Ready when the peer has not answered in time. Whatever is heard on `connection` is a sign of life.
    fn poll_lost(&mut self, cx: &mut Context<'_>, connection: &Cork) -> Poll<()> {
        loop {
            if self.asked && self.ping_pong.poll_pong(cx).is_ready() {
                self.asked = false;
                // The answer is no reason not to ask again in time.
                connection.take_heard();
                self.wait(self.interval);
            }
            ready!(self.timer.as_mut().poll(cx));
            match (connection.take_heard(), self.asked) {
                (true, true) => self.wait(self.timeout),
                (true, false) => self.wait(self.interval),
                (false, true) => {
                    tracing::debug!("a peer did not answer to HTTP/2 pings");
                    return Poll::Ready(());
                }
                (false, false) => {
                    // It fails where the connection has: that shows there.
                    let _ = self.ping_pong.send_ping(Ping::opaque());
                    self.asked = true;
                    self.wait(self.timeout);
                }
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        self.timer.as_mut().reset(Instant::now() + time);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};

    use bytes::Bytes;
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;
    use crate::io::{Io, cork};

    const SHORT: Duration = Duration::from_millis(50);

    /// Whether a connection to `peer` is given up within ten of its intervals.
    async fn is_lost<F: Future>(peer: impl FnOnce(TcpStream) -> F) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await;
        let peer = peer(listener.accept().await.unwrap().0);
        let (corked, cork) = cork(Io::from(tcp.unwrap()));
        let builder = h2::client::Builder::new();
        let (_sender, mut connection) = builder.handshake::<_, Bytes>(corked).await.unwrap();
        let mut keep_alive = KeepAlive::with(connection.ping_pong().unwrap(), SHORT, SHORT);
        let lost = poll_fn(|cx| {
            assert!(Pin::new(&mut connection).poll(cx).is_pending());
            let lost = keep_alive.poll_lost(cx, &cork);
            cork.poll_flush(cx);
            lost
        });
        tokio::select! {
            lost = timeout(10 * SHORT, lost) => lost.is_ok(),
            _ = peer => panic!("the peer ended"),
        }
    }

    #[tokio::test]
    async fn a_peer_that_says_nothing_is_lost() {
        let holds = |tcp| async move {
            let _open: TcpStream = tcp;
            std::future::pending::<()>().await;
        };
        assert!(is_lost(holds).await);
    }

    #[tokio::test]
    async fn a_peer_that_answers_pings_is_not() {
        let answers = |tcp| async move {
            let mut connection = h2::server::handshake(tcp).await.unwrap();
            connection.accept().await;
        };
        assert!(!is_lost(answers).await);
    }

    /// An answer that counted as a sign of life of its own had the next ping come an interval too late.
    #[tokio::test]
    async fn an_answer_does_not_put_off_the_next_ping() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await;
        let peer = listener.accept().await.unwrap().0;
        let (corked, cork) = cork(Io::from(tcp.unwrap()));
        let builder = h2::client::Builder::new();
        let (_sender, mut connection) = builder.handshake::<_, Bytes>(corked).await.unwrap();
        let mut keep_alive = KeepAlive::with(connection.ping_pong().unwrap(), SHORT, 100 * SHORT);
        let mut asked = false;
        let answered = poll_fn(|cx| {
            assert!(Pin::new(&mut connection).poll(cx).is_pending());
            assert!(keep_alive.poll_lost(cx, &cork).is_pending());
            cork.poll_flush(cx);
            let answered = asked && !keep_alive.asked;
            asked = keep_alive.asked;
            match answered {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        let answers = async {
            let mut connection = h2::server::handshake(peer).await.unwrap();
            connection.accept().await;
        };
        tokio::select! {
            () = answered => {}
            () = answers => panic!("the peer ended"),
        }
        assert!(!cork.take_heard());
    }

    #[tokio::test]
    async fn whatever_it_says_is_a_sign_of_life() {
        let sends_settings = |mut tcp: TcpStream| async move {
            loop {
                let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
                tcp.write_all(&settings).await.unwrap();
                sleep(SHORT / 5).await;
            }
        };
        assert!(!is_lost(sends_settings).await);
    }
}
