//! Ports of loopback for programs that have to be told theirs.
//!
//! A port that was asked of the system and given back is soon given to somebody else: to an outgoing connection, or to
//! the next test that asks. These are below the range of which the system takes such ports, and none is handed out
//! twice by one test process.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
};

/// Linux takes the ports of outgoing connections from 32768 on.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// Starts anywhere, since two test processes may run side by side.
static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(RANGE)));

/// `N` ports that nobody has.
///
/// # Panics
/// All of the range is taken.
pub fn free_ports<const N: usize>() -> [SocketAddr; N] {
    [(); N].map(|()| free_port())
}

/// A port that nobody has.
///
/// # Panics
/// All of the range is taken.
pub fn free_port() -> SocketAddr {
    RANGE
        .map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, next())))
        .find(|address| TcpListener::bind(address).is_ok())
        .expect("a free port of loopback")
}

fn next() -> u16 {
    let step = |port| {
        Some(if port + 1 < RANGE.end {
            port + 1
        } else {
            RANGE.start
        })
    };
    NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step)
        .unwrap_or(RANGE.start)
}
