//! HTTP/1.1 by hand: the generator shares two cores with what it measures, so it must cost little.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, time::Duration};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    task::JoinSet,
    time::Instant,
};

use super::{LoadArgs, Tally};

/// Keep-alive connections, each with one request in flight.
pub(super) async fn closed(args: &LoadArgs, length: Duration) -> anyhow::Result<Tally> {
    let end = Instant::now() + length;
    let mut workers = JoinSet::new();
    for _ in 0..args.concurrency {
        let args = args.clone();
        workers.spawn_local(async move {
            let mut connection = Connection::open(&args).await?;
            let mut tally = Tally::default();
            while Instant::now() < end {
                let start = Instant::now();
                match connection.request().await {
                    Ok(body) => tally.done(start.elapsed(), body),
                    Err(_) => {
                        tally.errors += 1;
                        connection = Connection::open(&args).await?;
                    }
                }
            }
            anyhow::Ok(tally)
        });
    }
    collect(workers).await
}

/// Requests leave on a schedule; a free connection takes the oldest one that is due.
pub(super) async fn open(args: &LoadArgs, length: Duration) -> anyhow::Result<Tally> {
    let due = Rc::new(RefCell::new(VecDeque::<Option<Instant>>::new()));
    let wake = Rc::new(Notify::new());
    let mut workers = JoinSet::new();
    for _ in 0..args.concurrency {
        let (args, due, wake) = (args.clone(), due.clone(), wake.clone());
        workers.spawn_local(async move {
            let mut connection = Connection::open(&args).await?;
            let mut tally = Tally::default();
            loop {
                let next = due.borrow_mut().pop_front();
                let intended = match next {
                    None => {
                        wake.notified().await;
                        continue;
                    }
                    Some(None) => return anyhow::Ok(tally),
                    Some(Some(intended)) => intended,
                };
                match connection.request().await {
                    Ok(body) => tally.done(intended.elapsed(), body),
                    Err(_) => {
                        tally.errors += 1;
                        connection = Connection::open(&args).await?;
                    }
                }
            }
        });
    }
    let start = Instant::now();
    let gap = Duration::from_secs_f64(1.0 / args.rate as f64);
    for number in 0..(length.as_secs_f64() * args.rate as f64) as u32 {
        let intended = start + gap * number;
        tokio::time::sleep_until(intended).await;
        due.borrow_mut().push_back(Some(intended));
        wake.notify_one();
    }
    due.borrow_mut()
        .extend(std::iter::repeat_n(None, args.concurrency));
    for _ in 0..args.concurrency {
        wake.notify_one();
        tokio::task::yield_now().await;
    }
    wake.notify_waiters();
    collect(workers).await
}

/// A new connection for every request.
pub(super) async fn connect(args: &LoadArgs, length: Duration) -> anyhow::Result<Tally> {
    let end = Instant::now() + length;
    let mut workers = JoinSet::new();
    for _ in 0..args.concurrency {
        let args = args.clone();
        workers.spawn_local(async move {
            let mut tally = Tally::default();
            while Instant::now() < end {
                let start = Instant::now();
                let answer = async { Connection::open(&args).await?.request().await }.await;
                match answer {
                    Ok(body) => tally.done(start.elapsed(), body),
                    Err(_) => tally.errors += 1,
                }
            }
            anyhow::Ok(tally)
        });
    }
    collect(workers).await
}

async fn collect(mut workers: JoinSet<anyhow::Result<Tally>>) -> anyhow::Result<Tally> {
    let mut total = Tally::default();
    while let Some(tally) = workers.join_next().await {
        total.add(&tally??);
    }
    Ok(total)
}

struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(args: &LoadArgs) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(args.address)
            .await
            .with_context(|| format!("connecting to {}", args.address))?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET {} HTTP/1.1\r\nhost: {}\r\n\r\n",
            args.path, args.address
        );
        Ok(Self {
            stream,
            request: request.into_bytes(),
            buffer: Vec::with_capacity(128 * 1024),
        })
    }

    /// One request; the length of the response's body. Only a 200 with Content-Length is an answer.
    async fn request(&mut self) -> anyhow::Result<usize> {
        self.stream.write_all(&self.request).await?;
        self.buffer.clear();
        let (head, body) = loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("closed before the response's head");
            }
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
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

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
