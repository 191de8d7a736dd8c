//! Owns the namespaces of one pod, and waits for the pod's end.

use std::{
    fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use nix::{
    sched::{CloneFlags, unshare},
    unistd::sethostname,
};

use super::mounts::{self, NameFiles};
use crate::local::network;

/// The line that says that the pod's namespaces are ready.
pub(crate) const READY: &str = "ready";

/// What a pod is made of.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Everything, as JSON.
    #[arg(value_parser = parse)]
    pod: PodNetwork,
}

/// Names and addresses of a pod.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub(crate) struct PodNetwork {
    /// The pod's name.
    pub(crate) hostname: String,
    /// Names of the pod itself, for /etc/hosts.
    pub(crate) aliases: Vec<String>,
    pub(crate) ip: Ipv4Addr,
    pub(crate) ip6: Ipv6Addr,
    /// Name of the node's end of the link.
    pub(crate) link: String,
    /// The engine's process id: in its network namespace is the node's end of the link.
    pub(crate) node: u32,
    /// Contents of /etc/resolv.conf.
    pub(crate) resolv_conf: String,
    /// The pod's folder below the state folder.
    pub(crate) dir: PathBuf,
    /// Empty folders to mount: `emptyDir` and files of config maps, source (none: a new tmpfs) and target.
    pub(crate) volumes: Vec<Volume>,
}

/// A folder that only this pod sees.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub(crate) struct Volume {
    /// A folder below the state folder.
    pub(crate) source: PathBuf,
    /// Where the containers see it.
    pub(crate) target: PathBuf,
}

/// Makes the namespaces, says so, and lives until the standard input ends.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let pod = &args.pod;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
        .context("cannot make the pod's namespaces")?;
    sethostname(&pod.hostname)?;
    network::set_up_pod(pod)?;

    for volume in &pod.volumes {
        mounts::bind(&volume.source, &volume.target).with_context(|| {
            format!(
                "a volume can only be mounted on a folder that exists on this machine: make {}",
                volume.target.display()
            )
        })?;
    }
    mounts::name_files(&pod.dir, &name_files(pod))?;
    hide_state()?;

    let mut output = io::stdout().lock();
    writeln!(output, "{READY}")?;
    output.flush()?;
    let mut input = io::stdin().lock();
    let mut byte = [0];
    while input.read(&mut byte).is_ok_and(|read| read > 0) {}
    Ok(ExitCode::SUCCESS)
}

fn parse(json: &str) -> Result<PodNetwork, serde_json::Error> {
    serde_json::from_str(json)
}

fn name_files(pod: &PodNetwork) -> NameFiles {
    let names = pod.aliases.join(" ");
    NameFiles {
        resolv_conf: pod.resolv_conf.clone(),
        hosts: format!(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{}\t{names}\n{}\t{names}\n",
            pod.ip, pod.ip6
        ),
        hostname: format!("{}\n", pod.hostname),
    }
}

/// Apps don't see the tokens and keys of the mesh.
fn hide_state() -> anyhow::Result<()> {
    debug_assert!(Path::new(mounts::STATE_DIR).exists());
    mounts::private_shm()?;
    fs::metadata(mounts::STATE_DIR)
        .err()
        .context("the state folder is still visible")?;
    Ok(())
}
