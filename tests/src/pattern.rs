//! Bytes of any length that both ends can make and hash without keeping them.

use std::sync::LazyLock;

use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};

/// Size of all pieces but the last.
pub const PIECE: usize = 64 * 1024;

static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = fastrand::Rng::with_seed(7);
    (0..PIECE).map(|_| random.u8(..)).collect()
});

/// The pieces of the first `length` bytes of the pattern. Every piece begins with its number, so that a
/// lost, repeated or swapped one changes the hash.
pub fn pieces(length: u64) -> impl Iterator<Item = Bytes> + Send + 'static {
    (0..length.div_ceil(PIECE as u64)).map(move |number| {
        let size = (length - number * PIECE as u64).min(PIECE as u64) as usize;
        let mut piece = BytesMut::with_capacity(PIECE + 8);
        piece.put_u64(number);
        piece.extend_from_slice(&BLOCK);
        piece.truncate(size);
        piece.freeze()
    })
}

/// The hash of the first `length` bytes, hexadecimal.
pub fn sha256(length: u64) -> String {
    let mut digest = Digested::default();
    pieces(length).for_each(|piece| digest.update(&piece));
    digest.finish()
}

/// Counts and hashes what arrives.
#[derive(Default)]
pub struct Digested {
    hash: Sha256,
    /// Bytes so far.
    pub count: u64,
}

impl Digested {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.count += bytes.len() as u64;
    }

    /// The hash of everything, hexadecimal.
    pub fn finish(self) -> String {
        hex(&self.hash.finalize())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_has_the_length_that_was_asked_for() {
        for length in [0, 1, 7, 65_535, 65_536, 65_537, 300_000] {
            let total: usize = pieces(length).map(|piece| piece.len()).sum();
            assert_eq!(total as u64, length);
        }
    }

    #[test]
    fn a_swap_changes_the_hash() {
        let mut pieces: Vec<_> = pieces(3 * PIECE as u64).collect();
        pieces.swap(1, 2);
        let mut digest = Digested::default();
        pieces.iter().for_each(|piece| digest.update(piece));
        assert_ne!(digest.finish(), sha256(3 * PIECE as u64));
    }
}
