//! Pid 1 of the sandbox: small, so that nothing can go wrong in it.

use std::{
    os::fd::AsFd,
    process::{Command, ExitCode},
};

use anyhow::Context;
use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, dup2_stdin, dup2_stdout},
};

use super::{PROGRAM, mounts};

/// Starts the engine, takes in orphans, and ends with the engine; the kernel then kills all that is left.
pub(super) fn run() -> anyhow::Result<ExitCode> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    mounts::mount_proc()?;

    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    let engine = Command::new(PROGRAM)
        .args(["sandbox", "engine"])
        .spawn()
        .context("cannot start the engine")?;
    let engine = Pid::from_raw(engine.id().try_into()?);
    // The sockets are the engine's: they must vanish with it.
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    dup2_stdin(null.as_fd())?;
    dup2_stdout(null.as_fd())?;

    loop {
        if signals.wait()? == Signal::SIGTERM {
            // It may have ended just now.
            let _ = kill(engine, Signal::SIGTERM);
        }
        if let Some(code) = reap(engine)? {
            return Ok(code);
        }
    }
}

/// Collects every process that has ended; the engine's own exit code ends the sandbox.
fn reap(engine: Pid) -> anyhow::Result<Option<ExitCode>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == engine => {
                return Ok(Some(ExitCode::from(u8::try_from(code).unwrap_or(1))));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == engine => {
                eprintln!("mesh: the engine was killed by {signal}; everything ends with it");
                return Ok(Some(ExitCode::FAILURE));
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error).context("cannot wait for processes"),
        }
    }
}
