//! Whole nftables tables, written to the kernel by netlink in one transaction: no `nft` binary, no C library.
//!
//! In comes a [`Table`] as it shall be, out comes the kernel's answer. Only what redirection and service
//! addresses need is here; the crates that know more are GPL (`rustables`), or can't write NAT chains
//! (`nf_tables` 0.1).
//!
//! ```no_run
//! use mesh_proxy::init::nft::{Chain, Hook, Protocol, Rule, Table};
//!
//! # fn main() -> Result<(), mesh_proxy::init::nft::NftError> {
//! let service = Rule::new().to("10.96.0.7".parse().unwrap()).port(Protocol::Tcp, 80);
//! let endpoints = ["10.244.0.2:8080".parse().unwrap(), "10.244.0.3:8080".parse().unwrap()];
//! Table::new("services")
//!     .chain(Chain::nat("prerouting", Hook::Prerouting).rules(service.dnat_random(&endpoints)))
//!     .replace()
//! # }
//! ```

mod encode;
mod socket;

use std::net::{IpAddr, SocketAddr};

use encode::{Cmp, Expr, Meta, Register};
use ipnet::IpNet;
pub use socket::NftError;

/// A table of the `inet` family: its chains see IPv4 and IPv6.
#[derive(Clone, Debug)]
pub struct Table {
    name: String,
    chains: Vec<Chain>,
}

/// A list of rules, hooked into the kernel's packet path or jumped to.
#[derive(Clone, Debug)]
pub struct Chain {
    name: String,
    base: Option<Base>,
    rules: Vec<Rule>,
}

#[derive(Clone, Copy, Debug)]
struct Base {
    kind: &'static str,
    hook: Hook,
    priority: i32,
}

/// Where a chain is hooked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Packets that arrive, before they are routed.
    Prerouting,
    /// Packets for this network namespace.
    Input,
    /// Packets for others, passing through.
    Forward,
    /// Packets of this network namespace's own processes.
    Output,
    /// Packets that leave, after they were routed.
    Postrouting,
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Conditions, all of which must hold, and what then happens to the packet.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    exprs: Vec<Expr>,
}

impl Table {
    /// An empty table.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            chains: Vec::new(),
        }
    }

    /// Adds a chain. One that is jumped to may come later than the jump.
    #[must_use]
    pub fn chain(mut self, chain: Chain) -> Self {
        self.chains.push(chain);
        self
    }

    /// Writes the table in place of the one of that name, in one transaction: packets see either the old
    /// rules or the new ones, and a refused transaction changes nothing.
    ///
    /// # Errors
    /// The kernel refused, or the caller may not change this network namespace's rules.
    pub fn replace(&self) -> Result<(), NftError> {
        socket::commit(&encode::replace(self))
    }

    /// Removes the table of that name, if there is one.
    ///
    /// # Errors
    /// As [`Table::replace`].
    pub fn remove(name: &str) -> Result<(), NftError> {
        socket::commit(&encode::remove(name))
    }
}

impl Chain {
    /// A chain that sees the first packet of each connection and may change its addresses.
    pub fn nat(name: impl Into<String>, hook: Hook) -> Self {
        // NF_IP_PRI_NAT_DST and NF_IP_PRI_NAT_SRC of linux/netfilter_ipv4.h, as nft's `dstnat`, `srcnat`.
        let priority = match hook {
            Hook::Prerouting | Hook::Output | Hook::Forward => -100,
            Hook::Input | Hook::Postrouting => 100,
        };
        Self::hooked(
            name.into(),
            Base {
                kind: "nat",
                hook,
                priority,
            },
        )
    }

    /// A chain that sees every packet and may refuse it.
    pub fn filter(name: impl Into<String>, hook: Hook) -> Self {
        let base = Base {
            kind: "filter",
            hook,
            priority: 0,
        };
        Self::hooked(name.into(), base)
    }

    /// A chain that is only entered by [`Rule::jump`].
    pub fn regular(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            base: None,
            rules: Vec::new(),
        }
    }

    fn hooked(name: String, base: Base) -> Self {
        Self {
            name,
            base: Some(base),
            rules: Vec::new(),
        }
    }

    /// Appends a rule.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// Appends rules.
    #[must_use]
    pub fn rules(mut self, rules: impl IntoIterator<Item = Rule>) -> Self {
        self.rules.extend(rules);
        self
    }
}

/// Conditions.
impl Rule {
    /// Matches every packet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Packets of sockets that this user created.
    #[must_use]
    pub fn owner(self, uid: u32) -> Self {
        self.meta(Meta::SkUid, uid.to_ne_bytes().to_vec())
    }

    /// Packets with this mark (of their socket, on their way out).
    #[must_use]
    pub fn mark(self, mark: u32) -> Self {
        self.meta(Meta::Mark, mark.to_ne_bytes().to_vec())
    }

    /// Packets that arrive by this interface.
    #[must_use]
    pub fn arrives_by(self, interface: &str) -> Self {
        self.meta(Meta::IifName, interface_name(interface))
    }

    /// Packets that leave by this interface.
    #[must_use]
    pub fn leaves_by(self, interface: &str) -> Self {
        self.meta(Meta::OifName, interface_name(interface))
    }

    /// Packets of this protocol.
    #[must_use]
    pub fn protocol(self, protocol: Protocol) -> Self {
        self.meta(Meta::L4Proto, vec![protocol.number()])
    }

    /// Packets to this port.
    #[must_use]
    pub fn port(self, protocol: Protocol, port: u16) -> Self {
        self.destination_port(protocol)
            .compare(Cmp::Eq, port.to_be_bytes().to_vec())
    }

    /// Packets to one of these ports, both ends included.
    #[must_use]
    pub fn ports(self, protocol: Protocol, first: u16, last: u16) -> Self {
        if first == last {
            return self.port(protocol, first);
        }
        self.destination_port(protocol)
            .compare(Cmp::Gte, first.to_be_bytes().to_vec())
            .compare(Cmp::Lte, last.to_be_bytes().to_vec())
    }

    /// Packets from this address.
    #[must_use]
    pub fn from(self, address: IpAddr) -> Self {
        // Offsets of the source address: RFC 791 and RFC 8200.
        self.network(IpNet::from(address), 12, 8)
    }

    /// Packets to this address.
    #[must_use]
    pub fn to(self, address: IpAddr) -> Self {
        self.to_network(IpNet::from(address))
    }

    /// Packets to an address of this network.
    #[must_use]
    pub fn to_network(self, network: IpNet) -> Self {
        self.network(network, 16, 24)
    }

    fn network(self, network: IpNet, v4_offset: u32, v6_offset: u32) -> Self {
        let (family, offset) = match network {
            IpNet::V4(_) => (encode::NFPROTO_IPV4, v4_offset),
            IpNet::V6(_) => (encode::NFPROTO_IPV6, v6_offset),
        };
        let (address, mask) = (octets(network.network()), octets(network.netmask()));
        let mut rule = self.meta(Meta::NfProto, vec![family]).push(Expr::Network {
            offset,
            len: address.len() as u32,
        });
        if network.prefix_len() < network.max_prefix_len() {
            rule = rule.push(Expr::Mask(mask));
        }
        rule.compare(Cmp::Eq, address)
    }

    fn destination_port(self, protocol: Protocol) -> Self {
        // Both TCP and UDP have the destination port in bytes 2 and 3.
        self.protocol(protocol)
            .push(Expr::Transport { offset: 2, len: 2 })
    }

    fn meta(self, key: Meta, value: Vec<u8>) -> Self {
        self.push(Expr::Meta(key)).compare(Cmp::Eq, value)
    }

    fn compare(self, op: Cmp, value: Vec<u8>) -> Self {
        self.push(Expr::Compare(op, value))
    }

    fn push(mut self, expr: Expr) -> Self {
        self.exprs.push(expr);
        self
    }
}

/// What happens to a packet that meets all conditions.
impl Rule {
    /// Leaves this chain; a hooked chain lets the packet pass.
    #[must_use]
    pub fn leave(self) -> Self {
        self.push(Expr::Return)
    }

    /// Lets the packet pass.
    #[must_use]
    pub fn accept(self) -> Self {
        self.push(Expr::Accept)
    }

    /// Goes on in another chain of the table, and comes back if that decides nothing.
    #[must_use]
    pub fn jump(self, chain: impl Into<String>) -> Self {
        self.push(Expr::Jump(chain.into()))
    }

    /// Sends the connection to a port of this network namespace; in a NAT chain at prerouting or output,
    /// after [`Rule::protocol`] or a port. The original destination stays readable (`SO_ORIGINAL_DST`).
    #[must_use]
    pub fn redirect(self, port: u16) -> Self {
        self.push(Expr::Immediate(Register::One, port.to_be_bytes().to_vec()))
            .push(Expr::Redirect)
    }

    /// Sends the connection to another address and port; in a NAT chain at prerouting or output, after a
    /// port and an address of the same family.
    #[must_use]
    pub fn dnat(self, to: SocketAddr) -> Self {
        self.push(Expr::Immediate(Register::One, octets(to.ip())))
            .push(Expr::Immediate(
                Register::Two,
                to.port().to_be_bytes().to_vec(),
            ))
            .push(Expr::Dnat { v6: to.is_ipv6() })
    }

    /// Sends each connection to one of `endpoints`, each with the same probability: one rule for each, of
    /// which the i-th takes one of n − i that reach it. No rule for no endpoints: see [`Rule::reject`].
    pub fn dnat_random(&self, endpoints: &[SocketAddr]) -> Vec<Self> {
        let rules = endpoints.iter().zip((1..=endpoints.len() as u32).rev());
        rules
            .map(|(endpoint, remaining)| {
                let rule = self.clone();
                let chosen = match remaining {
                    1 => rule,
                    _ => rule
                        .push(Expr::Random { below: remaining })
                        .compare(Cmp::Eq, 0u32.to_ne_bytes().to_vec()),
                };
                chosen.dnat(*endpoint)
            })
            .collect()
    }

    /// Gives the connection the address of the interface it leaves by; in a NAT chain at postrouting.
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.push(Expr::Masquerade)
    }

    /// Answers "connection refused" (TCP) or "port unreachable" (UDP); in a filter chain, after a port of
    /// the same protocol.
    #[must_use]
    pub fn reject(self, protocol: Protocol) -> Self {
        self.push(Expr::Reject {
            reset: protocol == Protocol::Tcp,
        })
    }
}

impl Protocol {
    const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// As the kernel compares it: all of IFNAMSIZ bytes.
fn interface_name(name: &str) -> Vec<u8> {
    let mut padded = name.as_bytes().to_vec();
    padded.resize(16, 0);
    padded
}

#[cfg(test)]
pub(crate) mod tests;
