//! Keeps the controller running.

use std::{
    os::{fd::OwnedFd, unix::net::UnixListener},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use mesh_api::names;
use tokio::{process::Command, sync::watch, time::sleep};

use super::{
    bundle_file,
    logs::Logs,
    objects_dir,
    process::{Process, Slot, describe, told},
    state_dir,
};
use crate::local::{config::Config, network::NODE, sandbox::PROGRAM};

/// Where the controller's output goes, and how `mesh local` calls it.
pub(super) const NAME: &str = "controller";

/// Runs it again and again until told to stop.
pub(super) async fn keep(
    config: Arc<Config>,
    observe: UnixListener,
    slot: Arc<Slot>,
    logs: Arc<Logs>,
    mut stop: watch::Receiver<Option<()>>,
) {
    let mut wait = Duration::from_millis(100);
    loop {
        tokio::select! {
            () = slot.allowed() => {}
            () = told(&mut stop) => return,
        }
        let started = tokio::time::Instant::now();
        let run = async {
            let input: OwnedFd = observe.try_clone()?.into();
            let mut process = Process::start(command(&config, input), slot.clone(), &logs, NAME)?;
            tokio::select! {
                status = process.wait() => status.map(Some),
                () = told(&mut stop) => {
                    process.end(Duration::from_secs(2)).await?;
                    Ok(None)
                }
            }
        };
        match run.await {
            Ok(None) => return,
            Ok(Some(status)) => {
                logs.add(NAME, format!("mesh: the controller {}", describe(status)))
            }
            Err(error) => logs.add(
                NAME,
                format!("mesh: the controller does not start: {error}"),
            ),
        }
        if started.elapsed() > Duration::from_secs(10) {
            wait = Duration::from_millis(100);
        }
        tokio::select! {
            () = sleep(wait) => wait = (wait * 2).min(Duration::from_secs(5)),
            () = told(&mut stop) => return,
        }
    }
}

/// Its standard input is the socket of its Observe service.
fn command(config: &Config, observe: OwnedFd) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(["controller", "run", "--source", "directory", "--directory"])
        .arg(objects_dir())
        .arg("--state-dir")
        .arg(state_dir().join("controller"))
        .args(["--listen", &format!("{NODE}:{}", names::CONTROLLER_PORT)])
        .args([
            "--admin-listen",
            &format!("127.0.0.1:{}", names::CONTROLLER_ADMIN_PORT),
        ])
        .args(["--observe-listen", "fd:0"])
        .arg("--bundle-file")
        .arg(bundle_file())
        .args(["--log-level", &config.log_level])
        .stdin(Stdio::from(observe));
    if let Some(lifetime) = &config.leaf_lifetime {
        command.args(["--leaf-lifetime", lifetime]);
    }
    if let Some(lifetime) = &config.root_lifetime {
        command.args(["--root-lifetime", lifetime]);
    }
    command
}
