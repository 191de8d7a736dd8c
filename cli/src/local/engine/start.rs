//! The engine's start and end, and the making of pods.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    io::{self, Read},
    net::{Ipv4Addr, Ipv6Addr},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixListener},
    },
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context;
use jiff::Timestamp;
use mesh_api::names;
use nix::unistd::{dup2_stdin, dup2_stdout};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, mpsc, watch},
};

use super::{
    Engine, Event, PodRecord, Shared, WorkloadId, api,
    board::State,
    controller,
    logs::Logs,
    objects::Objects,
    objects_dir,
    pod::{Handle, Pod},
    process::Slot,
    proxy, read_config, state_dir,
    vars::Identity,
    watch_files,
};
use crate::local::{
    config::Inject,
    dns::{self, DOMAIN, Zone},
    manifest::{Key, Kind, Manifests, Template},
    network::{NODE, NODE6, Node},
    sandbox::{NameFiles, PodNetwork, name_files},
};

/// Letters and digits that make no words, as Kubernetes uses them in names.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Pods whose namespaces are set up at the same time.
const SET_UP_AT_ONCE: usize = 8;
/// Addresses from 10.244.0.2; the last two numbers of the address.
const FIRST_ADDRESS: u16 = 2;

pub(super) async fn run() -> anyhow::Result<ExitCode> {
    let (observe, local) = take_sockets()?;
    let config = Arc::new(read_config()?);
    let manifests = Manifests::read(&config.manifests, &config.namespace)?;
    let node = Node::set_up()
        .await
        .context("cannot set up the node's network")?;
    name_files(&state_dir().join("node"), &node_files(&config.namespace))?;
    let objects = Objects::new(objects_dir()).context("cannot make the objects' folder")?;

    let (events, mut received) = mpsc::unbounded_channel();
    let logs = Arc::new(Logs::new());
    let zone = watch::Sender::new(Arc::new(Zone::default()));
    dns::serve(zone.subscribe()).await?;
    let shared = Arc::new(Shared {
        config: config.clone(),
        node,
        logs: logs.clone(),
        events: events.clone(),
        turns: Semaphore::new(SET_UP_AT_ONCE),
    });
    let slot = Slot::new();
    let stop = watch::Sender::new(None);
    let controller = controller::keep(
        config.clone(),
        observe,
        slot.clone(),
        logs.clone(),
        stop.subscribe(),
    );
    let mut engine = Engine {
        shared,
        manifests: Arc::new(manifests),
        reload_error: None,
        scaled: HashMap::new(),
        restarts: HashMap::new(),
        pods: BTreeMap::new(),
        last_address: FIRST_ADDRESS - 1,
        cluster_ips: BTreeMap::new(),
        objects,
        services: Vec::new(),
        zone,
        controller: slot.clone(),
        problems: BTreeSet::new(),
    };
    // The objects are there before the controller looks.
    engine.publish();
    let controller = tokio::spawn(controller);
    api::serve(local, events.clone(), logs, slot)?;
    let watcher = watch_files::watch(&config.manifests, events.clone());

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        terminate.recv().await;
        events.send(Event::Stop)
    });
    engine.run(&mut received).await;
    engine.end(&mut received).await;
    stop.send_replace(Some(()));
    let _ = controller.await;
    drop(watcher);
    Ok(ExitCode::SUCCESS)
}

/// The sockets came as standard input and output, which then become harmless.
fn take_sockets() -> anyhow::Result<(UnixListener, UnixListener)> {
    let observe: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let local: OwnedFd = io::stdout().as_fd().try_clone_to_owned()?;
    dup2_stdin(fs::File::open("/dev/null")?)?;
    dup2_stdout(io::stderr())?;
    Ok((observe.into(), local.into()))
}

fn node_files(namespace: &str) -> NameFiles {
    NameFiles {
        resolv_conf: dns::resolv_conf(namespace),
        hosts: format!(
            "127.0.0.1\tlocalhost\n::1\tlocalhost\n{NODE}\t{node}\n{NODE6}\t{node}\n",
            node = super::NODE_NAME
        ),
        hostname: format!("{}\n", super::NODE_NAME),
    }
}

impl Engine {
    /// Makes the record of a pod, and the pod, which does not live yet.
    pub(super) fn create(&mut self, id: &WorkloadId, ordinal: Option<u32>) -> Option<Pod> {
        let template = Arc::new(self.workload(id)?.template.clone());
        let name = match (id.kind, ordinal) {
            (Kind::Pod, _) => id.name.clone(),
            (_, Some(number)) => format!("{}-{number}", id.name),
            (Kind::Deployment, None) => format!("{}-{}-{}", id.name, template.hash, letters(5)),
            _ => format!("{}-{}", id.name, letters(5)),
        };
        let key: Key = (id.namespace.clone(), name.clone());
        if self.pods.contains_key(&key) {
            // A Pod of this name is still ending.
            return None;
        }
        let address = self.free_address()?;
        let meshed = self.meshed(&id.namespace, &template);
        let labels = labels(&template, id.kind, &name, ordinal, meshed);
        let hostname = template.hostname.clone().unwrap_or_else(|| name.clone());
        let subdomain = template.subdomain.clone();
        let network = network(id, &name, &hostname, subdomain.as_deref(), address);
        let uid = format!(
            "{:08x}-{:04x}-4000-8000-{:012x}",
            fastrand::u32(..),
            fastrand::u16(..),
            fastrand::u64(..) >> 16
        );
        let handle = Handle::new(uid.clone(), &template, meshed);
        let token = match write_token(&network) {
            Ok(token) => token,
            Err(error) => {
                self.shared
                    .logs
                    .add("mesh", format!("cannot write the token of {name}: {error}"));
                return None;
            }
        };
        let record = PodRecord {
            workload: id.clone(),
            name: name.clone(),
            revision: self.revision(id, &template),
            template: template.clone(),
            ordinal,
            labels: labels.clone(),
            hostname: subdomain.map(|subdomain| (hostname, subdomain)),
            network: network.clone(),
            address,
            meshed,
            token,
            created: Timestamp::now(),
            deleted: None,
            state: State::default(),
            handle: handle.clone(),
        };
        self.pods.insert(key, record);
        Some(Pod {
            identity: Identity {
                namespace: id.namespace.clone(),
                name,
                uid,
                ip: network.ip.to_string(),
                ip6: network.ip6.to_string(),
                service_account: template.service_account.clone(),
                labels,
                annotations: template.annotations.clone(),
            },
            template,
            network,
            meshed,
            manifests: self.manifests.clone(),
            shared: self.shared.clone(),
            handle,
        })
    }

    /// Whether a template's pods get a proxy: the pod's own label, then the namespace's, then the default.
    pub(super) fn meshed(&self, namespace: &str, template: &Template) -> bool {
        let own = template.labels.get(names::LABEL_INJECT);
        let namespace = self.manifests.namespaces.get(namespace);
        let namespace = namespace
            .and_then(|namespace| namespace.metadata.labels.as_ref()?.get(names::LABEL_INJECT));
        match (
            own.or(namespace).map(String::as_str),
            self.shared.config.inject,
        ) {
            (_, Inject::None) | (Some("disabled"), _) => false,
            (Some("enabled"), _) => true,
            (_, inject) => inject == Inject::All,
        }
    }

    /// The next address; one that was in use is taken again as late as possible.
    fn free_address(&mut self) -> Option<u16> {
        let free = (1..=u16::MAX).find_map(|offset| {
            let candidate = self.last_address.wrapping_add(offset);
            let odd = matches!(candidate.to_be_bytes()[1], 0 | 255);
            let taken = self.pods.values().any(|pod| pod.address == candidate);
            (candidate >= FIRST_ADDRESS && !odd && !taken).then_some(candidate)
        })?;
        self.last_address = free;
        Some(free)
    }
}

fn labels(
    template: &Template,
    kind: Kind,
    name: &str,
    ordinal: Option<u32>,
    meshed: bool,
) -> BTreeMap<String, String> {
    let mut labels = template.labels.clone();
    if kind == Kind::Deployment {
        labels.insert("pod-template-hash".into(), template.hash.clone());
    }
    if let Some(number) = ordinal {
        labels.insert("statefulset.kubernetes.io/pod-name".into(), name.into());
        labels.insert("apps.kubernetes.io/pod-index".into(), number.to_string());
    }
    // Where everything is meshed by default, the controller still sees what it would on a cluster.
    if meshed {
        labels.insert(names::LABEL_INJECT.into(), "enabled".into());
    }
    labels
}

fn network(
    id: &WorkloadId,
    name: &str,
    hostname: &str,
    subdomain: Option<&str>,
    address: u16,
) -> PodNetwork {
    let [high, low] = address.to_be_bytes();
    let full =
        subdomain.map(|subdomain| format!("{hostname}.{subdomain}.{}.svc.{DOMAIN}", id.namespace));
    let mut short = hostname.to_owned();
    // The kernel's limit is 64 bytes.
    short.truncate(63);
    PodNetwork {
        aliases: full.into_iter().chain([short.clone()]).collect(),
        hostname: short,
        ip: Ipv4Addr::new(10, 244, high, low),
        ip6: Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, address),
        link: format!("veth{address}"),
        node: std::process::id(),
        resolv_conf: dns::resolv_conf(&id.namespace),
        dir: state_dir()
            .join("pods")
            .join(format!("{}.{name}", id.namespace)),
        volumes: Vec::new(),
    }
}

fn write_token(network: &PodNetwork) -> io::Result<String> {
    let token = token()?;
    fs::create_dir_all(network.dir.join("proxy"))?;
    let file = network.dir.join(proxy::TOKEN);
    fs::write(&file, &token)?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))?;
    Ok(token)
}

/// Not guessable: whoever shows it gets the pod's identity.
fn token() -> io::Result<String> {
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn letters(count: usize) -> String {
    (0..count)
        .map(|_| char::from(LETTERS[fastrand::usize(..LETTERS.len())]))
        .collect()
}
