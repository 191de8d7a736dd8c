//! One process that the engine keeps an eye on.

use std::{
    io,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use super::logs::Logs;

/// The place of a process that may come and go: what signals are sent to.
#[derive(Debug)]
pub(crate) struct Slot {
    pid: Mutex<Option<Pid>>,
    held: watch::Sender<bool>,
}

impl Slot {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            pid: Mutex::new(None),
            held: watch::Sender::new(false),
        })
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), String> {
        // Under the lock: a pid whose process has been waited for may be another's.
        let pid = self.pid.lock().unwrap_or_else(|e| e.into_inner());
        let pid = pid.ok_or("it is not running")?;
        kill(pid, signal).map_err(|error| error.to_string())
    }

    /// Whether it must not be started (again).
    pub(crate) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Waits until it may be started.
    pub(crate) async fn allowed(&self) {
        // The sender lives in `self`.
        let _ = self.held.subscribe().wait_for(|held| !held).await;
    }

    /// Whether it runs.
    pub(crate) fn running(&self) -> bool {
        self.pid.lock().unwrap_or_else(|e| e.into_inner()).is_some()
    }

    fn set(&self, pid: Option<Pid>) {
        *self.pid.lock().unwrap_or_else(|e| e.into_inner()) = pid;
    }
}

/// A process that runs.
pub(crate) struct Process {
    child: Child,
    group: Option<Pid>,
    slot: Arc<Slot>,
    output: JoinSet<()>,
}

impl Process {
    /// Starts it in a process group of its own, with its output going to the log.
    pub(crate) fn start(
        mut command: Command,
        slot: Arc<Slot>,
        logs: &Arc<Logs>,
        source: &str,
    ) -> io::Result<Self> {
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let group = child
            .id()
            .and_then(|id| id.try_into().ok())
            .map(Pid::from_raw);
        slot.set(group);
        let mut output = JoinSet::new();
        if let Some(stream) = child.stdout.take() {
            let (logs, source) = (logs.clone(), source.to_owned());
            output.spawn(async move { logs.copy(&source, stream).await });
        }
        if let Some(stream) = child.stderr.take() {
            let (logs, source) = (logs.clone(), source.to_owned());
            output.spawn(async move { logs.copy(&source, stream).await });
        }
        Ok(Self {
            child,
            group,
            slot,
            output,
        })
    }

    /// Waits for its end, then ends what it has left behind in its process group.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.slot.set(None);
        if let Some(group) = self.group {
            // Usually empty by now.
            let _ = killpg(group, Signal::SIGKILL);
        }
        // Its last words; but a grandchild that left the group may keep the pipe open.
        let _ = timeout(Duration::from_millis(200), async {
            while self.output.join_next().await.is_some() {}
        })
        .await;
        status
    }

    /// SIGTERM, and SIGKILL after the grace time.
    pub(crate) async fn end(&mut self, grace: Duration) -> io::Result<ExitStatus> {
        if grace.is_zero() {
            let _ = self.slot.signal(Signal::SIGKILL);
        } else {
            let _ = self.slot.signal(Signal::SIGTERM);
            // A stopped process must go on to take the signal.
            let _ = self.slot.signal(Signal::SIGCONT);
            if let Ok(status) = timeout(grace, self.wait()).await {
                return status;
            }
            let _ = self.slot.signal(Signal::SIGKILL);
        }
        self.wait().await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.slot.set(None);
    }
}

/// Waits until something is told to stop.
pub(super) async fn told<T>(stop: &mut watch::Receiver<Option<T>>) {
    // Whoever tells lives longer than who is told; if not, that is the end as well.
    let _ = stop.wait_for(Option::is_some).await;
}

/// How an end is told: "exited with 1", "was killed by SIGKILL".
pub(crate) fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(signal) => format!("was killed by {signal}"),
            Err(_) => format!("was killed by signal {signal}"),
        },
        (None, None) => "ended".into(),
    }
}
