//! What is compared: pairs of proxies, and no proxy at all.

mod envoy;
mod haproxy;
mod mesh;

use std::{
    collections::BTreeMap,
    fs::File,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::topology::{Pod, Process, Usage};

/// The user that proxies run as: its traffic is not redirected.
const PROXY_UID: u32 = mesh_api::names::PROXY_UID;
/// Where nginx listens.
pub(crate) const APP_PORT: u16 = 8080;
/// Where nginx speaks HTTP/2 with prior knowledge. HAProxy and Envoy translate to HTTP/1.1 and use the
/// other port; a mesh keeps the app's own version.
pub(crate) const APP_H2_PORT: u16 = 8081;

/// A pair of proxies, described: what `--peer-file` takes, and what the built-in peers are made of.
///
/// `{dir}` in a command or environment value is a scratch folder, `{client}` and `{server}` are the
/// pods' addresses.
#[derive(Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields)]
pub(crate) struct Peer {
    /// Heading of its column.
    pub(crate) name: String,
    /// The proxy beside the client, then the one beside the server. None: direct.
    pub(crate) proxies: Option<Pair>,
    /// Files written to the scratch folder first.
    #[serde(default)]
    files: BTreeMap<String, String>,
    /// Processes on the node that the proxies need (a control plane).
    #[serde(default)]
    node: Vec<ProxyProcess>,
    /// What the load dials; default: the server pod.
    #[serde(default)]
    target: Option<IpAddr>,
}

/// Both proxies.
#[derive(Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pair {
    client: ProxyProcess,
    server: ProxyProcess,
    /// Where redirected connections of the client arrive.
    outbound_port: u16,
    /// Where redirected connections to the server arrive.
    inbound_port: u16,
}

/// One process, and how to see that it is ready.
#[derive(Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields)]
struct ProxyProcess {
    command: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

/// A running pair with the server behind it.
pub(crate) struct Running {
    client: Option<Process>,
    server: Option<Process>,
    // Dropped after the proxies.
    _node: Vec<Process>,
    _app: Process,
    scratch: tempfile::TempDir,
    /// What the load dials.
    pub(crate) target: IpAddr,
    /// From the start of the later proxy to the first answer.
    pub(crate) ready: Duration,
}

impl Peer {
    /// The peers with these names; `all` that this machine can run for an empty list.
    pub(crate) fn named(names: &[String], mesh: &Path) -> anyhow::Result<Vec<Self>> {
        let known = ["direct", "mesh", "haproxy", "envoy"];
        if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
            bail!("no peer is called {name:?}: known are {}", known.join(", "));
        }
        let mut peers = Vec::new();
        for name in known {
            if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
                continue;
            }
            match name {
                "direct" => peers.push(Self::direct()),
                "mesh" => peers.push(mesh::peer(mesh)?),
                _ if !on_path(name) && names.is_empty() => {
                    eprintln!("{name}: left out, it is not installed");
                }
                "haproxy" => peers.push(haproxy::peer()?),
                _ => peers.push(envoy::peer()?),
            }
        }
        Ok(peers)
    }

    /// A peer from its description file.
    pub(crate) fn from_file(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        serde_saphyr::from_str(&text).with_context(|| format!("{} is not a peer", path.display()))
    }

    fn direct() -> Self {
        Self {
            name: "direct".into(),
            proxies: None,
            files: BTreeMap::new(),
            node: Vec::new(),
            target: None,
        }
    }

    /// Starts everything and waits for the first answer through it.
    pub(crate) fn start(&self, mesh: &Path) -> anyhow::Result<Running> {
        let scratch = tempfile::tempdir()?;
        for (name, text) in &self.files {
            let path = scratch.path().join(name);
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            std::fs::write(path, fill(text, scratch.path()))?;
        }
        open_to_all(scratch.path())?;
        let app = super::app::start(scratch.path())?;
        let mut node = Vec::new();
        for process in &self.node {
            let command = process.command(None, scratch.path());
            node.push(Process::start(
                "a node process",
                command,
                log(scratch.path(), "node")?,
            )?);
        }
        if !node.is_empty() {
            // A control plane writes files that the proxies read at their start.
            std::thread::sleep(Duration::from_millis(500));
        }
        let (mut client, mut server) = (None, None);
        let begin = Instant::now();
        if let Some(pair) = &self.proxies {
            pair.redirect(mesh)?;
            let start = |pod: Pod, process: &ProxyProcess| {
                let command = process.command(Some(pod), scratch.path());
                Process::start(pod.name(), command, log(scratch.path(), pod.name())?)
            };
            server = Some(start(Pod::Server, &pair.server)?);
            client = Some(start(Pod::Client, &pair.client)?);
        } else {
            Pair::remove(mesh)?;
        }
        let target = self.target.unwrap_or_else(|| Pod::Server.ip().into());
        let mut running = Running {
            client,
            server,
            _node: node,
            _app: app,
            scratch,
            target,
            ready: Duration::ZERO,
        };
        running
            .wait(begin)
            .with_context(|| format!("starting {}", self.name))?;
        Ok(running)
    }
}

impl Running {
    /// Client's and server's proxy; zero for direct.
    pub(crate) fn usage(&mut self) -> anyhow::Result<[Usage; 2]> {
        let mut usage = [Usage::default(); 2];
        for (usage, process) in usage.iter_mut().zip([&mut self.client, &mut self.server]) {
            if let Some(process) = process {
                process.alive()?;
                *usage = process.usage()?;
            }
        }
        Ok(usage)
    }

    fn wait(&mut self, begin: Instant) -> anyhow::Result<()> {
        let url = format!("http://{}:{APP_PORT}/small", self.target);
        while begin.elapsed() < Duration::from_secs(20) {
            let answer = Pod::Client
                .command("curl")
                .args([
                    "-s",
                    "-o",
                    "/dev/null",
                    "-w",
                    "%{http_code}",
                    "-m",
                    "2",
                    &url,
                ])
                .output()
                .context("running curl")?;
            if answer.stdout == b"200" {
                self.ready = begin.elapsed();
                return Ok(());
            }
            self.usage()?;
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut logs = String::new();
        for name in ["node", "client", "server", "app"] {
            let text = std::fs::read_to_string(self.scratch.path().join(format!("{name}.log")));
            let text = text.unwrap_or_default();
            logs += &format!("\n--- {name}\n{}", &text[text.len().saturating_sub(2000)..]);
        }
        bail!("no 200 from {url} within 20 s{logs}")
    }
}

impl Pair {
    fn redirect(&self, mesh: &Path) -> anyhow::Result<()> {
        for pod in [Pod::Client, Pod::Server] {
            run(pod
                .command(&mesh.to_string_lossy())
                .args(["proxy", "init"])
                .args([
                    "--outbound-port".to_owned(),
                    self.outbound_port.to_string(),
                    "--inbound-port".to_owned(),
                    self.inbound_port.to_string(),
                    "--exclude-uid".to_owned(),
                    PROXY_UID.to_string(),
                ]))?;
        }
        Ok(())
    }

    fn remove(mesh: &Path) -> anyhow::Result<()> {
        for pod in [Pod::Client, Pod::Server] {
            let id = PROXY_UID.to_string();
            run(pod.command(&mesh.to_string_lossy()).args([
                "proxy",
                "init",
                "--exclude-uid",
                &id,
                "--remove",
            ]))?;
        }
        Ok(())
    }
}

impl ProxyProcess {
    fn command(&self, pod: Option<Pod>, scratch: &Path) -> Command {
        let words: Vec<_> = self
            .command
            .iter()
            .map(|word| fill(word, scratch))
            .collect();
        let mut command = match pod {
            Some(pod) => {
                let mut command = pod.command("setpriv");
                let id = PROXY_UID.to_string();
                command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
                command.args(&words);
                command
            }
            None => {
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]);
                command
            }
        };
        command.envs(
            self.env
                .iter()
                .map(|(name, value)| (name, fill(value, scratch))),
        );
        command
    }
}

fn fill(text: &str, scratch: &Path) -> String {
    text.replace("{dir}", &scratch.to_string_lossy())
        .replace("{client}", &Pod::Client.ip().to_string())
        .replace("{server}", &Pod::Server.ip().to_string())
}

fn log(scratch: &Path, name: &str) -> anyhow::Result<File> {
    Ok(File::options()
        .create(true)
        .append(true)
        .open(scratch.join(format!("{name}.log")))?)
}

/// Proxies run as another user and must read what was written for them.
fn open_to_all(folder: &Path) -> anyhow::Result<()> {
    run(Command::new("chmod").args(["-R", "a+rwX"]).arg(folder))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .output()
        .with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder: PathBuf| folder.join(program).is_file())
}

/// Certificates for both sides, PEM: (CA, chain, key). Every peer gets the same kind: ECDSA P-256.
fn certificates() -> anyhow::Result<[String; 3]> {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // Without names of their own, issuer and subject are equal, and OpenSSL takes the leaf for self-signed.
    ca.distinguished_name.push(DnType::CommonName, "bench root");
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(vec!["peer.bench".to_owned()])?;
    leaf.distinguished_name
        .push(DnType::CommonName, "bench peer");
    let server: Ipv4Addr = Pod::Server.ip();
    leaf.subject_alt_names
        .push(SanType::IpAddress(server.into()));
    let leaf_pem = leaf.signed_by(&key, &issuer)?.pem();
    Ok([ca_pem, leaf_pem, key.serialize_pem()])
}
