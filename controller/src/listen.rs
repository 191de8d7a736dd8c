//! The port of the Observe service: a loopback address, a Unix socket, or one inherited.
//!
//! Whoever reaches it sees all traffic's metadata. TCP is for loopback only (on Kubernetes the API server's
//! port-forward leads there); on a Unix socket the kernel says who connects.

use std::{
    fmt, io,
    net::SocketAddr,
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        unix::{fs::FileTypeExt, net::UnixListener as StdUnixListener},
    },
    path::PathBuf,
    str::FromStr,
};

use tokio::net::{TcpListener, UnixListener};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::server::{Grpc, serve_connection};

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A Unix socket that listens already, inherited from the parent process.
    Inherited(RawFd),
    /// A loopback address.
    Tcp(SocketAddr),
    /// A Unix socket in the file system.
    Path(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(fd) = text.strip_prefix("fd:") {
            let number = fd.parse().ok().filter(|fd| *fd > 2);
            return number
                .map(Self::Inherited)
                .ok_or_else(|| format!("{fd:?} is not the number of an inherited socket"));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            let loopback = address.ip().is_loopback().then_some(Self::Tcp(address));
            return loopback.ok_or_else(|| {
                format!("{address} is reachable by others: use a loopback address")
            });
        }
        if text.contains('/') {
            return Ok(Self::Path(text.into()));
        }
        Err(
            "expected fd:NUMBER, a loopback address with a port, or the path of a Unix socket"
                .into(),
        )
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inherited(fd) => write!(f, "fd:{fd}"),
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A socket that listens.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Needs a runtime. An inherited socket can be bound once.
    pub(crate) async fn bind(listen: &Listen) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            Listen::Path(path) => {
                // A socket that a crashed predecessor left is in the way; anything else is somebody's file.
                if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
                    std::fs::remove_file(path)?;
                }
                Ok(Self::Unix(UnixListener::bind(path)?))
            }
            Listen::Inherited(fd) => {
                let listener = StdUnixListener::from(inherited(*fd)?);
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(UnixListener::from_std(listener)?))
            }
        }
    }

    /// Serves until `stop`.
    pub(crate) async fn serve(
        self,
        services: impl Grpc,
        stop: CancellationToken,
        connections: TaskTracker,
    ) {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.accept_one(&services, &stop, &connections) => accepted,
            };
            if let Err(error) = accepted {
                tracing::warn!(%error, "a connection to the observe socket was not accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }

    async fn accept_one(
        &self,
        services: &impl Grpc,
        stop: &CancellationToken,
        connections: &TaskTracker,
    ) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                connections.spawn(serve_connection(
                    stream,
                    None,
                    services.clone(),
                    stop.clone(),
                ));
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let (peer, own) = (stream.peer_cred()?.uid(), nix::unistd::geteuid());
                if peer != own.as_raw() && peer != 0 {
                    return Err(io::Error::other(format!(
                        "user {peer} is not user {own} who runs this controller, nor root"
                    )));
                }
                connections.spawn(serve_connection(
                    stream,
                    None,
                    services.clone(),
                    stop.clone(),
                ));
            }
        }
        Ok(())
    }
}

/// Takes over a file descriptor that the command line names.
#[allow(unsafe_code)]
fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    let kind = std::fs::read_link(format!("/proc/self/fd/{fd}")).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("file descriptor {fd} was not inherited: {error}"),
        )
    })?;
    if !kind.as_os_str().to_string_lossy().starts_with("socket:") {
        return Err(io::Error::other(format!(
            "file descriptor {fd} is {kind:?}, not a socket"
        )));
    }
    // SAFETY: it is open (checked above). The parent process passed it for this purpose by naming it on the
    // command line, so that nothing else in this process owns it, and it is taken over once, at the start.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        assert_eq!("fd:7".parse(), Ok(Listen::Inherited(7)));
        assert_eq!(
            "127.0.0.1:90".parse(),
            Ok(Listen::Tcp("127.0.0.1:90".parse().unwrap()))
        );
        assert_eq!("/run/x".parse(), Ok(Listen::Path("/run/x".into())));
        for bad in ["fd:x", "fd:1", "0.0.0.0:90", "10.0.0.1:90", "observe", ""] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }
}
