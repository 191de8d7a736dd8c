//! The network of the sandbox: each pod has a link of its own to the node, and routes through it.
//!
//! Pod addresses are `10.244.0.0/16` and `fd00:10:244::/64`; the node is `10.244.0.1` and `fd00:10:244::1`.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::Context;
use futures_util::TryStreamExt;
use ipnet::Ipv4Net;
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        link::{InfoData, InfoVeth},
        route::RouteScope,
    },
};

use super::sandbox::PodNetwork;

/// The node's address, where the controller is.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// The node's IPv6 address.
pub(crate) const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1);
/// The name server.
pub(crate) const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Addresses of Services.
pub(crate) const SERVICES: Ipv4Net = match Ipv4Net::new(Ipv4Addr::new(10, 96, 0, 0), 16) {
    Ok(net) => net,
    Err(_) => unreachable!(),
};

/// Kernel settings of the node's namespace and of the pods'. Best effort: a kernel may lack IPv6.
const SETTINGS: [(&str, &str); 9] = [
    ("ipv4/ip_forward", "1"),
    ("ipv4/ip_unprivileged_port_start", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/all/forwarding", "1"),
    // Nobody else is on these links: an address is usable at once, and no router needs to be asked for.
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
];

/// The node's end of every link.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    netlink: Handle,
}

impl Node {
    /// Sets up the node's own network namespace, which must be the current one.
    pub(crate) async fn set_up() -> anyhow::Result<Self> {
        settings();
        let netlink = connect()?;
        let lo = up(&netlink, "lo").await?;
        add_address(&netlink, lo, NODE.into()).await?;
        add_address(&netlink, lo, DNS.into()).await?;
        // The node's own connections need a route before their address is translated.
        let services = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(SERVICES.addr(), SERVICES.prefix_len())
            .output_interface(lo)
            .scope(RouteScope::Link)
            .pref_source(NODE);
        netlink.route().add(services.build()).execute().await?;
        if has_ipv6() {
            add_address(&netlink, lo, NODE6.into()).await?;
        }
        Ok(Self { netlink })
    }

    /// Routes a pod's addresses over its link, which [`set_up_pod`] has made.
    pub(crate) async fn attach(&self, pod: &PodNetwork) -> anyhow::Result<()> {
        let link = up(&self.netlink, &pod.link).await?;
        add_route(&self.netlink, link, pod.ip.into(), Some(NODE.into())).await?;
        if has_ipv6() {
            // Neighbour discovery, unlike ARP, is answered for the link's own addresses only.
            add_address(&self.netlink, link, NODE6.into()).await?;
            add_route(&self.netlink, link, pod.ip6.into(), Some(NODE6.into())).await?;
        }
        Ok(())
    }
}

/// Makes a pod's link, addresses and routes. The current network namespace must be the pod's.
pub(super) fn set_up_pod(pod: &PodNetwork) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?
        .block_on(set_up_pod_links(pod))
        .with_context(|| format!("cannot set up the network of {}", pod.hostname))
}

async fn set_up_pod_links(pod: &PodNetwork) -> anyhow::Result<()> {
    settings();
    let netlink = connect()?;
    up(&netlink, "lo").await?;
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(pod.link.clone())
        .setns_by_pid(pod.node)
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new("eth0", &pod.link)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    netlink
        .link()
        .add(pair)
        .execute()
        .await
        .context("cannot make a veth pair: the kernel module `veth` may be missing")?;
    let eth0 = up(&netlink, "eth0").await?;
    add_address(&netlink, eth0, pod.ip.into()).await?;
    add_route(&netlink, eth0, NODE.into(), None).await?;
    let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(NODE).build();
    netlink.route().add(default).execute().await?;
    if has_ipv6() {
        add_address(&netlink, eth0, pod.ip6.into()).await?;
        add_route(&netlink, eth0, NODE6.into(), None).await?;
        let default = RouteMessageBuilder::<Ipv6Addr>::new()
            .gateway(NODE6)
            .build();
        netlink.route().add(default).execute().await?;
    }
    Ok(())
}

fn connect() -> anyhow::Result<Handle> {
    let (connection, handle, _) =
        rtnetlink::new_connection().context("cannot open a netlink socket")?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Brings a link up; gives its index.
async fn up(netlink: &Handle, name: &str) -> anyhow::Result<u32> {
    let mut links = netlink.link().get().match_name(name).execute();
    let link = links
        .try_next()
        .await
        .with_context(|| format!("there is no link {name}"))?
        .with_context(|| format!("there is no link {name}"))?;
    let index = link.header.index;
    let up = LinkUnspec::new_with_index(index).up().build();
    let result = netlink.link().set(up).execute().await;
    result.with_context(|| format!("cannot bring {name} up"))?;
    Ok(index)
}

async fn add_address(netlink: &Handle, link: u32, address: IpAddr) -> anyhow::Result<()> {
    let request = netlink
        .address()
        .add(link, address, host_prefix(address))
        .replace();
    let result = request.execute().await;
    result.with_context(|| format!("cannot add the address {address}"))
}

async fn add_route(
    netlink: &Handle,
    link: u32,
    to: IpAddr,
    source: Option<IpAddr>,
) -> anyhow::Result<()> {
    let route = match (to, source) {
        (IpAddr::V4(to), source) => {
            let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to, 32)
                .output_interface(link)
                .scope(RouteScope::Link);
            if let Some(IpAddr::V4(source)) = source {
                route = route.pref_source(source);
            }
            route.build()
        }
        (IpAddr::V6(to), source) => {
            let mut route = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to, 128)
                .output_interface(link);
            if let Some(IpAddr::V6(source)) = source {
                route = route.pref_source(source);
            }
            route.build()
        }
    };
    let result = netlink.route().add(route).replace().execute().await;
    result.with_context(|| format!("cannot add a route to {to}"))
}

fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn settings() {
    for (name, value) in SETTINGS {
        let _ = fs::write(Path::new("/proc/sys/net").join(name), value);
    }
}

fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}
