//! The sockets by which the CLI reaches a mesh on this machine.
//!
//! They are abstract (no file, gone with the last process that holds them) and belong to the host's network
//! namespace. Whoever serves one checks the peer's user id: abstract sockets have no permissions.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
};

use anyhow::{Context, bail};
use nix::unistd::geteuid;

/// The socket of `mesh.local.v1.Local`.
pub(crate) const LOCAL: &str = "local";
/// The socket of `mesh.v1.Observe`.
pub(crate) const OBSERVE: &str = "observe";

/// Takes the socket of a mesh, and with it the mesh's name.
///
/// # Errors
/// The name is taken or not fit for a name.
pub(super) fn bind(name: &str, service: &str) -> anyhow::Result<UnixListener> {
    let fit = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 40 || !name.chars().all(fit) {
        bail!("{name:?} can't be a mesh's name: use up to 40 letters, digits, '-', '_' and '.'");
    }
    let path = format!("mesh/{}/{name}/{service}", geteuid());
    let address = SocketAddr::from_abstract_name(&path)?;
    match UnixListener::bind_addr(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            bail!(
                "a mesh named {name} is running already: end it with `mesh down --name {name}`, or give this one another --name"
            )
        }
        result => result.with_context(|| format!("cannot listen on @{path}")),
    }
}
