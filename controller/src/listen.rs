//! The port of the Observe service: a loopback address, a Unix socket, or one inherited.
//!
//! Whoever reaches it sees all traffic's metadata. TCP is for loopback only (on Kubernetes the API server's
//! port-forward leads there); on a Unix socket the kernel says who connects.

use std::{
    fmt, io,
    net::SocketAddr,
    os::{
        fd::AsFd,
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
    /// A Unix socket that listens already, inherited from the parent process as standard input.
    Inherited,
    /// A loopback address.
    Tcp(SocketAddr),
    /// A Unix socket in the file system.
    Path(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("fd:") {
            Some("0") => return Ok(Self::Inherited),
            // Any other file descriptor may be in use for something else in this process.
            Some(fd) => return Err(format!("fd:{fd}: pass the socket as standard input, fd:0")),
            None => {}
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
            Self::Inherited => f.write_str("fd:0"),
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
    /// Needs a runtime.
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
            Listen::Inherited => {
                let socket = io::stdin().as_fd().try_clone_to_owned()?;
                let listener = StdUnixListener::from(socket);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        assert_eq!("fd:0".parse(), Ok(Listen::Inherited));
        assert_eq!(
            "127.0.0.1:90".parse(),
            Ok(Listen::Tcp("127.0.0.1:90".parse().unwrap()))
        );
        assert_eq!("/run/x".parse(), Ok(Listen::Path("/run/x".into())));
        for bad in [
            "fd:x",
            "fd:",
            "fd:1",
            "0.0.0.0:90",
            "10.0.0.1:90",
            "observe",
            "",
        ] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }
}
