//! Two pods and a node between them, as network namespaces of this process's own sandbox.
//!
//! The node routes; each pod has one veth. Everything is seen only inside of the private mount and
//! network namespaces that `enter` makes, so nothing is left when the process ends.

use std::{
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
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

    /// A command that runs inside of the pod.
    pub(crate) fn command(self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.name(), program]);
        command
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

/// A process that ends with this value.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    what: String,
}

impl Process {
    /// Starts a process; its output goes to `log`.
    pub(crate) fn start(
        what: &str,
        mut command: Command,
        log: std::fs::File,
    ) -> anyhow::Result<Self> {
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {what}: {command:?}"))?;
        Ok(Self {
            child,
            what: what.to_owned(),
        })
    }

    /// Fails when the process is gone.
    pub(crate) fn alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status})", self.what),
        }
    }

    /// Its own accounting; children are included (`ip netns exec` replaces itself by the command).
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of_tree(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Children of the process (workers of nginx) end with it on SIGTERM.
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).ok();
        for _ in 0..100 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// On a CPU, nanoseconds (user and kernel, all threads).
    pub(crate) cpu_ns: u64,
    /// Resident now, bytes.
    pub(crate) rss: u64,
}

impl Usage {
    fn of_tree(pid: u32) -> anyhow::Result<Self> {
        let mut usage = Self::of_process(pid)?;
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let children = task?.path().join("children");
            for child in std::fs::read_to_string(children)?.split_whitespace() {
                let child = Self::of_tree(child.parse()?)?;
                usage.cpu_ns += child.cpu_ns;
                usage.rss += child.rss;
            }
        }
        Ok(usage)
    }

    fn of_process(pid: u32) -> anyhow::Result<Self> {
        let mut usage = Self::default();
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            // Nanoseconds, where /proc/PID/stat counts ticks of 10 ms.
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            usage.cpu_ns += text.split(' ').next().unwrap_or("0").parse::<u64>()?;
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: u64 = line.unwrap_or("0").trim().trim_end_matches(" kB").parse()?;
        usage.rss = kib * 1024;
        Ok(usage)
    }
}
