//! Sends a transaction to the kernel and reads its answer.

use std::io::{self, ErrorKind};
use std::time::Duration;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use socket2::SockRef;

use super::encode::Batch;

/// `NLMSG_ERROR`: an error, or with code 0 an acknowledgement.
const ERROR: u16 = 2;
/// A transaction that the kernel has not answered by then never will be.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The most that fits in a socket's send buffer, where the system allows it: some ten thousand rules.
const SEND_BUFFER: usize = 8 << 20;

/// Rules could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// EPERM.
    #[error(
        "may not change the nftables rules of this network namespace: that needs CAP_NET_ADMIN in the user \
         namespace that owns it (run as root, or grant NET_ADMIN)"
    )]
    NotPermitted,
    /// The kernel lacks the family, an expression or a chain type.
    #[error(
        "this kernel can't do what was asked while {doing}: {source} (are the modules nf_tables, nft_nat, \
         nft_redir and nft_reject there?)"
    )]
    Unsupported {
        /// The refused step.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Any other refusal.
    #[error("the kernel refused the nftables rules while {doing}: {source}")]
    Refused {
        /// The refused step.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The socket.
    #[error("netlink socket for nftables: {0}")]
    Socket(#[from] io::Error),
}

pub(super) fn commit(batch: &Batch) -> Result<(), NftError> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    // Answers don't repeat what they answer.
    socket.set_cap_ack(true)?;
    let options = SockRef::from(&socket);
    options.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    // The kernel takes less where its limit is lower; too large a batch is then refused with EMSGSIZE.
    options.set_send_buffer_size(SEND_BUFFER)?;
    socket.send_to(&batch.bytes, &SocketAddr::new(0, 0), 0)?;
    loop {
        let (answer, _) = match socket.recv_from_full() {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            answer => answer?,
        };
        if read_answer(&answer, batch)? {
            return Ok(());
        }
    }
}

/// Whether the transaction is acknowledged.
fn read_answer(mut answer: &[u8], batch: &Batch) -> Result<bool, NftError> {
    while let Some((header, body)) = answer.split_at_checked(16) {
        let len = u32_at(header, 0).unwrap_or_default() as usize;
        let kind = header
            .get(4..6)
            .and_then(|kind| kind.try_into().ok())
            .map(u16::from_ne_bytes);
        let sequence = u32_at(header, 8).unwrap_or_default();
        if kind == Some(ERROR) {
            match u32_at(body, 0).map(|code| (code as i32).wrapping_neg()) {
                Some(0) if sequence == batch.answered => return Ok(true),
                Some(0) | None => {}
                Some(code) => return Err(refusal(code, sequence, batch)),
            }
        }
        match answer.get(len.next_multiple_of(4)..) {
            Some(rest) if len >= 16 => answer = rest,
            _ => break,
        }
    }
    Ok(false)
}

fn refusal(code: i32, sequence: u32, batch: &Batch) -> NftError {
    let doing = batch
        .what
        .get(sequence as usize)
        .cloned()
        .unwrap_or_default();
    let source = io::Error::from_raw_os_error(code);
    match Errno::from_raw(code) {
        Errno::EPERM | Errno::EACCES => NftError::NotPermitted,
        Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT => {
            NftError::Unsupported { doing, source }
        }
        _ => NftError::Refused { doing, source },
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..at + 4)?
        .try_into()
        .ok()
        .map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::init::nft::encode;

    /// `struct nlmsghdr` and `struct nlmsgerr` with this code.
    fn answer(sequence: u32, code: i32) -> Vec<u8> {
        let mut bytes = 20u32.to_ne_bytes().to_vec();
        bytes.extend(ERROR.to_ne_bytes());
        bytes.extend(0u16.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(code.to_ne_bytes());
        bytes
    }

    #[test]
    fn answers_name_the_refused_step() {
        let batch = encode::remove("mesh");
        let last = batch.answered;
        assert!(read_answer(&answer(last, 0), &batch).unwrap());
        assert!(
            !read_answer(&answer(last - 1, 0), &batch).unwrap(),
            "not the last one"
        );
        let several = [answer(last - 1, 0), answer(last, 0)].concat();
        assert!(read_answer(&several, &batch).unwrap());
        let refused = read_answer(&answer(last, -(Errno::EBUSY as i32)), &batch).unwrap_err();
        assert!(
            refused.to_string().contains("while deleting table mesh"),
            "{refused}"
        );
        let missing = read_answer(&answer(last, -(Errno::ENOENT as i32)), &batch).unwrap_err();
        assert!(matches!(missing, NftError::Unsupported { .. }), "{missing}");
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes: Vec<u8>, cut in 0usize..24) {
            let batch = encode::remove("mesh");
            let _ = read_answer(&bytes, &batch);
            let whole = answer(batch.answered, i32::MIN);
            let _ = read_answer(&whole[..cut.min(whole.len())], &batch);
        }
    }
}
