//! Two pods and a node between them, as network namespaces of this process's own sandbox.
//!
//! The node routes; each pod has one veth. Everything is seen only inside of the private mount and
//! network namespaces that `enter` makes, so nothing is left when the process ends.

use std::{fs::File, net::Ipv4Addr, process::Command};

use anyhow::{Context as _, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

/// The node's address: the controller listens here.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

/// One side of the measured path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pod {
    /// Runs the load generator and the outbound proxy.
    Client,
    /// Runs the inbound proxy and nginx.
    Server,
}

impl Pod {
    /// Name of the network namespace.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    /// The pod's address.
    pub(crate) fn ip(self) -> Ipv4Addr {
        match self {
            Self::Client => Ipv4Addr::new(10, 9, 1, 2),
            Self::Server => Ipv4Addr::new(10, 9, 2, 2),
        }
    }

    /// Does something on a thread in the pod's network namespace: what is started there, stays there.
    ///
    /// A program such as `ip netns exec` before each process would be part of the time that it takes to
    /// get ready.
    pub(crate) fn enter<T: Send>(self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let namespace = File::open(format!("/run/netns/{}", self.name()))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).context("entering a pod's namespace")?;
                Ok(work())
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Moves this process (still with one thread) into namespaces of its own and builds the network.
pub(crate) fn enter() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .context("making namespaces: run this as root")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    // `ip netns` keeps its names here; a private copy leaves the machine's alone.
    std::fs::create_dir_all("/run/netns")?;
    mount(
        Some("tmpfs"),
        "/run/netns",
        Some("tmpfs"),
        MsFlags::empty(),
        none,
    )?;

    ip("link set lo up")?;
    ip(&format!("address add {NODE}/32 dev lo"))?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    for pod in [Pod::Client, Pod::Server] {
        let (name, address) = (pod.name(), pod.ip());
        ip(&format!("netns add {name}"))?;
        ip(&format!(
            "link add node-{name} type veth peer name eth0 netns {name}"
        ))?;
        ip(&format!("link set node-{name} up"))?;
        ip(&format!("route add {address}/32 dev node-{name}"))?;
        ip(&format!("-n {name} link set lo up"))?;
        ip(&format!("-n {name} address add {address}/32 dev eth0"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!(
            "-n {name} route add default via {NODE} dev eth0 onlink"
        ))?;
        pod.enter(forget_closed_connections)??;
    }
    Ok(())
}

/// Who opens thousands of connections a second would have no port left after ten seconds, and its peers of the next
/// round none from the start.
fn forget_closed_connections() -> anyhow::Result<()> {
    for (setting, value) in [
        ("ip_local_port_range", "1024 65535"),
        ("tcp_max_tw_buckets", "0"),
    ] {
        let path = format!("/proc/sys/net/ipv4/{setting}");
        std::fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))?;
    }
    Ok(())
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .context("running ip (Debian: apt-get install iproute2)")?;
    if !output.status.success() {
        bail!(
            "ip {arguments}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
