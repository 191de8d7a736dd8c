//! What is compared: pairs of proxies, and no proxy at all.

mod certificates;
mod envoy;
mod haproxy;
mod mesh;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::topology::Pod;
pub(super) use mesh::Binaries;

/// The user that proxies run as: its traffic is not redirected.
pub(super) const PROXY_UID: u32 = mesh_api::names::PROXY_UID;
/// Where nginx listens.
pub(super) const APP_PORT: u16 = 8080;
/// Where nginx speaks HTTP/2 with prior knowledge. HAProxy and Envoy translate to HTTP/1.1 and use the
/// other port; a mesh keeps the app's own version.
pub(super) const APP_H2_PORT: u16 = 8081;

const BUILT_IN: [&str; 4] = ["direct", "mesh", "haproxy", "envoy"];

/// A pair of proxies, described: what `--peer-file` takes, and what the built-in peers are made of.
///
/// `{dir}` in a command or environment value is a scratch folder, `{client}` and `{server}` are the
/// pods' addresses.
#[derive(Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields)]
pub(super) struct Peer {
    /// Heading of its row.
    pub(super) name: String,
    /// The proxy beside the client, then the one beside the server. None: direct.
    pub(super) proxies: Option<Pair>,
    /// Files written to the scratch folder first.
    #[serde(default)]
    pub(super) files: BTreeMap<String, String>,
    /// Processes on the node that the proxies need (a control plane).
    #[serde(default)]
    pub(super) node: Vec<ProxyProcess>,
    /// What the load dials; default: the server pod.
    #[serde(default)]
    pub(super) target: Option<IpAddr>,
    /// Scenarios that it can't do, as where it does not know the protocol.
    #[serde(default)]
    pub(super) without: Vec<String>,
}

/// Both proxies.
#[derive(Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields)]
pub(super) struct Pair {
    pub(super) client: ProxyProcess,
    pub(super) server: ProxyProcess,
    /// Where redirected connections of the client arrive.
    pub(super) outbound_port: u16,
    /// Where redirected connections to the server arrive.
    pub(super) inbound_port: u16,
}

/// One process. It is ready when a request through it is answered.
#[derive(Deserialize, Debug, Clone)]
#[serde(deny_unknown_fields)]
pub(super) struct ProxyProcess {
    command: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

impl Peer {
    /// The built-in peers with these names; all that this machine can run for an empty list. `workers`: the data
    /// threads of `mesh`, which takes part once with each number.
    pub(super) fn named(
        names: &[String],
        mesh: &Binaries,
        workers: &[u8],
    ) -> anyhow::Result<Vec<Self>> {
        if let Some(name) = names.iter().find(|name| !BUILT_IN.contains(&name.as_str())) {
            bail!(
                "no peer is called {name:?}: known are {}",
                BUILT_IN.join(", ")
            );
        }
        let mut peers = Vec::new();
        for name in BUILT_IN {
            if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
                continue;
            }
            match name {
                "direct" => peers.push(Self::direct()),
                "mesh" => peers.extend(workers.iter().map(|workers| mesh::peer(mesh, *workers))),
                _ if on_path(name).is_some() => peers.push(match name {
                    "haproxy" => haproxy::peer()?,
                    _ => envoy::peer()?,
                }),
                _ if names.is_empty() => eprintln!("{name}: left out, it is not installed"),
                _ => bail!("{name} is not on the PATH"),
            }
        }
        Ok(peers)
    }

    /// A peer from its description file.
    pub(super) fn from_file(path: &Path) -> anyhow::Result<Self> {
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
            without: Vec::new(),
        }
    }

    /// Size of the client's proxy without symbols, bytes.
    pub(super) fn stripped_size(&self) -> anyhow::Result<Option<u64>> {
        let Some(pair) = &self.proxies else {
            return Ok(None);
        };
        let program = pair.client.command.first().context("an empty command")?;
        let program = on_path(program).with_context(|| format!("{program} is not installed"))?;
        let folder = tempfile::tempdir()?;
        let stripped = folder.path().join("stripped");
        let status = Command::new("strip")
            .arg("-o")
            .arg(&stripped)
            .arg(program)
            .status();
        match status {
            Ok(status) if status.success() => Ok(Some(stripped.metadata()?.len())),
            // A script, or no binutils here.
            _ => Ok(None),
        }
    }
}

impl ProxyProcess {
    /// A process of the built-in peers.
    fn new<'a>(command: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            command: command.into_iter().map(str::to_owned).collect(),
            env: BTreeMap::new(),
        }
    }

    /// With the folder's and the pods' names filled in. In a pod it is a proxy, which runs as another user.
    pub(super) fn command(&self, is_proxy: bool, scratch: &Path) -> Command {
        let mut words = self.command.iter().map(|word| fill(word, scratch));
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        command.envs(
            self.env
                .iter()
                .map(|(name, value)| (name, fill(value, scratch))),
        );
        if is_proxy {
            command.uid(PROXY_UID).gid(PROXY_UID);
        }
        command
    }
}

/// Puts the names into a text.
pub(super) fn fill(text: &str, scratch: &Path) -> String {
    text.replace("{dir}", &scratch.to_string_lossy())
        .replace("{client}", &Pod::Client.ip().to_string())
        .replace("{server}", &Pod::Server.ip().to_string())
}

/// Where a program is; a path is itself.
fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path);
    folders
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
