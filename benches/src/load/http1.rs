//! HTTP/1.1 load: closed and open loops.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, time::Duration};

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use tokio::{io::AsyncReadExt as _, net::unix::pipe, sync::Notify, task::JoinSet, time::Instant};

use super::{LoadArgs, Tally, connection::Connection};

/// Keep-alive connections, each with one request in flight.
pub(super) async fn closed(args: &LoadArgs, length: Duration) -> anyhow::Result<Tally> {
    keep_alive(args, length, async |connection| connection.get().await).await
}

/// The same with POSTs in two segments: where somebody waits for an acknowledgement between them, it shows.
pub(super) async fn post(args: &LoadArgs, length: Duration) -> anyhow::Result<Tally> {
    keep_alive(args, length, async |connection| connection.post().await).await
}

async fn keep_alive(
    args: &LoadArgs,
    length: Duration,
    request: impl AsyncFn(&mut Connection) -> anyhow::Result<usize> + Copy + 'static,
) -> anyhow::Result<Tally> {
    let connections = open_all(args).await?;
    let end = Instant::now() + length;
    let mut workers = JoinSet::new();
    for mut connection in connections {
        let args = args.clone();
        workers.spawn_local(async move {
            let mut tally = Tally::default();
            while Instant::now() < end {
                let start = Instant::now();
                match request(&mut connection).await {
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
    let connections = open_all(args).await?;
    let due = Rc::new(RefCell::new(VecDeque::<Option<Instant>>::new()));
    let wake = Rc::new(Notify::new());
    let mut workers = JoinSet::new();
    for mut connection in connections {
        let (args, due, wake) = (args.clone(), due.clone(), wake.clone());
        workers.spawn_local(async move {
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
                match connection.get().await {
                    Ok(body) => tally.done(intended.elapsed(), body),
                    Err(_) => {
                        tally.errors += 1;
                        connection = Connection::open(&args).await?;
                    }
                }
            }
        });
    }
    let gap = Duration::from_secs_f64(1.0 / args.rate as f64);
    let last = (length.as_secs_f64() * args.rate as f64) as u32;
    // tokio's timers have steps of a millisecond, which would be most of the latency.
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
    timer.set(
        Expiration::Interval(TimeSpec::from_duration(gap)),
        TimerSetTimeFlags::empty(),
    )?;
    let start = Instant::now();
    // What is read like a pipe: eight bytes each time it has expired.
    let mut timer = pipe::Receiver::from_owned_fd_unchecked(timer.into())?;
    let mut sent = 0;
    while sent < last {
        timer.read_exact(&mut [0; 8]).await?;
        // Where this process itself was late, several are due; each has its own time.
        while sent < last && start + gap * (sent + 1) <= Instant::now() {
            sent += 1;
            due.borrow_mut().push_back(Some(start + gap * sent));
            wake.notify_one();
        }
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
                let answer = async { Connection::open(&args).await?.get().await }.await;
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

/// Before the time begins: a thousand connections take a while.
async fn open_all(args: &LoadArgs) -> anyhow::Result<Vec<Connection>> {
    let mut connections = Vec::with_capacity(args.concurrency);
    for _ in 0..args.concurrency {
        connections.push(Connection::open(args).await?);
    }
    Ok(connections)
}

async fn collect(mut workers: JoinSet<anyhow::Result<Tally>>) -> anyhow::Result<Tally> {
    let mut total = Tally::default();
    while let Some(tally) = workers.join_next().await {
        total.add(tally??);
    }
    Ok(total)
}
