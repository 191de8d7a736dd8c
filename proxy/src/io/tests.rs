//! What a peer that closes early leaves behind.

use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream as StdStream};
use std::pin::pin;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// A connection, and its other end, which has answered and closed without having read: a reset is on its way,
/// before it a FIN if `orderly`.
async fn answered_and_closed(orderly: bool) -> Io {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = Io::from(TcpStream::connect(address).await.unwrap());
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"unread").await.unwrap();
    let mut first = [0; 1];
    server.read_exact(&mut first).unwrap();
    server.write_all(b"answer").unwrap();
    if orderly {
        server.shutdown(Shutdown::Write).unwrap();
    }
    drop::<StdStream>(server);
    client
}

#[tokio::test]
async fn an_answer_before_a_reset_is_read_after_a_write_was_refused() {
    for (orderly, end) in [(false, Err(ErrorKind::ConnectionReset)), (true, Ok(0))] {
        let mut io = answered_and_closed(orderly).await;
        let sending = io.send_requests();
        assert!(!sending.has_discarded());
        for _ in 0..3 {
            io.write_all(b"more").await.unwrap();
        }
        assert!(sending.has_discarded());
        let mut answer = [0; 6];
        io.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
        // Of an answer without a length, only a FIN says that this was all of it.
        let mut more = [0; 1];
        assert_eq!(
            io.read(&mut more).await.map_err(|e| e.kind()),
            end,
            "{orderly}"
        );
    }
}

#[tokio::test]
async fn a_refused_write_is_an_error_elsewhere() {
    let mut io = answered_and_closed(false).await;
    let error = io.write_all(b"more").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let mut io = answered_and_closed(false).await;
    let _ = io.send_requests();
    io.end_requests();
    assert!(io.write_all(b"more").await.is_err());
}

/// A request without a long body fails soon when the node has vanished; one with a long body may wait for its
/// reader.
#[tokio::test]
async fn the_user_timeout_is_lifted_for_long_requests_only() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap());
    let mut io = Io::from(tcp.await.unwrap());
    tune_remote(SockRef::from(io.tcp())).unwrap();
    let sending = io.send_requests();
    for (long, timeout) in [
        (false, Some(USER_TIMEOUT)),
        (true, None),
        (true, None),
        (false, Some(USER_TIMEOUT)),
    ] {
        sending.begin(long);
        io.write_all(b"GET").await.unwrap();
        let socket = SockRef::from(io.tcp());
        assert_eq!(socket.tcp_user_timeout().unwrap(), timeout);
    }
    // The app beside this proxy can't vanish: no time-out comes in by the back door.
    io.allow_pauses();
    for long in [true, false] {
        sending.begin(long);
        io.write_all(b"GET").await.unwrap();
        let socket = SockRef::from(io.tcp());
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
    }
}

/// The frames of many streams leave together, and nothing is lost when the stream is closed.
#[tokio::test]
async fn what_http2_writes_leaves_together() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap());
    let (mut stream, cork) = cork(Io::from(tcp.await.unwrap()));
    let (mut peer, _) = listener.accept().unwrap();
    peer.set_nonblocking(true).unwrap();
    for frame in ["one ", "two ", "three"] {
        stream.write_all(frame.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
    }
    let mut read = [0; 64];
    let silent = peer.read(&mut read).unwrap_err();
    assert_eq!(silent.kind(), ErrorKind::WouldBlock);
    poll_fn(|cx| {
        cork.poll_flush(cx);
        Poll::Ready(())
    })
    .await;
    peer.set_nonblocking(false).unwrap();
    let length = peer.read(&mut read).unwrap();
    assert_eq!(&read[..length], b"one two three");

    stream.write_all(b"four").await.unwrap();
    stream.shutdown().await.unwrap();
    let length = peer.read(&mut read).unwrap();
    assert_eq!(&read[..length], b"four");
}

/// A peer that does not read holds the writer back, and lets him go on once it does.
#[tokio::test]
async fn a_full_cork_makes_the_writer_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap());
    let (mut stream, cork) = cork(Io::from(tcp.await.unwrap()));
    let (mut peer, _) = listener.accept().unwrap();
    const PIECES: usize = 2000;
    let written = Rc::new(std::cell::Cell::new(0));
    let count = written.clone();
    let write = async move {
        for _ in 0..PIECES {
            stream.write_all(&[7; 16 * 1024]).await.unwrap();
            count.set(count.get() + 1);
        }
        stream.shutdown().await.unwrap();
    };
    let mut write = pin!(write);
    let write = poll_fn(|cx| {
        let written = write.as_mut().poll(cx);
        cork.poll_flush(cx);
        written
    });
    let read = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(written.get() < PIECES, "all was taken though nobody reads");
        let all = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).unwrap();
            all.len()
        });
        all.await.unwrap()
    };
    let (read, ()) = tokio::join!(read, write);
    assert_eq!(read, PIECES * 16 * 1024);
}
