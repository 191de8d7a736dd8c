//! Waits for the end of the app of this pod, where Kubernetes does not: it stops all ordinary containers of a pod at
//! once, and only the preStop hook of a proxy that is one of them keeps that proxy for those that still need it.
//!
//! The containers share no processes that could be looked at, but they share the network: as long as somebody else's
//! TCP socket is open in the pod, somebody is there who serves or calls. The pod's grace period bounds the wait.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use mesh_api::names;
use nix::unistd::geteuid;

use crate::config::port;
use crate::wait;

/// The kernel's tables of this network namespace; the second is missing where there is no IPv6.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
/// Where they say whose a socket is, and which: whitespace-separated fields (Documentation/networking/proc_net_tcp.rst).
const UID: usize = 7;
const INODE: usize = 9;
const PAUSE: Duration = Duration::from_millis(250);
/// An app without a socket for so long has ended, or needs no proxy for its end.
const QUIET: Duration = Duration::from_secs(1);

/// Flags of `mesh proxy linger`; each has an environment variable `MESH_…` too.
#[derive(clap::Args, Clone, Debug)]
pub struct LingerArgs {
    /// The proxy's admin port.
    #[arg(long, env = "MESH_ADMIN_PORT", default_value_t = port(names::ADMIN_PORT))]
    pub admin_port: NonZeroU16,
}

/// Returns when nobody but the proxy has a socket any more. At once if the proxy is not ready: nobody is served by
/// it, and the kubelet may want to start it anew.
///
/// # Errors
/// The kernel does not show the sockets.
pub(crate) fn run(args: &LingerArgs) -> io::Result<()> {
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, args.admin_port.get()));
    // By it the redirection knows the proxy too.
    let own = geteuid().as_raw();
    let mut busy = Instant::now();
    while wait::ask(admin).is_ok() {
        if others_have_sockets(own)? {
            busy = Instant::now();
        } else if busy.elapsed() >= QUIET {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn others_have_sockets(own: u32) -> io::Result<bool> {
    for table in TABLES {
        match fs::read_to_string(table) {
            Ok(table) if has_others(&table, own) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{table}: {error}"))),
        }
    }
    Ok(false)
}

/// Whether one of the sockets is of a process of another user. One that no process has open any more (TIME_WAIT, the
/// last bytes of what was closed) has no inode.
fn has_others(table: &str, own: u32) -> bool {
    table.lines().skip(1).any(|line| {
        let field = |number| line.split_whitespace().nth(number);
        let uid = field(UID).and_then(|uid| uid.parse::<u32>().ok());
        uid.is_some_and(|uid| uid != own) && field(INODE).is_some_and(|inode| inode != "0")
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// As Linux 6.18 prints it: a proxy's listener and connection, and what the app's closed connection left.
    const ALONE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:102F 00000000:0000 0A 00000000:00000000 00:00000000 00000000  2102        0 40121 1 ffff8bf402b3d0c0 100 0 0 10 0
   1: 0701F40A:102F 0801F40A:CA5A 01 00000000:00000000 02:000AF1C8 00000000  2102        0 40911 2 ffff8bf402b3e1c0 20 4 30 10 -1
   2: 0701F40A:1F90 0701F40A:B2D4 06 00000000:00000000 03:00000F52 00000000     0        0 0 3 ffff8bf402b3f2c0
";
    const APP: &str = "   3: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 40007 1 ffff8bf402b3a0c0 100 0 0 10 0\n";

    #[test]
    fn an_open_socket_of_another_user_is_the_apps() {
        assert!(!has_others(ALONE, 2102));
        assert!(has_others(&format!("{ALONE}{APP}"), 2102));
        assert!(!has_others("", 2102));
    }

    #[test]
    fn the_kernel_shows_whose_sockets_are_open() {
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(others_have_sockets(geteuid().as_raw() + 1).unwrap());
    }

    #[test]
    fn a_proxy_that_is_not_there_is_not_waited_for() {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let admin_port = free.local_addr().unwrap().port().try_into().unwrap();
        drop(free);
        let started = Instant::now();
        run(&LingerArgs { admin_port }).unwrap();
        assert!(started.elapsed() < QUIET);
    }
}
