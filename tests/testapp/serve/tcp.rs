//! Plain TCP servers: who speaks first, half-close and reset.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use mesh_tests::pattern::Digested;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::App;

#[derive(Clone, Copy)]
pub(super) enum Behaviour {
    Echo,
    Banner,
    Digest,
    Reset,
}

/// The line with which the banner server greets.
const BANNER: &[u8] = b"220 testapp ready\r\n";

pub(super) async fn serve(
    listener: TcpListener,
    behaviour: Behaviour,
    app: Arc<App>,
    mut stopped: watch::Receiver<bool>,
) -> Result<()> {
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                let app = Arc::clone(&app);
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, behaviour).await
                        && error.kind() == std::io::ErrorKind::ConnectionReset
                    {
                        App::count(&app.resets);
                    }
                });
            }
            _ = stopped.changed() => return Ok(()),
        }
    }
}

async fn converse(mut stream: TcpStream, behaviour: Behaviour) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    match behaviour {
        Behaviour::Echo => echo(stream).await,
        Behaviour::Banner => {
            stream.write_all(BANNER).await?;
            echo(stream).await
        }
        Behaviour::Digest => {
            let mut digest = Digested::default();
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match stream.read(&mut buffer).await? {
                    0 => break,
                    n => digest.update(&buffer[..n]),
                }
            }
            let count = digest.count;
            let answer = format!("{count} {}\n", digest.finish());
            stream.write_all(answer.as_bytes()).await?;
            stream.shutdown().await
        }
        Behaviour::Reset => {
            let mut line = [0; 64];
            let _ = stream.read(&mut line).await?;
            stream.write_all(b"bye\n").await?;
            // Time for the line to arrive: a reset may overtake what is still unsent.
            tokio::time::sleep(Duration::from_millis(50)).await;
            // Linger of zero: close sends RST.
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))
        }
    }
}

async fn echo(stream: TcpStream) -> std::io::Result<()> {
    let (mut from, mut to) = stream.into_split();
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}
