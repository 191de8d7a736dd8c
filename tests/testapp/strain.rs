//! Clients that use up memory and file descriptors of a proxy that does not defend itself.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use futures_util::{FutureExt, StreamExt, stream};
use http::Uri;
use mesh_tests::{pattern, report::Strain};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::AsyncReadExt,
    time::{Instant, sleep},
};

use crate::check::raw::Raw;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Send the head of a request one byte at a time and never finish.
    Loris {
        url: Uri,
        #[arg(long, default_value_t = 200)]
        connections: u32,
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
    /// One request on each connection, then silence.
    Idle {
        url: Uri,
        /// The silence first, then the request.
        #[arg(long)]
        quiet: bool,
        #[arg(long, default_value_t = 10_000)]
        connections: u32,
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
    /// One long body upwards.
    Upload {
        url: Uri,
        #[arg(long, default_value_t = 1 << 30)]
        bytes: u64,
    },
    /// One long response that is read, and one long body that the server reads, only after a pause.
    Pause {
        url: Uri,
        /// Each way.
        #[arg(long, default_value_t = 64 << 20)]
        bytes: u64,
        #[arg(long, default_value_t = 40)]
        seconds: u64,
    },
    /// One long response that is not read.
    Deaf {
        url: Uri,
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
}

/// Connections that are opened at once.
const BATCH: usize = 50;

/// Takes the soft limit up to the hard one.
pub(crate) fn raise_open_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

pub(crate) async fn run(command: Command) -> Result<Strain> {
    let start = Instant::now();
    let mut strain = Strain::default();
    let result = match command {
        Command::Loris {
            url,
            connections,
            seconds,
        } => {
            loris(
                &mut strain,
                &url,
                connections,
                Duration::from_secs_f64(seconds),
            )
            .await
        }
        Command::Idle {
            url,
            connections,
            seconds,
            quiet,
        } => {
            let time = Duration::from_secs_f64(seconds);
            idle(&mut strain, &url, connections, time, quiet).await
        }
        Command::Upload { url, bytes } => upload(&mut strain, &url, bytes).await,
        Command::Pause {
            url,
            bytes,
            seconds,
        } => pause(&mut strain, &url, bytes, Duration::from_secs(seconds)).await,
        Command::Deaf { url, seconds } => {
            deaf(&mut strain, &url, Duration::from_secs_f64(seconds)).await
        }
    };
    if let Err(error) = result {
        strain.error = format!("{error:#}");
    }
    strain.ms = start.elapsed().as_secs_f64() * 1000.0;
    Ok(strain)
}

async fn loris(strain: &mut Strain, url: &Uri, connections: u32, time: Duration) -> Result<()> {
    let mut open = connect(strain, url, connections).await?;
    for raw in &mut open {
        raw.send("GET /malformed HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            .await?;
    }
    let end = Instant::now() + time;
    while Instant::now() < end {
        sleep(Duration::from_millis(500)).await;
        for raw in &mut open {
            // A closed one fails: counted below.
            let _ = raw.send("z").await;
            strain.bytes += 1;
        }
    }
    strain.closed = closed(open).await;
    Ok(())
}

async fn idle(
    strain: &mut Strain,
    url: &Uri,
    connections: u32,
    time: Duration,
    quiet: bool,
) -> Result<()> {
    let mut open = if quiet {
        connect(strain, url, connections).await?
    } else {
        Vec::with_capacity(connections as usize)
    };
    for _ in open.len()..connections as usize / BATCH {
        let fresh = (0..BATCH).map(|_| asked(url));
        let fresh = futures_util::future::try_join_all(fresh).await?;
        strain.opened += fresh.len() as u64;
        strain.answered += fresh.len() as u64;
        open.extend(fresh);
    }
    // The test reads the proxies' memory meanwhile.
    println!("idle");
    sleep(time).await;
    if quiet {
        for batch in open.chunks_mut(BATCH) {
            futures_util::future::try_join_all(batch.iter_mut().map(ask)).await?;
            strain.answered += batch.len() as u64;
        }
    }
    strain.closed = closed(open).await;
    Ok(())
}

/// A connection that has had one answer.
async fn asked(url: &Uri) -> Result<Raw> {
    let mut raw = Raw::connect(url).await?;
    ask(&mut raw).await?;
    Ok(raw)
}

async fn ask(raw: &mut Raw) -> Result<()> {
    raw.send("GET /bytes/10 HTTP/1.1\r\nHost: x\r\n\r\n")
        .await?;
    raw.response().await?.expect(200)?;
    Ok(())
}

async fn upload(strain: &mut Strain, url: &Uri, bytes: u64) -> Result<()> {
    let mut raw = Raw::connect(url).await?;
    strain.opened = 1;
    strain.bytes = digested(&mut raw, "/digest", bytes).await?;
    strain.answered = 1;
    Ok(())
}

/// Sends so many bytes, which must all arrive.
async fn digested(raw: &mut Raw, path: &str, bytes: u64) -> Result<u64> {
    raw.send(format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {bytes}\r\n\r\n"
    ))
    .await?;
    for piece in pattern::pieces(bytes) {
        raw.send(&piece).await?;
    }
    let answer = raw.response().await?.expect(200)?.text();
    ensure!(
        answer == format!("{bytes} {}\n", pattern::sha256(bytes)),
        "the app saw {answer}"
    );
    Ok(bytes)
}

async fn pause(strain: &mut Strain, url: &Uri, bytes: u64, time: Duration) -> Result<()> {
    let down = async {
        let mut raw = Raw::connect(url).await?;
        raw.send(format!("GET /bytes/{bytes} HTTP/1.1\r\nHost: x\r\n\r\n"))
            .await?;
        let head = raw.head().await?;
        sleep(time).await;
        let read = raw.rest(head).await?.body.len() as u64;
        ensure!(read == bytes, "{read} of {bytes} bytes came down");
        Ok(())
    };
    let up = async {
        let mut raw = Raw::connect(url).await?;
        digested(&mut raw, &format!("/continue/{}", time.as_millis()), bytes).await
    };
    let (down, up) = tokio::join!(down, up);
    strain.opened = 2;
    down.context("a reader that pauses")?;
    up.context("a server that pauses")?;
    strain.answered = 2;
    Ok(())
}

async fn deaf(strain: &mut Strain, url: &Uri, time: Duration) -> Result<()> {
    let mut raw = Raw::connect(url).await?;
    raw.send("GET /bytes/1073741824 HTTP/1.1\r\nHost: x\r\n\r\n")
        .await?;
    raw.head().await?;
    strain.opened = 1;
    println!("deaf");
    sleep(time).await;
    Ok(())
}

async fn connect(strain: &mut Strain, url: &Uri, connections: u32) -> Result<Vec<Raw>> {
    // Not all at once: this is no test of the accept queue.
    let mut open: Vec<Raw> = Vec::with_capacity(connections as usize);
    let mut connecting = stream::iter(0..connections)
        .map(|_| Raw::connect(url))
        .buffer_unordered(64);
    while let Some(raw) = connecting.next().await {
        open.push(raw.with_context(|| format!("after {} connections", open.len()))?);
        strain.opened += 1;
    }
    Ok(open)
}

/// How many the other side has closed, or answered with an error.
async fn closed(open: Vec<Raw>) -> u64 {
    // Lets the runtime learn which sockets are readable.
    sleep(Duration::from_millis(10)).await;
    let mut closed = 0;
    for mut raw in open {
        let mut byte = [0];
        closed += u64::from(raw.stream.read(&mut byte).now_or_never().is_some());
    }
    closed
}
