//! The life of one pod, in the order of Kubernetes' native sidecars: network, redirection, proxy, init
//! containers, containers; and backwards.

use std::{
    collections::BTreeMap,
    fs,
    process::Stdio,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Event, Shared,
    board::{Board, INIT, PROXY, Phase, State},
    bundle_file,
    container::{Keeper, Place, Status},
    holder::Holder,
    process::{Slot, told},
    proxy,
    vars::{self, Identity},
};
use crate::local::{
    manifest::{Container, Manifests, Restart, Template},
    sandbox::{POD_READY, PROGRAM, PodNetwork},
};

/// After its endpoint is unpublished, a pod serves on for this long: the proxies learn it meanwhile.
const UNPUBLISH: Duration = Duration::from_millis(150);
/// What a proxy gets to drain at least, when its containers have used up the grace time.
const DRAIN: Duration = Duration::from_secs(2);
const SET_UP_TIMEOUT: Duration = Duration::from_secs(20);

/// One pod that is to live.
pub(super) struct Pod {
    pub(super) identity: Identity,
    pub(super) template: Arc<Template>,
    pub(super) network: PodNetwork,
    pub(super) meshed: bool,
    pub(super) manifests: Arc<Manifests>,
    pub(super) shared: Arc<Shared>,
    pub(super) handle: Arc<Handle>,
}

/// What others need of a pod that lives.
#[derive(Debug)]
pub(super) struct Handle {
    /// Distinguishes this pod from an earlier one of the same name.
    pub(super) uid: String,
    /// The grace time, once it is to end.
    pub(super) stop: watch::Sender<Option<Duration>>,
    /// The processes by the containers' names.
    pub(super) slots: BTreeMap<String, Arc<Slot>>,
    /// Where commands of `exec` run: the first container's place.
    pub(super) place: OnceLock<Place>,
}

impl Handle {
    pub(super) fn new(uid: String, template: &Template, meshed: bool) -> Arc<Self> {
        let containers = template.containers.iter().chain(&template.init_containers);
        let names = containers.map(|container| container.name.clone());
        let proxy = meshed.then(|| proxy::NAME.to_owned());
        Arc::new(Self {
            uid,
            stop: watch::Sender::new(None),
            slots: names.chain(proxy).map(|name| (name, Slot::new())).collect(),
            place: OnceLock::new(),
        })
    }
}

impl Pod {
    /// From start to end.
    pub(super) async fn live(self) {
        let mut stop = self.handle.stop.subscribe();
        let mut wait = Duration::from_millis(500);
        loop {
            match self.try_to_live().await {
                Ok(()) => break,
                Err(reason) => self.tell(State {
                    reason,
                    ..State::default()
                }),
            }
            tokio::select! {
                () = sleep(wait) => wait = (wait * 2).min(Duration::from_secs(10)),
                () = told(&mut stop) => break,
            }
        }
        let _ = fs::remove_dir_all(&self.network.dir);
        self.send(Event::PodGone {
            key: self.key(),
            uid: self.handle.uid.clone(),
        });
    }

    async fn try_to_live(&self) -> Result<(), String> {
        let mut stop = self.handle.stop.subscribe();
        let holder = tokio::select! {
            holder = self.hold() => holder?,
            () = told(&mut stop) => return Ok(()),
        };
        let result = self.run(&holder).await;
        holder.end().await;
        result
    }

    /// Makes the namespaces and the network, when it is this pod's turn.
    async fn hold(&self) -> Result<Holder, String> {
        // Never closed: all pods share it.
        let _turn = self.shared.turns.acquire().await;
        timeout(SET_UP_TIMEOUT, self.set_up())
            .await
            .map_err(|_| "setting up the pod's namespaces takes too long")?
    }

    async fn set_up(&self) -> Result<Holder, String> {
        let mut network = self.network.clone();
        network.volumes = self.volumes()?;
        let network = &network;
        let json = serde_json::to_string(network).map_err(|error| error.to_string())?;
        let mut process = Command::new(PROGRAM)
            .args(["sandbox", "pod", &json])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start the pod's holder: {error}"))?;
        let stdout = process.stdout.take().ok_or("no output")?;
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line).await;
        if read.is_err() || line.trim_end() != POD_READY {
            let output = process.wait_with_output().await;
            let words = output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
            return Err(words
                .unwrap_or_default()
                .trim()
                .trim_start_matches("mesh: ")
                .to_owned());
        }
        let attached = self.shared.node.attach(network).await;
        attached.map_err(|error| format!("{error:#}"))?;
        let pid = process.id().ok_or("the pod's holder has ended")?;
        Ok(Holder { process, pid })
    }

    /// Runs all of the pod's processes until it is done or told to stop.
    async fn run(&self, holder: &Holder) -> Result<(), String> {
        let (statuses, mut received) = mpsc::unbounded_channel();
        let mut stop = self.handle.stop.subscribe();
        let mut board = Board {
            statuses: BTreeMap::new(),
            phase: Phase::Pending,
        };
        let proxy_stop = watch::Sender::new(None);
        let mut proxy = JoinSet::new();
        let mut containers = JoinSet::new();

        if self.meshed {
            let started = async {
                let keeper = self
                    .proxy(holder, statuses.clone(), proxy_stop.subscribe())
                    .await?;
                proxy.spawn(keeper.keep());
                board.statuses.insert(PROXY, Status::default());
                self.follow(&mut board, &mut received, |board| board.ready(PROXY))
                    .await;
                Ok::<_, String>(())
            };
            tokio::select! {
                result = started => result?,
                () = told(&mut stop) => {}
            }
        }
        let started = self.start_containers(
            holder,
            &statuses,
            &mut board,
            &mut received,
            &mut containers,
        );
        let started = tokio::select! {
            result = started => result,
            () = told(&mut stop) => Ok(()),
        };
        let mut finished = false;
        if started.is_ok() {
            let count = self.template.containers.len();
            tokio::select! {
                () = self.follow(&mut board, &mut received, |board| board.done(count).is_some()) => {
                    finished = true;
                    board.phase = board.done(count).map_or(Phase::Failed, |well| {
                        if well { Phase::Succeeded } else { Phase::Failed }
                    });
                }
                () = told(&mut stop) => {}
            }
        }

        let grace = stop.borrow().unwrap_or(Duration::ZERO);
        let deadline = Instant::now() + grace;
        while containers.join_next().await.is_some() {}
        let left = deadline.saturating_duration_since(Instant::now());
        // A crash is a crash of the proxy too.
        let drain = if grace.is_zero() && !finished {
            Duration::ZERO
        } else {
            left.max(DRAIN)
        };
        proxy_stop.send_replace(Some(drain));
        while proxy.join_next().await.is_some() {}
        if finished {
            self.tell(board.state());
            told(&mut stop).await;
        }
        started
    }

    async fn start_containers(
        &self,
        holder: &Holder,
        statuses: &mpsc::UnboundedSender<(usize, Status)>,
        board: &mut Board,
        received: &mut mpsc::UnboundedReceiver<(usize, Status)>,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), String> {
        let restart = self.template.restart;
        for (index, container) in self.template.init_containers.iter().enumerate() {
            let index = INIT + index;
            let mut keeper = self.keeper(container, holder, index, statuses.clone())?;
            keeper.restart = match restart {
                Restart::Never => Restart::Never,
                _ => Restart::OnFailure,
            };
            board.statuses.insert(index, Status::default());
            tasks.spawn(keeper.keep());
            self.follow(board, received, |board| board.ended(index).is_some())
                .await;
            if board.ended(index) == Some(false) {
                return Err(format!("init container {} failed", container.name));
            }
            board.statuses.remove(&index);
        }
        board.phase = Phase::Running;
        let containers = self.template.containers.iter().enumerate();
        let keepers: Vec<Keeper> = containers
            .map(|(index, container)| self.keeper(container, holder, index, statuses.clone()))
            .collect::<Result<_, _>>()?;
        for keeper in keepers {
            board.statuses.insert(keeper.index, Status::default());
            tasks.spawn(keeper.keep());
        }
        Ok(())
    }

    /// Takes in what the containers tell until something is so.
    async fn follow(
        &self,
        board: &mut Board,
        received: &mut mpsc::UnboundedReceiver<(usize, Status)>,
        until: impl Fn(&Board) -> bool,
    ) {
        while !until(board) {
            self.tell(board.state());
            if let Some((index, status)) = received.recv().await {
                // An init container that is done no longer counts.
                if let Some(known) = board.statuses.get_mut(&index) {
                    *known = status;
                }
            }
        }
    }

    fn keeper(
        &self,
        container: &Container,
        holder: &Holder,
        index: usize,
        statuses: mpsc::UnboundedSender<(usize, Status)>,
    ) -> Result<Keeper, String> {
        let mut env = vars::environment(container, &self.identity, &self.manifests)
            .map_err(|error| format!("container {}: {error}", container.name))?;
        let expand = |text: &String| vars::expand(text, &env);
        let command = container.command.iter().map(expand).collect();
        env.splice(0..0, self.shared.config.env.clone());
        let place = Place {
            holder: holder.pid,
            ip: self.network.ip,
            net_only: false,
            env,
            uid: container.uid,
            gid: container.gid,
            dir: container.dir.clone(),
        };
        if index == 0 {
            let _ = self.handle.place.set(place.clone());
        }
        let mut stop = self.handle.stop.subscribe();
        let slot = self.handle.slots.get(&container.name).cloned();
        let (delayed, delayed_stop) = watch::channel(None);
        // Ends with the pod: `delayed` lives in the task until it has told.
        tokio::spawn(async move {
            let grace = match stop.wait_for(Option::is_some).await {
                Ok(grace) => grace.unwrap_or_default(),
                Err(_) => return,
            };
            if !grace.is_zero() {
                sleep(UNPUBLISH).await;
            }
            delayed.send_replace(Some(grace));
        });
        Ok(Keeper {
            container: container.clone(),
            command,
            place,
            restart: self.template.restart,
            slot: slot.unwrap_or_else(Slot::new),
            logs: self.shared.logs.clone(),
            source: self.source(&container.name),
            index,
            statuses,
            stop: delayed_stop,
        })
    }

    /// Writes the redirection, and makes the proxy ready to be kept.
    async fn proxy(
        &self,
        holder: &Holder,
        statuses: mpsc::UnboundedSender<(usize, Status)>,
        stop: watch::Receiver<Option<Duration>>,
    ) -> Result<Keeper, String> {
        let place = Place {
            holder: holder.pid,
            ip: self.network.ip,
            net_only: true,
            env: Vec::new(),
            uid: None,
            gid: None,
            dir: None,
        };
        let init = proxy::init(&self.template.annotations);
        let output = place
            .command(&init)
            .output()
            .await
            .map_err(|error| error.to_string())?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr);
            return Err(format!("cannot write the redirection: {}", words.trim()));
        }
        if !bundle_file().exists() {
            self.tell(State {
                reason: "waits for the controller: see `mesh local logs controller`".into(),
                ..State::default()
            });
            proxy::wait_for_bundle().await;
        }
        Ok(Keeper {
            container: proxy::container(),
            command: proxy::run(
                &self.shared.config,
                &self.identity,
                &self.network.dir,
                &self.template.annotations,
            ),
            place,
            restart: Restart::Always,
            slot: self
                .handle
                .slots
                .get(proxy::NAME)
                .cloned()
                .unwrap_or_else(Slot::new),
            logs: self.shared.logs.clone(),
            source: self.source(proxy::NAME),
            index: PROXY,
            statuses,
            stop,
        })
    }

    fn source(&self, container: &str) -> String {
        format!(
            "{}/{}/{container}",
            self.identity.namespace, self.identity.name
        )
    }

    fn key(&self) -> (String, String) {
        (self.identity.namespace.clone(), self.identity.name.clone())
    }

    fn tell(&self, state: State) {
        self.send(Event::PodState {
            key: self.key(),
            uid: self.handle.uid.clone(),
            state,
        });
    }

    fn send(&self, event: Event) {
        // The engine ends before its pods only when all ends.
        let _ = self.shared.events.send(event);
    }
}
