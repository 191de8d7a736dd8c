//! Runs the controller and the pods.
//!
//! One loop owns all state. In come events: what pods tell, what the CLI asks, changed manifests. After each, the
//! difference between what is wanted and what there is becomes started and ended pods (`reconcile`), and what
//! there is becomes objects for the controller, names for DNS and addresses for NAT.

mod api;
mod board;
mod container;
mod controller;
mod exec;
mod holder;
mod logs;
mod nat;
mod objects;
mod pod;
mod probe;
mod process;
mod proxy;
mod reconcile;
pub(crate) mod services;
mod start;
mod vars;
mod volumes;
mod watch_files;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    net::Ipv4Addr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use jiff::Timestamp;
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};

use self::{
    board::{Phase, State},
    logs::Logs,
    objects::{Objects, Wanted},
    pod::{Handle, Pod},
    process::Slot,
    services::{PodView, ServiceView},
};
use super::{
    config::Config,
    dns::Zone,
    manifest::{Key, Kind, Manifests, Template},
    network::Node,
    sandbox::{PodNetwork, STATE_DIR},
};

/// The name of the one node.
const NODE_NAME: &str = "local";
/// How long pods may take to end when all ends.
const END_PATIENCE: Duration = Duration::from_secs(5);

fn state_dir() -> PathBuf {
    STATE_DIR.into()
}

/// Where the controller finds the objects.
fn objects_dir() -> PathBuf {
    state_dir().join("objects")
}

/// Where the controller keeps the trust bundle.
fn bundle_file() -> PathBuf {
    state_dir().join("bundle.pem")
}

/// What happens.
enum Event {
    /// A pod tells how it is.
    PodState { key: Key, uid: String, state: State },
    /// A pod has ended.
    PodGone { key: Key, uid: String },
    /// Someone asks for something.
    Request(api::Request),
    /// The manifests may have changed.
    ManifestsChanged,
    /// The end.
    Stop,
}

/// What all pods share.
struct Shared {
    config: Arc<Config>,
    node: Node,
    logs: Arc<Logs>,
    events: mpsc::UnboundedSender<Event>,
    /// Who may set up namespaces now: hundreds at once would only wait for each other's locks in the kernel.
    turns: Semaphore,
}

/// What makes pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct WorkloadId {
    kind: Kind,
    namespace: String,
    name: String,
}

/// A pod, from its start until it is gone.
struct PodRecord {
    workload: WorkloadId,
    name: String,
    template: Arc<Template>,
    revision: String,
    ordinal: Option<u32>,
    labels: BTreeMap<String, String>,
    /// Its name below a headless Service, and the Service.
    hostname: Option<(String, String)>,
    network: PodNetwork,
    address: u16,
    meshed: bool,
    token: String,
    created: Timestamp,
    /// When it was told to end.
    deleted: Option<Timestamp>,
    state: State,
    handle: Arc<Handle>,
}

/// The one owner of all state.
struct Engine {
    shared: Arc<Shared>,
    manifests: Arc<Manifests>,
    /// Why the manifests on disk are not what runs.
    reload_error: Option<String>,
    /// Replicas that `mesh local scale` set, until the manifest says another number.
    scaled: HashMap<WorkloadId, u32>,
    /// How often `mesh local restart` was asked for.
    restarts: HashMap<WorkloadId, u32>,
    pods: BTreeMap<Key, PodRecord>,
    last_address: u16,
    cluster_ips: BTreeMap<Key, Ipv4Addr>,
    objects: Objects,
    services: Vec<ServiceView>,
    zone: watch::Sender<Arc<Zone>>,
    controller: Arc<Slot>,
    problems: BTreeSet<String>,
}

/// Runs until it is told to stop. The standard input is the Observe socket, the standard output the Local socket.
pub(super) fn run() -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(start::run())
}

impl Engine {
    /// Takes events until the end is one of them.
    async fn run(&mut self, events: &mut mpsc::UnboundedReceiver<Event>) {
        self.settle();
        while let Some(event) = events.recv().await {
            if self.take(event) {
                return;
            }
            // What has piled up is one change.
            while let Ok(event) = events.try_recv() {
                if self.take(event) {
                    return;
                }
            }
            self.settle();
        }
    }

    /// Ends all pods.
    async fn end(&mut self, events: &mut mpsc::UnboundedReceiver<Event>) {
        for pod in self.pods.values() {
            let grace = pod.template.grace.min(END_PATIENCE / 2);
            pod.handle.stop.send_replace(Some(grace));
        }
        let _ = timeout(END_PATIENCE, async {
            while !self.pods.is_empty() {
                match events.recv().await {
                    Some(Event::PodGone { key, .. }) => drop(self.pods.remove(&key)),
                    Some(_) => {}
                    None => return,
                }
            }
        })
        .await;
    }

    /// Whether this is the end.
    fn take(&mut self, event: Event) -> bool {
        match event {
            Event::PodState { key, uid, state } => {
                if let Some(pod) = self.pods.get_mut(&key)
                    && pod.handle.uid == uid
                {
                    pod.state = state;
                }
            }
            Event::PodGone { key, uid } => {
                if self.pods.get(&key).is_some_and(|pod| pod.handle.uid == uid) {
                    self.pods.remove(&key);
                    self.shared.logs.forget(&format!("{}/{}", key.0, key.1));
                }
            }
            Event::Request(request) => return self.answer(request),
            Event::ManifestsChanged => self.reload(),
            Event::Stop => return true,
        }
        false
    }

    fn reload(&mut self) {
        let config = &self.shared.config;
        match Manifests::read(&config.manifests, &config.namespace) {
            Ok(manifests) => {
                for (key, workload) in &manifests.workloads {
                    let before = self.manifests.workloads.get(key);
                    if before.is_none_or(|before| before.replicas != workload.replicas) {
                        let (kind, namespace, name) = key.clone();
                        self.scaled.remove(&WorkloadId {
                            kind,
                            namespace,
                            name,
                        });
                    }
                }
                self.manifests = Arc::new(manifests);
                self.reload_error = None;
            }
            Err(error) => {
                let error = format!("the changed manifests are not used: {error:#}");
                self.shared.logs.add("mesh", error.clone());
                self.reload_error = Some(error);
            }
        }
    }

    /// Makes what there is more like what is wanted, and tells everyone what there is.
    fn settle(&mut self) {
        let mut starting = Vec::new();
        let mut ending = Vec::new();
        self.reconcile(&mut starting, &mut ending);
        self.publish();
        // A pod starts when its token is known, and ends when it is no longer an endpoint.
        for pod in starting {
            tokio::spawn(pod.live());
        }
        for (handle, grace) in ending {
            handle.stop.send_replace(Some(grace));
        }
    }

    fn reconcile(&mut self, starting: &mut Vec<Pod>, ending: &mut Vec<(Arc<Handle>, Duration)>) {
        let manifests = self.manifests.clone();
        let mut steps: Vec<(WorkloadId, reconcile::Step)> = Vec::new();
        for ((kind, namespace, name), workload) in &manifests.workloads {
            let id = WorkloadId {
                kind: *kind,
                namespace: namespace.clone(),
                name: name.clone(),
            };
            let revision = self.revision(&id, &workload.template);
            let want = reconcile::Want {
                kind: *kind,
                replicas: self.replicas(&id),
                revision: &revision,
            };
            let have: Vec<_> = self.pods_of(&id).map(PodRecord::view).collect();
            let planned = reconcile::plan(&want, &have);
            steps.extend(planned.into_iter().map(|step| (id.clone(), step)));
        }
        for (id, step) in steps {
            match step {
                reconcile::Step::Start(ordinal) => starting.extend(self.create(&id, ordinal)),
                reconcile::Step::End(name) => {
                    ending.extend(self.delete(&(id.namespace, name), None));
                }
            }
        }
        // Workloads that are no longer in the manifests.
        let orphans: Vec<Key> = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.deleted.is_none() && self.workload(&pod.workload).is_none())
            .map(|(key, _)| key.clone())
            .collect();
        for key in orphans {
            ending.extend(self.delete(&key, None));
        }
    }

    /// Marks a pod as terminating; whom to tell, and the grace time.
    fn delete(&mut self, key: &Key, grace: Option<Duration>) -> Option<(Arc<Handle>, Duration)> {
        let pod = self.pods.get_mut(key)?;
        pod.deleted.get_or_insert_with(Timestamp::now);
        Some((pod.handle.clone(), grace.unwrap_or(pod.template.grace)))
    }

    fn publish(&mut self) {
        self.problems.clear();
        self.cluster_ips = services::cluster_ips(&self.manifests.services, &self.cluster_ips);
        let alive = || self.pods.values().filter(|pod| !pod.done());
        let views: Vec<PodView> = alive().map(PodRecord::service_view).collect();
        let services = services::resolve(&self.manifests.services, &self.cluster_ips, &views);

        if let Err(error) = self.objects.write(self.wanted(&services)) {
            self.problems
                .insert(format!("cannot write objects for the controller: {error}"));
        }
        let pods = alive().map(|pod| (pod.workload.namespace.as_str(), pod.network.ip));
        self.zone.send_replace(Arc::new(Zone::new(&services, pods)));
        if services != self.services {
            if let Err(error) = nat::apply(&services) {
                self.problems.insert(format!(
                    "ClusterIPs don't work for pods without a proxy: {error}"
                ));
            }
            self.services = services;
        }
    }

    fn wanted(&self, services: &[ServiceView]) -> Wanted {
        let mut wanted = Wanted::default();
        for (name, namespace) in &self.manifests.namespaces {
            wanted.add("namespaces", name, namespace);
        }
        for ((namespace, name), account) in &self.manifests.service_accounts {
            wanted.add("serviceaccounts", &format!("{namespace}.{name}"), account);
        }
        for view in services {
            let key = (view.namespace.clone(), view.name.clone());
            if let Some(service) = self.manifests.services.get(&key) {
                let file = format!("{}.{}", view.namespace, view.name);
                wanted.add("services", &file, &objects::service(service, view));
            }
            for slice in objects::slices(view) {
                let name = slice.metadata.name.as_deref().unwrap_or_default();
                wanted.add(
                    "endpointslices",
                    &format!("{}.{name}", view.namespace),
                    &slice,
                );
            }
        }
        for ((namespace, name), pod) in &self.pods {
            wanted.add("pods", &format!("{namespace}.{name}"), &objects::pod(pod));
            wanted.token(&pod.token, namespace, &pod.template.service_account, name);
        }
        wanted
    }

    fn workload(&self, id: &WorkloadId) -> Option<&super::manifest::Workload> {
        // The key's order is that of the map.
        let key = (id.kind, id.namespace.clone(), id.name.clone());
        self.manifests.workloads.get(&key)
    }

    fn replicas(&self, id: &WorkloadId) -> u32 {
        let manifest = self.workload(id).map_or(0, |workload| workload.replicas);
        self.scaled.get(id).copied().unwrap_or(manifest)
    }

    fn revision(&self, id: &WorkloadId, template: &Template) -> String {
        let restarts = self.restarts.get(id).copied().unwrap_or_default();
        let meshed = self.meshed(&id.namespace, template);
        format!("{}-{restarts}-{meshed}", template.hash)
    }

    fn pods_of(&self, id: &WorkloadId) -> impl Iterator<Item = &PodRecord> {
        self.pods.values().filter(move |pod| pod.workload == *id)
    }
}

impl PodRecord {
    /// It has ended for good, and well or not.
    fn done(&self) -> bool {
        matches!(self.state.phase, Phase::Succeeded | Phase::Failed)
    }

    fn view(&self) -> reconcile::Have<'_> {
        reconcile::Have {
            name: &self.name,
            revision: &self.revision,
            ordinal: self.ordinal,
            ready: self.state.ready && self.deleted.is_none(),
            terminating: self.deleted.is_some(),
            done: self.done(),
        }
    }

    fn service_view(&self) -> PodView {
        let ports = self
            .template
            .spec
            .containers
            .iter()
            .flat_map(|c| c.ports.iter().flatten());
        let named = ports
            .filter_map(|port| Some((port.name.clone()?, port.container_port.try_into().ok()?)));
        PodView {
            namespace: self.workload.namespace.clone(),
            name: self.name.clone(),
            ip: self.network.ip,
            ip6: self.network.ip6,
            labels: self.labels.clone(),
            hostname: self.hostname.clone(),
            ports: named.collect(),
            ready: self.state.ready,
            terminating: self.deleted.is_some(),
        }
    }
}

/// The configuration that `enter` has left.
fn read_config() -> anyhow::Result<Config> {
    let text = fs::read_to_string(state_dir().join("config.json"))?;
    serde_json::from_str(&text).context("the configuration is not valid")
}
