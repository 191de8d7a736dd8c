//! Requests that must not get through, and what the proxy answers to each.
//!
//! The tables are in [`framing`], [`head`] and [`http2`]. A row passes when the first thing that comes back is what
//! the table documents. None of these requests may reach the app, which counts the path `/malformed`.

mod frames;
mod framing;
mod head;
mod http2;

use std::{fmt, time::Duration};

use anyhow::Result;
use futures_util::{StreamExt, stream};
use mesh_tests::report::Malformed;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::check::raw;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Host and port of an HTTP server behind the proxy.
    address: String,
    /// Only rows whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

/// A request and its documented answer.
struct Row {
    name: &'static str,
    bytes: Vec<u8>,
    expect: Expect,
}

/// What must come first.
#[derive(Clone, Copy)]
enum Expect {
    /// One of these statuses; then the connection is closed.
    Refused(&'static [u16]),
    /// This status; the connection may stay.
    Status(u16),
    /// HTTP/2: a connection error with one of these codes (RFC 9113, section 7), or the end of the connection.
    GoAway(&'static [u32]),
    /// HTTP/2: a stream error with one of these codes, or status 400 or 431.
    Reset(&'static [u32]),
}

/// What came first.
enum Got {
    Nothing,
    Closed,
    Status { code: u16, closed: bool },
    GoAway(u32),
    Reset(u32),
    Garbage(String),
}

/// Longer than this the proxy must not think.
const PATIENCE: Duration = Duration::from_secs(4);

pub(crate) async fn run(args: Args) -> Result<Vec<Malformed>> {
    let rows = framing::rows()
        .into_iter()
        .chain(head::rows())
        .chain(http2::rows());
    let rows = rows.filter(|row| row.name.contains(&args.only));
    let mut results: Vec<_> = stream::iter(rows.enumerate())
        .map(|(number, row)| {
            let address = args.address.clone();
            async move { (number, try_row(&address, &row).await) }
        })
        .buffer_unordered(16)
        .collect()
        .await;
    results.sort_by_key(|(number, _)| *number);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

async fn try_row(address: &str, row: &Row) -> Malformed {
    let got = match timeout(PATIENCE + PATIENCE, send(address, row)).await {
        Ok(Ok(got)) => got,
        Ok(Err(error)) => Got::Garbage(format!("{error:#}")),
        Err(_) => Got::Nothing,
    };
    Malformed {
        name: row.name.to_owned(),
        expected: row.expect.to_string(),
        got: got.to_string(),
        ok: row.expect.accepts(&got),
    }
}

async fn send(address: &str, row: &Row) -> Result<Got> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut from, mut to) = stream.into_split();
    let bytes = row.bytes.clone();
    // A proxy that refuses early stops reading: the failure to send the rest is no result.
    let writing = tokio::spawn(async move {
        let _ = to.write_all(&bytes).await;
        to
    });
    let got = match row.expect {
        Expect::GoAway(_) | Expect::Reset(_) => frames::first_event(&mut from, PATIENCE).await,
        _ if row.bytes.starts_with(frames::PREFACE) => {
            frames::first_event(&mut from, PATIENCE).await
        }
        _ => http1(&mut from).await,
    };
    writing.abort();
    got
}

async fn http1(from: &mut (impl AsyncReadExt + Unpin)) -> Result<Got> {
    let mut buffer = Vec::new();
    let closed = loop {
        match timeout(PATIENCE, from.read_buf(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => break true,
            Ok(Ok(_)) => {}
            Err(_) => break false,
        }
    };
    if buffer.is_empty() {
        return Ok(if closed { Got::Closed } else { Got::Nothing });
    }
    let text = String::from_utf8_lossy(&buffer).into_owned();
    Ok(match raw::status(&text) {
        Ok(code) => Got::Status { code, closed },
        Err(_) => Got::Garbage(text.chars().take(80).collect()),
    })
}

impl Expect {
    fn accepts(self, got: &Got) -> bool {
        match (self, got) {
            (Self::Refused(codes), Got::Status { code, closed: true }) => codes.contains(code),
            (Self::Status(status), Got::Status { code, .. }) => *code == status,
            (Self::GoAway(_), Got::Closed) => true,
            (Self::GoAway(codes) | Self::Reset(codes), Got::GoAway(code)) => codes.contains(code),
            (Self::Reset(codes), Got::Reset(code)) => codes.contains(code),
            (Self::Reset(_), Got::Status { code, .. }) => matches!(code, 400 | 431),
            _ => false,
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(codes) => write!(f, "status {codes:?} and close"),
            Self::Status(code) => write!(f, "status {code}"),
            Self::GoAway(codes) => write!(f, "GOAWAY {codes:?} or close"),
            Self::Reset(codes) => write!(f, "RST_STREAM or GOAWAY {codes:?}, or 400"),
        }
    }
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(f, "nothing"),
            Self::Closed => write!(f, "close"),
            Self::Status { code, closed: true } => write!(f, "status {code} and close"),
            Self::Status { code, .. } => write!(f, "status {code}"),
            Self::GoAway(code) => write!(f, "GOAWAY {code}"),
            Self::Reset(code) => write!(f, "RST_STREAM {code}"),
            Self::Garbage(text) => write!(f, "{text:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_table_is_large_and_its_names_are_unique() {
        let rows: Vec<_> = framing::rows()
            .into_iter()
            .chain(head::rows())
            .chain(http2::rows())
            .collect();
        let names: HashSet<_> = rows.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), rows.len());
        assert!(rows.len() >= 60, "{}", rows.len());
    }
}
