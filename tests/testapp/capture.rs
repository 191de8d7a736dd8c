//! A raw capture of every link of the node: what an eavesdropper between two pods sees.

use std::{
    io::{ErrorKind, Read, Write},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mesh_tests::report::Capture;
use socket2::{Domain, Protocol, Socket, Type};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Text to look for in the frames.
    #[arg(long)]
    marker: String,
    /// TCP port, on either side.
    #[arg(long)]
    port: u16,
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

/// All protocols (linux/if_ether.h).
const ETH_P_ALL: u16 = 3;

/// Prints "ready" when it sees frames, and the counts at the end.
pub(crate) fn run(args: Args) -> Result<()> {
    let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
    // Not bound to an interface: all of this network namespace.
    let mut socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))
        .context("a raw socket needs CAP_NET_RAW in this network namespace")?;
    socket.set_recv_buffer_size(8 << 20)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    println!("ready");
    std::io::stdout().flush()?;

    let end = Instant::now() + Duration::from_secs_f64(args.seconds);
    let mut seen = Capture::default();
    let mut frame = vec![0; 256 * 1024];
    while Instant::now() < end {
        match socket.read(&mut frame) {
            Ok(length) => count(&mut seen, &frame[..length], &args),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("reading frames"),
        }
    }
    super::print(&seen)
}

fn count(seen: &mut Capture, frame: &[u8], args: &Args) {
    let Some(payload) = tcp_payload(frame, args.port) else {
        return;
    };
    seen.frames += 1;
    seen.bytes += payload.len() as u64;
    let marker = args.marker.as_bytes();
    if payload.windows(marker.len()).any(|window| window == marker) {
        seen.marker += 1;
    }
    // TLSCiphertext of RFC 8446, section 5.2: type 23, version 0x0303.
    if payload.starts_with(&[23, 3, 3]) {
        seen.tls += 1;
    }
}

/// The payload of an Ethernet frame with TCP over IPv4 or IPv6 to or from `port`.
fn tcp_payload(frame: &[u8], port: u16) -> Option<&[u8]> {
    const TCP: u8 = 6;
    let packet = frame.get(14..)?;
    let segment = match frame.get(12..14)? {
        [0x08, 0x00] if packet.get(9)? == &TCP => packet.get(usize::from(packet[0] & 15) * 4..)?,
        [0x86, 0xdd] if packet.get(6)? == &TCP => packet.get(40..)?,
        _ => return None,
    };
    let number = |at: usize| {
        Some(u16::from_be_bytes([
            *segment.get(at)?,
            *segment.get(at + 1)?,
        ]))
    };
    if number(0)? != port && number(2)? != port {
        return None;
    }
    segment.get(usize::from(segment.get(12)? >> 4) * 4..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_payload_behind_the_headers() {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45]);
        frame.extend([0; 8]);
        frame.push(6);
        frame.extend([0; 10]);
        frame.extend([0x1f, 0x90, 0, 80]);
        frame.extend([0; 8]);
        frame.extend([0x50]);
        frame.extend([0; 7]);
        frame.extend(b"hello");
        assert_eq!(tcp_payload(&frame, 8080), Some(&b"hello"[..]));
        assert_eq!(tcp_payload(&frame, 8081), None);
        assert_eq!(tcp_payload(&frame[..30], 8080), None);
    }
}
