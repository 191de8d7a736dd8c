//! The listeners: connections in, with the address that their client really dialled.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpStream;

use crate::metrics::Cause;

/// Connections that the kernel has completed and that wait to be accepted; it cuts this at
/// net.core.somaxconn.
const BACKLOG: i32 = 4096;
/// Pause after the kernel refused to accept for want of file descriptors or memory: closing connections
/// gives some back, spinning does not.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connection was not redirected here, or the kernel does not say from where.
#[derive(Debug, thiserror::Error)]
pub enum OriginalDestinationError {
    /// It was dialled to the proxy's own port: forwarding it would come back here.
    #[error("{0} is this proxy's own port: forwarding would loop; dial the app's port instead")]
    Loop(SocketAddr),
    /// The connection is gone already, or no connection tracking is loaded.
    #[error("the kernel does not say what was dialled (is connection tracking loaded?)")]
    Unknown(#[source] io::Error),
}

impl OriginalDestinationError {
    /// As what it is counted.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Loop(_) => Cause::Loop,
            Self::Unknown(_) => Cause::Other,
        }
    }
}

/// Listens on `port` of all addresses, IPv6 and IPv4; IPv4 only where the kernel has no IPv6. Several
/// workers listen on the same port: the kernel spreads connections over them. Every accepted connection inherits the
/// options that `tune` sets.
///
/// # Errors
/// The port is taken by another user, or may not be bound.
pub fn bind(port: u16, tune: Tune) -> io::Result<std::net::TcpListener> {
    match bind_to((Ipv6Addr::UNSPECIFIED, port).into(), tune) {
        Err(error) if no_ipv6(&error) => bind_to((Ipv4Addr::UNSPECIFIED, port).into(), tune),
        other => other,
    }
}

/// Sets options of a socket.
pub type Tune = fn(SockRef<'_>) -> io::Result<()>;

fn bind_to(address: SocketAddr, tune: Tune) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    tune(SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// EAFNOSUPPORT where IPv6 is compiled out or disabled at boot, EADDRNOTAVAIL where by sysctl.
fn no_ipv6(error: &io::Error) -> bool {
    use nix::errno::Errno;
    [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL]
        .map(|errno| errno as i32)
        .contains(&error.raw_os_error().unwrap_or_default())
}

/// Accepts until `stop` resolves; every connection is handed to `start`, which must not block.
pub async fn accept(
    listener: tokio::net::TcpListener,
    stop: impl Future<Output = ()>,
    mut start: impl FnMut(TcpStream, SocketAddr),
) {
    let mut stop = std::pin::pin!(stop);
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => {
                failing = false;
                start(tcp, canonical(peer));
            }
            Err(error) if is_of_one_connection(&error) => {
                tracing::debug!(%error, "a client was gone before it was accepted");
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(
                        %error,
                        "can't accept connections; trying again (is the limit of open files too low?)"
                    );
                }
                failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// What `client`, whose connection was redirected, dialled.
///
/// # Errors
/// See [`OriginalDestinationError`]. `own_ports` are the ports that redirected connections arrive at.
pub fn original_destination(
    tcp: &TcpStream,
    client: SocketAddr,
    own_ports: [u16; 2],
) -> Result<SocketAddr, OriginalDestinationError> {
    let local = || {
        tcp.local_addr()
            .map(canonical)
            .map_err(OriginalDestinationError::Unknown)
    };
    let socket = SockRef::from(tcp);
    let original = if client.is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    let original = match original {
        Ok(address) => address.as_socket().map(canonical),
        // Connection tracking has never seen it, so nobody redirected it.
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOENT as i32) => None,
        Err(error) => return Err(OriginalDestinationError::Unknown(error)),
    };
    let destination = match original {
        // Its own address has one of its own ports: there is no need to look.
        Some(destination) if !own_ports.contains(&destination.port()) => return Ok(destination),
        Some(destination) => destination,
        None => local()?,
    };
    if loops(destination, local()?, own_ports) {
        return Err(OriginalDestinationError::Loop(destination));
    }
    Ok(destination)
}

/// Whether a connection to `destination` would arrive at one of this proxy's own listeners again. `local`
/// is an address of this pod.
fn loops(destination: SocketAddr, local: SocketAddr, own_ports: [u16; 2]) -> bool {
    let ip = destination.ip();
    let own_ip = ip == local.ip() || ip.is_loopback() || ip.is_unspecified();
    destination == local || own_ip && own_ports.contains(&destination.port())
}

/// An IPv4 client of a dual-stack listener appears as ::ffff:a.b.c.d: this is a.b.c.d again. Flow labels
/// go, so that one destination is one key; the scope stays, link-local addresses need it.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match (address.ip().to_canonical(), address) {
        (IpAddr::V6(_), SocketAddr::V6(mut v6)) => {
            v6.set_flowinfo(0);
            v6.into()
        }
        (ip, _) => SocketAddr::new(ip, address.port()),
    }
}

/// Errors of `accept` that are about the accepted connection, not about the listener (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{tune_local, tune_remote};

    const OWN_PORTS: [u16; 2] = [4140, 4143];

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_what_would_come_back_is_a_loop() {
        let local = at("10.244.0.7:4143");
        for destination in [
            "10.244.0.7:4143",
            "10.244.0.7:4140",
            "127.0.0.1:4140",
            "0.0.0.0:4143",
        ] {
            assert!(loops(at(destination), local, OWN_PORTS), "{destination}");
        }
        // Another pod's proxy is for that pod to refuse.
        for destination in ["10.244.0.7:8080", "10.244.0.8:4143", "127.0.0.1:8080"] {
            assert!(!loops(at(destination), local, OWN_PORTS), "{destination}");
        }
        assert!(loops(at("[fd00::7]:4140"), at("[fd00::7]:4143"), OWN_PORTS));
    }

    #[test]
    fn one_destination_is_one_key() {
        assert_eq!(canonical(at("[::ffff:10.0.0.1]:80")), at("10.0.0.1:80"));
        let labelled = std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 80, 7, 3);
        let SocketAddr::V6(canonical) = canonical(labelled.into()) else {
            panic!("IPv6 stays IPv6");
        };
        assert_eq!((canonical.flowinfo(), canonical.scope_id()), (0, 3));
    }

    #[test]
    fn accepted_connections_have_the_listeners_options() {
        let listener = bind(0, tune_remote).unwrap();
        listener.set_nonblocking(false).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        tune_remote(SockRef::from(&client)).unwrap();
        let accepted = listener.accept().unwrap().0;
        let [inherited, set] = [accepted, client].map(|tcp| {
            let socket = SockRef::from(&tcp);
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            socket.tcp_user_timeout().unwrap()
        });
        assert!(inherited.is_some() && inherited == set);
    }

    #[tokio::test]
    async fn a_listener_takes_both_families() {
        let listener = bind(0, tune_local).unwrap();
        let port = listener.local_addr().unwrap().port();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        for client in [
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            (Ipv6Addr::LOCALHOST, port).into(),
        ] {
            let (connected, accepted) = tokio::join!(TcpStream::connect(client), listener.accept());
            let (connected, (accepted, peer)) = (connected.unwrap(), accepted.unwrap());
            assert_eq!(canonical(accepted.local_addr().unwrap()), client);
            // Nobody redirected it, so that it would loop.
            let found = original_destination(&accepted, canonical(peer), OWN_PORTS);
            assert!(
                matches!(found, Err(OriginalDestinationError::Loop(address)) if address == client)
            );
            drop(connected);
        }
    }
}
