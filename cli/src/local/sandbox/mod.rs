//! The processes of a mesh on one machine: each is this program, started again as one of these steps.
//!
//! ```text
//! mesh up            the user's terminal; holds the pipe whose end means "end"
//! └─ enter           makes the sockets, then new user (if not root), mount, net, pid, ipc and uts namespaces
//!    └─ init         pid 1 of the sandbox: a fresh /proc, takes in orphans; its end is the end of all
//!       └─ engine    runs the controller and the pods
//!          ├─ controller
//!          ├─ pod    one per pod: owns the pod's net, mount and uts namespaces
//!          └─ run    one per process of a pod: enters the namespaces, then becomes the command
//! ```
//!
//! Nothing outlives its parent: the kernel kills what is in a pid namespace with its pid 1, a parent's death
//! is a signal to `init`, and network, mounts and abstract sockets vanish with the last process.

mod enter;
mod init;
mod mounts;
mod pod;
mod run;

use std::{ffi::CStr, process::ExitCode};

use nix::sys::signal::SigSet;

pub(crate) use mounts::{NameFiles, STATE_DIR, name_files};
pub(crate) use pod::{PodNetwork, READY as POD_READY, Volume};

/// This program, however it was named and even if its file has been replaced since.
pub(crate) const PROGRAM: &str = "/proc/self/exe";

/// One process.
#[derive(Debug, clap::Subcommand)]
pub enum Step {
    /// Opens the sockets and enters new namespaces; its configuration is one line of its standard input.
    Enter,
    /// Pid 1 of the sandbox.
    Init,
    /// Runs the controller and the pods.
    Engine,
    /// Owns the namespaces of one pod.
    Pod(pod::Args),
    /// Joins a pod's namespaces and becomes a command.
    Run(run::Args),
}

/// Becomes the process.
///
/// # Errors
/// What can't be set up, and what to do about it.
pub fn run(step: Step) -> anyhow::Result<ExitCode> {
    match step {
        Step::Enter => enter::run(),
        Step::Init => named(c"mesh-init", init::run),
        Step::Engine => named(c"mesh-engine", || {
            // Its parents take signals by waiting for them, and children inherit what is blocked.
            SigSet::all().thread_unblock()?;
            super::engine::run()
        }),
        Step::Pod(args) => named(c"mesh-pod", || pod::run(&args)),
        Step::Run(args) => run::run(args),
    }
}

/// A process started as /proc/self/exe is called "exe" in lists of processes, unless it says otherwise.
fn named(name: &CStr, body: impl FnOnce() -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    nix::sys::prctl::set_name(name)?;
    body()
}
