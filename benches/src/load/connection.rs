//! HTTP/1.1 by hand: the generator shares two cores with what it measures, so it must cost little.

use anyhow::{Context as _, bail};
use memchr::memmem;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::LoadArgs;

const POST_BODY: usize = 1000;
/// Room for one read.
const READ: usize = 64 * 1024;

/// One keep-alive connection.
pub(super) struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    post: Vec<u8>,
    buffer: Vec<u8>,
}

impl Connection {
    pub(super) async fn open(args: &LoadArgs) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(args.address)
            .await
            .with_context(|| format!("connecting to {}", args.address))?;
        stream.set_nodelay(true)?;
        let (path, host) = (&args.path, args.address);
        Ok(Self {
            stream,
            request: format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").into_bytes(),
            post: format!(
                "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
                 content-length: {POST_BODY}\r\n\r\n"
            )
            .into_bytes(),
            buffer: Vec::new(),
        })
    }

    /// One GET; the length of the response's body. Only a 200 with Content-Length is an answer.
    pub(super) async fn get(&mut self) -> anyhow::Result<usize> {
        self.stream.write_all(&self.request).await?;
        self.response().await
    }

    /// One POST with 1 KB; as [`Connection::get`].
    pub(super) async fn post(&mut self) -> anyhow::Result<usize> {
        self.stream.write_all(&self.post).await?;
        // What was written has left: there is no Nagle, and nothing between the two waits.
        self.stream.write_all(&[b'x'; POST_BODY]).await?;
        self.response().await
    }

    async fn response(&mut self) -> anyhow::Result<usize> {
        self.buffer.clear();
        self.buffer.reserve(READ);
        let (head, body) = loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("closed before the response's head");
            }
            if let Some(end) = memmem::find(&self.buffer, b"\r\n\r\n") {
                break (end + 4, content_length(&self.buffer[..end])?);
            }
        };
        if !self.buffer.starts_with(b"HTTP/1.1 200") {
            bail!("{}", String::from_utf8_lossy(&self.buffer[..head]));
        }
        let mut missing = (head + body).saturating_sub(self.buffer.len());
        while missing > 0 {
            self.buffer.clear();
            let read = self.stream.read_buf(&mut self.buffer).await?;
            if read == 0 {
                bail!("closed with {missing} bytes of the body missing");
            }
            missing = missing.saturating_sub(read);
        }
        Ok(body)
    }
}

fn content_length(head: &[u8]) -> anyhow::Result<usize> {
    for line in head.split(|byte| *byte == b'\n') {
        if line.len() > 15 && line[..15].eq_ignore_ascii_case(b"content-length:") {
            return Ok(std::str::from_utf8(&line[15..])?.trim().parse()?);
        }
    }
    bail!("the response has no Content-Length")
}
