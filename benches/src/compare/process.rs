//! A process of the comparison, and what the kernel says of it.

use std::{
    fs::File,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::topology::Pod;

/// How long a process may take to end once it was asked to: then it is killed.
const END: Duration = Duration::from_secs(2);

/// A process that ends with this value.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    what: String,
}

impl Process {
    /// Starts a process in a pod, or on the node; its output goes to `log`.
    pub(super) fn start(
        what: &str,
        pod: Option<Pod>,
        mut command: Command,
        log: File,
    ) -> anyhow::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = match pod {
            Some(pod) => pod.enter(|| command.spawn())?,
            None => command.spawn(),
        };
        Ok(Self {
            child: child.with_context(|| format!("starting {what}: {command:?}"))?,
            what: what.to_owned(),
        })
    }

    /// Fails when the process is gone.
    pub(super) fn alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status})", self.what),
        }
    }

    /// Its own accounting, children included.
    pub(super) fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of_tree(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Children of the process (workers of nginx) end with it on SIGTERM. It may be gone already.
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).ok();
        let step = END / 200;
        for _ in 0..200 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(step);
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// On a CPU, nanoseconds (user and kernel, all threads).
    pub(super) cpu_ns: u64,
    /// Resident now, bytes.
    pub(super) rss: u64,
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
