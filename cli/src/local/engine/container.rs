//! Keeps one container of a pod running, and knows how it is.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    process::Command,
    sync::{mpsc, watch},
    time::sleep,
};

use super::{
    logs::Logs,
    probe,
    process::{Process, Slot, describe, told},
};
use crate::local::{
    manifest::{Container, Hook, Probe, Restart},
    sandbox::PROGRAM,
};

/// Before a container is ready for the first time it is asked often: a start takes no longer than it must.
const EAGER: Duration = Duration::from_millis(100);
/// A container that declares ports but no readiness probe is ready when it listens, or after this time: the
/// declaration is only a hint (Kubernetes' API reference, containerPort).
const LISTEN_WAIT: Duration = Duration::from_secs(10);
/// A container without ports and probes is ready when it has run for this long, doubled with each restart: a command
/// that does not exist, or ends at once, must not look ready meanwhile.
const SETTLE: Duration = Duration::from_millis(250);
/// Waits between restarts: doubled each time, from the first to the last; forgotten after a quiet time.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
const QUIET: Duration = Duration::from_secs(10);

/// Where a process of a pod runs.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Process id of the pod's holder.
    pub(super) holder: u32,
    pub(super) ip: Ipv4Addr,
    /// The proxy joins the network only.
    pub(super) net_only: bool,
    pub(super) env: Vec<(String, String)>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) dir: Option<PathBuf>,
}

impl Place {
    /// The command, in this place; without input.
    pub(super) fn command(&self, command: &[String]) -> Command {
        let mut process = Command::new(PROGRAM);
        process.args(["sandbox", "run", "--pod", &self.holder.to_string()]);
        if self.net_only {
            process.arg("--net-only");
        }
        if let Some(uid) = self.uid {
            process.args(["--uid", &uid.to_string()]);
        }
        if let Some(gid) = self.gid {
            process.args(["--gid", &gid.to_string()]);
        }
        if let Some(dir) = &self.dir {
            process.arg("--dir").arg(dir);
        }
        process.arg("--").args(command).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if is_the_hosts_own(&name.to_string_lossy()) {
                process.env_remove(name);
            }
        }
        process.envs(self.env.iter().map(|(name, value)| (name, value)));
        process
    }
}

/// Variables of the user's shell that mean nothing in the sandbox: it has no way out to a proxy server, and the
/// mesh's own are set by the engine only.
fn is_the_hosts_own(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let proxies = [
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
        "ftp_proxy",
    ];
    proxies.contains(&name.as_str()) || name.starts_with("mesh_")
}

/// How a container is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) ready: bool,
    pub(super) restarts: u32,
    /// It has ended for good: well or not.
    pub(super) done: Option<bool>,
    /// Why it is not ready.
    pub(super) reason: String,
}

/// One container, being kept.
pub(super) struct Keeper {
    pub(super) container: Container,
    pub(super) command: Vec<String>,
    pub(super) place: Place,
    pub(super) restart: Restart,
    pub(super) slot: Arc<Slot>,
    pub(super) logs: Arc<Logs>,
    /// "namespace/pod/container".
    pub(super) source: String,
    /// Which of the pod's containers this is.
    pub(super) index: usize,
    pub(super) statuses: mpsc::UnboundedSender<(usize, Status)>,
    /// The grace time, once the pod is to end.
    pub(super) stop: watch::Receiver<Option<Duration>>,
}

impl Keeper {
    /// Runs the container until it is done or told to stop.
    pub(super) async fn keep(mut self) {
        let mut status = Status::default();
        let mut wait = BACKOFF.0;
        loop {
            let mut stop = self.stop.clone();
            tokio::select! {
                () = self.slot.allowed() => {}
                () = told(&mut stop) => return,
            }
            let started = Instant::now();
            let well = self.run_once(&mut status).await;
            if self.stop.borrow().is_some() {
                return;
            }
            let again = match self.restart {
                Restart::Always => true,
                Restart::OnFailure => !well,
                Restart::Never => false,
            };
            status.ready = false;
            if !again {
                status.done = Some(well);
                self.tell(&status);
                return;
            }
            status.restarts += 1;
            self.tell(&status);
            if started.elapsed() > QUIET {
                wait = BACKOFF.0;
            }
            tokio::select! {
                () = sleep(wait) => {}
                () = told(&mut stop) => return,
            }
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    /// From start to end; whether it ended well.
    async fn run_once(&mut self, status: &mut Status) -> bool {
        let command = self.place.command(&self.command);
        let process = Process::start(command, self.slot.clone(), &self.logs, &self.source);
        let mut process = match process {
            Ok(process) => process,
            Err(error) => {
                status.reason = format!("{} does not start: {error}", self.container.name);
                return false;
            }
        };
        // Why it was restarted is worth more than that it is.
        if status.reason.is_empty() {
            status.reason = format!("{} is starting", self.container.name);
        }
        self.tell(status);
        let mut stop = self.stop.clone();
        let settle = SETTLE
            .saturating_mul(1 << status.restarts.min(6))
            .min(LISTEN_WAIT);
        let health = Health {
            settle,
            keeper: &*self,
            status,
        };
        let ended = tokio::select! {
            ended = process.wait() => Some(ended),
            unhealthy = health.watch() => {
                let name = &self.container.name;
                self.logs.add(&self.source, format!("mesh: {name} is restarted: {unhealthy}"));
                status.reason = format!("{name} was restarted: {unhealthy}");
                let _ = process.end(Duration::from_secs(5)).await;
                return false;
            }
            () = told(&mut stop) => None,
        };
        let Some(ended) = ended else {
            let grace = stop.borrow().unwrap_or_default();
            self.stop(&mut process, grace).await;
            return true;
        };
        let how = ended
            .as_ref()
            .map_or_else(ToString::to_string, |status| describe(*status));
        let name = &self.container.name;
        status.reason = match self.logs.last(&self.source) {
            // A command that can't be started is told by this program, in its own name.
            Some(words) => format!("{name} {how}: {}", words.trim_start_matches("mesh: ")),
            None => format!("{name} {how}"),
        };
        ended.is_ok_and(|status| status.success())
    }

    /// The pre-stop hook counts towards the grace time (Kubernetes' container lifecycle hooks).
    async fn stop(&self, process: &mut Process, grace: Duration) {
        let deadline = Instant::now() + grace;
        if !grace.is_zero() {
            match &self.container.pre_stop {
                None => {}
                Some(Hook::Sleep(time)) => sleep((*time).min(grace)).await,
                Some(Hook::Do(check)) => {
                    if let Err(error) = probe::ask(&self.place, check, grace).await {
                        self.logs
                            .add(&self.source, format!("mesh: preStop failed: {error}"));
                    }
                }
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let _ = process.end(left).await;
    }

    fn tell(&self, status: &Status) {
        // The pod's end drops the receiver.
        let _ = self.statuses.send((self.index, status.clone()));
    }
}

/// The probes of one run of a container.
struct Health<'a> {
    /// How long a container of which nothing can be asked must have run to count as ready.
    settle: Duration,
    keeper: &'a Keeper,
    status: &'a mut Status,
}

impl Health<'_> {
    /// Tells the pod whether the container is ready. Returns why the container must be restarted, when it must.
    async fn watch(mut self) -> String {
        let keeper = self.keeper;
        let container = &keeper.container;
        if let Some(startup) = &container.startup
            && let Err(error) = self.started(startup).await
        {
            return error;
        }
        let liveness = async {
            match &container.liveness {
                Some(probe) => failing(&keeper.place, probe).await,
                None => std::future::pending().await,
            }
        };
        let readiness = async {
            match &container.readiness {
                Some(probe) => Self::readiness(keeper, self.status, probe).await,
                None => {
                    self.listening().await;
                    std::future::pending().await
                }
            }
        };
        tokio::select! {
            error = liveness => format!("its liveness probe fails: {error}"),
            never = readiness => never,
        }
    }

    async fn started(&mut self, probe: &Probe) -> Result<(), String> {
        sleep(probe.initial_delay).await;
        let deadline = Instant::now() + probe.period * probe.failure_threshold;
        loop {
            match probe::ask(&self.keeper.place, &probe.check, probe.timeout).await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(format!("its startup probe fails: {error}"));
                }
                Err(error) => self.not_ready(&error),
            }
            sleep(EAGER.min(probe.period)).await;
        }
    }

    async fn listening(&mut self) {
        let ports = &self.keeper.container.ports;
        if ports.is_empty() {
            sleep(self.settle).await;
        }
        let deadline = Instant::now() + LISTEN_WAIT;
        while !probe::listens(&self.keeper.place, ports) && Instant::now() < deadline {
            self.not_ready("it does not listen on its containerPort yet");
            sleep(EAGER / 2).await;
        }
        Self::ready(self.keeper, self.status);
    }

    async fn readiness(keeper: &Keeper, status: &mut Status, probe: &Probe) -> String {
        sleep(probe.initial_delay).await;
        let (mut successes, mut failures, mut ever) = (0, 0, false);
        loop {
            match probe::ask(&keeper.place, &probe.check, probe.timeout).await {
                Ok(()) => {
                    (successes, failures) = (successes + 1, 0);
                    if successes >= probe.success_threshold {
                        ever = true;
                        Self::ready(keeper, status);
                    }
                }
                Err(error) => {
                    (successes, failures) = (0, failures + 1);
                    if !status.ready || failures >= probe.failure_threshold {
                        Self::tell_not_ready(keeper, status, &error);
                    }
                }
            }
            sleep(if ever {
                probe.period
            } else {
                EAGER.min(probe.period)
            })
            .await;
        }
    }

    fn ready(keeper: &Keeper, status: &mut Status) {
        if !status.ready {
            status.ready = true;
            status.reason.clear();
            keeper.tell(status);
        }
    }

    fn not_ready(&mut self, why: &str) {
        Self::tell_not_ready(self.keeper, self.status, why);
    }

    fn tell_not_ready(keeper: &Keeper, status: &mut Status, why: &str) {
        let reason = format!("{} is not ready: {why}", keeper.container.name);
        if status.ready || status.reason != reason {
            status.ready = false;
            status.reason = reason;
            keeper.tell(status);
        }
    }
}

/// Returns when the probe has failed as often as it may.
async fn failing(place: &Place, probe: &Probe) -> String {
    sleep(probe.initial_delay.max(probe.period)).await;
    let mut failures = 0;
    loop {
        match probe::ask(place, &probe.check, probe.timeout).await {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                if failures >= probe.failure_threshold {
                    return error;
                }
            }
        }
        sleep(probe.period).await;
    }
}
