//! The first process of the sandbox, and the last outside of it.

use std::{
    fs,
    io::{self, BufRead, Read},
    os::fd::{AsFd, OwnedFd},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getegid, geteuid},
};

use super::{PROGRAM, mounts};
use crate::local::{config::Config, sockets};

/// How long an orderly end may take before everything is killed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Enters the sandbox and waits until it ends. The end of the standard input, SIGTERM, SIGINT or SIGHUP end it.
pub(super) fn run() -> anyhow::Result<ExitCode> {
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .context("cannot read the configuration")?;
    let config: Config = serde_json::from_str(&line).context("the configuration is not valid")?;

    // Before the network namespace changes: abstract sockets belong to it.
    let local = sockets::bind(&config.name, sockets::LOCAL)?;
    let observe = sockets::bind(&config.name, sockets::OBSERVE)?;

    enter_namespaces()?;
    mounts::prepare(&line)?;

    let signals = signals()?;
    // The sockets travel as standard input and output: no descriptor is ever inheritable by accident.
    let init = Command::new(PROGRAM)
        .args(["sandbox", "init"])
        .stdin(Stdio::from(OwnedFd::from(observe)))
        .stdout(Stdio::from(OwnedFd::from(local)))
        .spawn()
        .context("cannot start the sandbox's first process")?;
    let init = Pid::from_raw(init.id().try_into()?);
    supervise(init, &signals, config.detached)
}

/// Signals become something to poll for.
fn signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGCHLD,
    ] {
        set.add(signal);
    }
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

/// Waits for the sandbox, and hands on the wish to end it. No threads here: after entering a pid namespace for its
/// children, a process can't have them.
fn supervise(init: Pid, signals: &SignalFd, detached: bool) -> anyhow::Result<ExitCode> {
    let input = io::stdin();
    let mut input_open = !detached;
    let mut deadline = None;
    loop {
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if input_open {
            fds.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
        }
        let timeout = match deadline {
            None => PollTimeout::NONE,
            Some(at) => until(at),
        };
        poll(&mut fds, timeout)?;
        let input_ready = fds.get(1).is_some_and(|fd| fd.any().unwrap_or(false));

        let mut end = false;
        while let Some(signal) = signals.read_signal()? {
            end |= signal.ssi_signo != Signal::SIGCHLD as u32;
        }
        // The other end is held by who wants the mesh; its death closes it, however it dies.
        if input_ready && io::stdin().lock().read(&mut [0; 64])? == 0 {
            input_open = false;
            end = true;
        }
        if end {
            deadline.get_or_insert(Instant::now() + PATIENCE);
            // It may have ended just now.
            let _ = kill(init, Signal::SIGTERM);
        }
        if deadline.is_some_and(|at| at <= Instant::now()) {
            let _ = kill(init, Signal::SIGKILL);
        }
        match waitpid(init, Some(WaitPidFlag::WNOHANG))? {
            WaitStatus::Exited(_, code) => {
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
            }
            WaitStatus::Signaled(_, signal, _) => {
                bail!("the mesh was killed by {signal}; nothing of it is left")
            }
            _ => {}
        }
    }
}

/// Milliseconds until then, for poll(2).
fn until(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now());
    // Rounded up, so that the deadline has passed when the time is over.
    PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
}

fn enter_namespaces() -> anyhow::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    let mut namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    if !uid.is_root() {
        namespaces |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(namespaces).with_context(|| refused(uid.is_root()))?;
    if !uid.is_root() {
        fs::write("/proc/self/setgroups", "deny").context("cannot write setgroups")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1")).with_context(|| refused(false))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("cannot write gid_map")?;
    }
    Ok(())
}

/// What to do where the kernel does not give namespaces.
fn refused(root: bool) -> String {
    if root {
        return "the kernel refused new namespaces to root; in a container, start it with --privileged".into();
    }
    let mut advice = String::from("the kernel refused a user namespace to an ordinary user");
    let blocked =
        |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
    if blocked(
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
    ) {
        advice += "; AppArmor restricts them: run `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`";
    } else if blocked("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        advice += "; run `sudo sysctl kernel.unprivileged_userns_clone=1`";
    } else if blocked("/proc/sys/user/max_user_namespaces", "0") {
        advice += "; run `sudo sysctl user.max_user_namespaces=10000`";
    }
    advice + ", or run as root"
}
