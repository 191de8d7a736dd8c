//! Redirection of a pod's traffic through its proxy, written to the kernel by netlink.

use std::num::NonZeroU16;

use mesh_api::names;

use crate::config::{parse_mark, port};

/// Flags of `mesh proxy init`.
#[derive(clap::Args, Clone, Debug)]
pub struct InitArgs {
    /// The proxy's port for connections of the pod's own apps.
    #[arg(long, env = "MESH_OUTBOUND_PORT", default_value_t = port(names::OUTBOUND_PORT))]
    pub outbound_port: NonZeroU16,
    /// The proxy's port for connections to the pod.
    #[arg(long, env = "MESH_INBOUND_PORT", default_value_t = port(names::INBOUND_PORT))]
    pub inbound_port: NonZeroU16,
    /// The proxy's admin port, which stays reachable as it is.
    #[arg(long, env = "MESH_ADMIN_PORT", default_value_t = port(names::ADMIN_PORT))]
    pub admin_port: NonZeroU16,
    /// Ports of this pod that are reached without the proxy: "4567,9000-9010".
    #[arg(
        long,
        env = "MESH_SKIP_INBOUND_PORTS",
        default_value = "",
        value_name = "PORTS"
    )]
    pub skip_inbound_ports: String,
    /// Ports of others that this pod reaches without the proxy.
    #[arg(
        long,
        env = "MESH_SKIP_OUTBOUND_PORTS",
        default_value = "",
        value_name = "PORTS"
    )]
    pub skip_outbound_ports: String,
    /// User id of the proxy: its traffic is not redirected.
    #[arg(long, env = "MESH_EXCLUDE_UID", conflicts_with = "exclude_mark")]
    pub exclude_uid: Option<u32>,
    /// Socket mark of the proxy: its traffic is not redirected.
    #[arg(long, env = "MESH_EXCLUDE_MARK", value_parser = parse_mark)]
    pub exclude_mark: Option<u32>,
    /// Remove the redirection instead.
    #[arg(long)]
    pub remove: bool,
}

/// The redirection could not be written or removed.
#[derive(Debug, thiserror::Error)]
pub enum InitError {}

/// Writes or removes the redirection of the current network namespace.
///
/// # Errors
/// The kernel refused.
pub fn run(_args: &InitArgs) -> Result<(), InitError> {
    Ok(())
}
