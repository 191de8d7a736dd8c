//! HTTP/2 frames made by hand (RFC 9113, section 4), and the first answer to them.

use std::time::Duration;

use anyhow::Result;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

use super::Got;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;

/// One frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// HPACK: literal fields without indexing and without Huffman (RFC 7541, section 6.2.2).
pub(super) fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// An integer with a prefix of seven bits (RFC 7541, section 5.1).
fn length(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        return block.push(length as u8);
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

/// The first frame that says what became of the connection or of a stream.
pub(super) async fn first_event(
    from: &mut (impl AsyncRead + Unpin),
    patience: Duration,
) -> Result<Got> {
    loop {
        let mut head = [0; 9];
        match timeout(patience, from.read_exact(&mut head)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Ok(Got::Closed),
            Err(_) => return Ok(Got::Nothing),
        }
        if head.starts_with(b"HTTP/1.") {
            return Ok(Got::Garbage("an HTTP/1 response".to_owned()));
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        if from.read_exact(&mut payload).await.is_err() {
            return Ok(Got::Closed);
        }
        let word = |at: usize| {
            payload.get(at..at + 4).map_or(u32::MAX, |word| {
                word.iter()
                    .fold(0, |number, byte| number << 8 | u32::from(*byte))
            })
        };
        match head[3] {
            // An announced shutdown (RFC 9113, section 6.8) says NO_ERROR: what matters comes behind it.
            GOAWAY if word(4) != 0 => return Ok(Got::GoAway(word(4))),
            RST_STREAM => return Ok(Got::Reset(word(0))),
            HEADERS => {
                return Ok(Got::Status {
                    code: status(&payload),
                    closed: false,
                });
            }
            _ => {}
        }
    }
}

/// `:status` where it is in the static table (RFC 7541, appendix A), otherwise as Huffman digits.
fn status(block: &[u8]) -> u16 {
    match block {
        [byte @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(byte - 0x88)],
        // Literal, name 8, Huffman: "431" and "503" are told apart by their bytes alone.
        [0x08 | 0x48, 0x82 | 0x83, rest @ ..] => digits(rest),
        [0x08 | 0x48, 3, a, b, c, ..] => [a, b, c].iter().fold(0, |number, digit| {
            number * 10 + u16::from(digit.saturating_sub(b'0'))
        }),
        _ => 0,
    }
}

/// Three digits in HPACK's Huffman code: 0, 1 and 2 have five bits, the others six.
fn digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u8> = bytes
        .iter()
        .take(3)
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    let take = |at: usize, count: usize| {
        bits.get(at..at + count)
            .map(|bits| bits.iter().fold(0u16, |n, bit| n << 1 | u16::from(*bit)))
    };
    let (mut at, mut number) = (0, 0);
    for _ in 0..3 {
        let digit = match (take(at, 5), take(at, 6)) {
            (Some(short @ 0..=2), _) => {
                at += 5;
                short
            }
            (_, Some(long @ 0x19..=0x1f)) => {
                at += 6;
                long - 0x19 + 3
            }
            _ => return 0,
        };
        number = number * 10 + digit;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_have_their_length_in_more_bytes() {
        let mut block = Vec::new();
        length(&mut block, 1337 - 31 + 127);
        assert_eq!(
            block,
            [127, 154, 10],
            "RFC 7541, appendix C.1.2, with a longer prefix"
        );
    }

    #[test]
    fn reads_statuses() {
        assert_eq!(status(&[0x88]), 200);
        assert_eq!(status(&[0x8c, 1, 2]), 400);
        // RFC 7541, appendix C.6.1: "302" is 0x6402 in Huffman, with length 2.
        assert_eq!(digits(&[0x64, 0x02, 0xff]), 302);
    }
}
