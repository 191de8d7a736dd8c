//! HTTP/1 written and read by hand, so that nothing is repaired on the way.

use anyhow::{Context, Result, bail, ensure};
use http::Uri;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A connection with what was read too far.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

/// A response as it came.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Status line and header lines.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// Trailer lines.
    pub(crate) trailers: String,
}

impl Raw {
    pub(crate) async fn connect(url: &Uri) -> Result<Self> {
        let (host, port) = (url.host().unwrap_or_default(), url.port_u16().unwrap_or(80));
        let stream = TcpStream::connect((host.trim_matches(['[', ']']), port))
            .await
            .with_context(|| format!("connect to {url}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
        })
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<()> {
        Ok(self.stream.write_all(bytes.as_ref()).await?)
    }

    /// One head: up to the empty line. Interim responses are heads of their own.
    pub(crate) async fn head(&mut self) -> Result<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                let rest = self.buffer.split_off(at + 4);
                let head = std::mem::replace(&mut self.buffer, rest);
                return Ok(String::from_utf8_lossy(&head).into_owned());
            }
            ensure!(
                self.more().await? > 0,
                "closed before a whole head came: {:?}",
                self.text()
            );
        }
    }

    /// One response to a request that was not HEAD.
    pub(crate) async fn response(&mut self) -> Result<Response> {
        let head = self.head().await?;
        self.rest(head).await
    }

    /// The body that belongs to a head.
    pub(crate) async fn rest(&mut self, head: String) -> Result<Response> {
        let status = status(&head)?;
        let (mut body, mut trailers) = (Vec::new(), String::new());
        if value(&head, "transfer-encoding") == Some("chunked") {
            loop {
                let line = self.line().await?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(size, 16)
                    .with_context(|| format!("{line:?} is not a chunk size"))?;
                if size == 0 {
                    break;
                }
                body.extend(self.exactly(size).await?);
                ensure!(
                    self.line().await?.is_empty(),
                    "no line break behind a chunk"
                );
            }
            loop {
                match self.line().await? {
                    line if line.is_empty() => break,
                    line => trailers.push_str(&format!("{line}\n")),
                }
            }
        } else if let Some(length) = value(&head, "content-length") {
            body = self.exactly(length.parse()?).await?;
        } else if status >= 200 && status != 204 && status != 304 {
            while self.more().await? > 0 {}
            body = std::mem::take(&mut self.buffer);
        }
        Ok(Response {
            status,
            head,
            body,
            trailers,
        })
    }

    /// Whatever has come, after at least one more byte; empty at the end.
    pub(crate) async fn some(&mut self) -> Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.more().await?;
        }
        Ok(std::mem::take(&mut self.buffer))
    }

    pub(crate) async fn exactly(&mut self, length: usize) -> Result<Vec<u8>> {
        while self.buffer.len() < length {
            ensure!(
                self.more().await? > 0,
                "closed {} bytes early",
                length - self.buffer.len()
            );
        }
        let rest = self.buffer.split_off(length);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    async fn line(&mut self) -> Result<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let rest = self.buffer.split_off(at + 2);
                let line = std::mem::replace(&mut self.buffer, rest);
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            ensure!(
                self.more().await? > 0,
                "closed within a line: {:?}",
                self.text()
            );
        }
    }

    async fn more(&mut self) -> Result<usize> {
        Ok(self.stream.read_buf(&mut self.buffer).await?)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }
}

impl Response {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }

    pub(crate) fn expect(self, status: u16) -> Result<Self> {
        ensure!(
            self.status == status,
            "expected {status}, got {}{}",
            self.head,
            self.text()
        );
        Ok(self)
    }
}

/// The first value of a header, by its name in lower case.
pub(crate) fn value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

pub(crate) fn status(head: &str) -> Result<u16> {
    match head.split(' ').nth(1).map(str::parse) {
        Some(Ok(status)) if head.starts_with("HTTP/1.") => Ok(status),
        _ => bail!("not an HTTP/1 response: {head:?}"),
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
