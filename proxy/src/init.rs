//! Redirection of a pod's traffic through its proxy.
//!
//! ```text
//! app ──output──▶ proxy :4140 ──▶ peer          caller ──prerouting──▶ proxy :4143 ──▶ app
//! ```
//!
//! In comes what to redirect and what to leave alone, out goes one nftables table in the current network
//! namespace, IPv4 and IPv6. The original destination of a redirected connection stays readable.
//!
//! Only the first packet of a connection meets these rules, so that answers always find their way back.
//! What a pod sends to itself goes over the loopback interface and is not redirected: neither to 127.0.0.1
//! nor to the pod's own address.

pub mod nft;
mod ports;

use std::num::NonZeroU16;

use mesh_api::names;
use nft::{Chain, Hook, NftError, Protocol, Rule, Table};
pub use ports::{PortRange, PortRanges, PortRangesError};

use crate::config::{parse_mark, port};

/// The table that holds the redirection.
const TABLE: &str = "mesh";

/// Flags of `mesh proxy init`; each has an environment variable `MESH_…` too.
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
    pub skip_inbound_ports: PortRanges,
    /// Ports of others that this pod reaches without the proxy.
    #[arg(
        long,
        env = "MESH_SKIP_OUTBOUND_PORTS",
        default_value = "",
        value_name = "PORTS"
    )]
    pub skip_outbound_ports: PortRanges,
    /// User id of the proxy: its connections are not redirected.
    #[arg(long, env = "MESH_EXCLUDE_UID", value_name = "UID")]
    pub exclude_uid: Option<u32>,
    /// Socket mark of the proxy: its connections are not redirected. For where all processes share one
    /// user id.
    #[arg(long, env = "MESH_EXCLUDE_MARK", value_name = "MARK", value_parser = parse_mark)]
    pub exclude_mark: Option<u32>,
    /// Remove the redirection instead.
    #[arg(long)]
    pub remove: bool,
}

/// The redirection could not be written or removed.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Nothing would keep the proxy's own connections from coming back to it.
    #[error(
        "give --exclude-uid or --exclude-mark: without one the proxy's own connections would be redirected \
         to itself"
    )]
    NothingExcluded,
    /// The kernel refused.
    #[error(transparent)]
    Nft(#[from] NftError),
}

/// Writes or removes the redirection of the current network namespace. Either can be repeated.
///
/// # Errors
/// The kernel refused; nothing has changed then.
pub fn run(args: &InitArgs) -> Result<(), InitError> {
    if args.remove {
        return Ok(Table::remove(TABLE)?);
    }
    Ok(table(args)?.replace()?)
}

fn table(args: &InitArgs) -> Result<Table, InitError> {
    if args.exclude_uid.is_none() && args.exclude_mark.is_none() {
        return Err(InitError::NothingExcluded);
    }
    let skip = |ranges: &PortRanges| {
        let rules = ranges.iter().map(|range| {
            Rule::new()
                .ports(Protocol::Tcp, range.first(), range.last())
                .leave()
        });
        rules.collect::<Vec<_>>()
    };
    // Straight to the proxy's own ports: redirecting 4140 to 4143 would make the proxy dial itself.
    let own_ports = [args.outbound_port, args.inbound_port, args.admin_port]
        .map(|port| Rule::new().port(Protocol::Tcp, port.get()).leave());
    let redirect = |port: NonZeroU16| Rule::new().protocol(Protocol::Tcp).redirect(port.get());

    let output = Chain::nat("output", Hook::Output)
        .rules(args.exclude_uid.map(|uid| Rule::new().owner(uid).leave()))
        .rules(args.exclude_mark.map(|mark| Rule::new().mark(mark).leave()))
        .rule(Rule::new().leaves_by("lo").leave())
        .rules(skip(&args.skip_outbound_ports))
        .rule(redirect(args.outbound_port));
    let prerouting = Chain::nat("prerouting", Hook::Prerouting)
        .rules(own_ports)
        .rules(skip(&args.skip_inbound_ports))
        .rule(redirect(args.inbound_port));
    Ok(Table::new(TABLE).chain(output).chain(prerouting))
}

#[cfg(test)]
mod tests;
