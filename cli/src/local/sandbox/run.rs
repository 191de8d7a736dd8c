//! Joins a pod's namespaces and becomes a command.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::Context;
use nix::{
    sched::{CloneFlags, setns, unshare},
    unistd::geteuid,
};

/// Which pod, and as whom.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Process id of the pod's holder.
    #[arg(long)]
    pod: u32,
    /// Join the network namespace only: for the proxy, which keeps its view of the file system.
    #[arg(long)]
    net_only: bool,
    /// User id to run as.
    #[arg(long)]
    uid: Option<u32>,
    /// Group id to run as.
    #[arg(long)]
    gid: Option<u32>,
    /// The working directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The command, and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Never returns where it succeeds.
pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    join(&args)?;
    let (program, arguments) = args
        .command
        .split_first()
        .context("there is no command to run")?;
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(dir) = &args.dir {
        std::env::set_current_dir(dir).with_context(|| {
            format!(
                "cannot enter the working directory {}: workingDir must exist on this machine",
                dir.display()
            )
        })?;
    }
    become_user(&args, &mut command)?;
    let error = command.exec();
    Err(error).with_context(|| {
        format!(
            "cannot run {}: the command must exist on this machine",
            program.display()
        )
    })
}

fn join(args: &Args) -> anyhow::Result<()> {
    let namespace = |name: &str| {
        let path = format!("/proc/{}/ns/{name}", args.pod);
        File::open(&path).with_context(|| format!("the pod is gone: cannot open {path}"))
    };
    // All are opened first: joining the mount namespace changes what /proc shows.
    let net = namespace("net")?;
    let uts = namespace("uts")?;
    let mnt = namespace("mnt")?;
    setns(net, CloneFlags::CLONE_NEWNET).context("cannot join the pod's network")?;
    if !args.net_only {
        let dir = std::env::current_dir();
        setns(uts, CloneFlags::CLONE_NEWUTS).context("cannot join the pod's host name")?;
        setns(mnt, CloneFlags::CLONE_NEWNS).context("cannot join the pod's mounts")?;
        // Joining a mount namespace moves to its root.
        if let Ok(dir) = dir {
            let _ = std::env::set_current_dir(dir);
        }
    }
    Ok(())
}

/// Root changes its ids. An ordinary user has only one id in the sandbox: the command gets a user namespace of its
/// own in which that id has another number, so that programs that refuse to run as root run.
fn become_user(args: &Args, command: &mut Command) -> anyhow::Result<()> {
    let (Some(uid), gid) = (args.uid, args.gid) else {
        return Ok(());
    };
    let gid = gid.unwrap_or(uid);
    if uid == 0 {
        return Ok(());
    }
    if has_all_ids()? {
        command.uid(uid).gid(gid);
        return Ok(());
    }
    let own = geteuid();
    unshare(CloneFlags::CLONE_NEWUSER)
        .with_context(|| format!("cannot make a user namespace to run as user {uid}"))?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("{uid} {own} 1"))?;
    fs::write("/proc/self/gid_map", format!("{gid} {own} 1"))?;
    Ok(())
}

/// Whether this user namespace has more than one user id.
fn has_all_ids() -> anyhow::Result<bool> {
    let map = fs::read_to_string("/proc/self/uid_map")?;
    let size = map.split_whitespace().nth(2);
    Ok(size.is_some_and(|size| size != "1"))
}
