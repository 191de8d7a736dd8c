//! The mesh on one machine: what `mesh up`, `mesh demo` and the tests run.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use std::time::Duration;
//! use mesh::local::{Mesh, Options, Source};
//!
//! let manifests = Source::Text { name: "shop.yaml".into(), text: "kind: Deployment …".into() };
//! let mesh = Mesh::start(Options { name: "test".into(), manifests: vec![manifests], ..Options::default() }).await?;
//! mesh.ready(Duration::from_secs(30)).await?;
//! let mut local = mesh.address().local().await?; // list, scale, restart, signal, exec, …
//! let mut observe = mesh.address().observe().await?; // stat, edges, tap, …
//! mesh.stop().await?;
//! # Ok(())
//! # }
//! ```
//!
//! The mesh runs in processes of its own (module `sandbox`) and ends when the `Mesh` is dropped or its process dies.

mod config;
mod dns;
mod engine;
mod manifest;
mod network;
pub mod sandbox;
mod sockets;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use mesh_api::local::{DownRequest, ListRequest, ListResponse};
use nix::unistd::geteuid;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    time::{sleep, timeout},
};

use crate::client::LocalMesh;
use config::Config;
pub use config::{Inject, Source};

/// From the start until the sockets answer. Entering namespaces takes milliseconds; a busy machine takes longer.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// An orderly end takes as long as its slowest pod, five seconds at most; then everything is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(25);
/// Lines of the sandbox's own messages that are kept for an error.
const WORDS: usize = 20;

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The mesh's name: `--name` of the commands that look for it. One user can run several of different names.
    pub name: String,
    /// What to run.
    pub manifests: Vec<Source>,
    /// Namespace of the objects that name none.
    pub namespace: String,
    /// Which pods get a proxy.
    pub inject: Inject,
    /// Lifetime of leaf certificates, for example "24h"; none: the controller's default.
    pub leaf_lifetime: Option<String>,
    /// Lifetime of root certificates, for example "365d"; none: the controller's default.
    pub root_lifetime: Option<String>,
    /// Log level of the proxies and the controller.
    pub log_level: String,
    /// Lives on when this process ends, until [`stop`] or `mesh down`.
    pub detached: bool,
    /// The `mesh` program. The default is the running program, which must then be `mesh` itself.
    pub program: PathBuf,
    /// More flags for every `mesh proxy run`.
    pub proxy_args: Vec<String>,
    /// More variables for every container.
    pub env: BTreeMap<String, String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "default".into(),
            manifests: Vec::new(),
            namespace: "default".into(),
            inject: Inject::default(),
            leaf_lifetime: None,
            root_lifetime: None,
            log_level: "info".into(),
            detached: false,
            program: sandbox::PROGRAM.into(),
            proxy_args: Vec::new(),
            env: BTreeMap::new(),
        }
    }
}

/// A running mesh. Dropping it ends it in the background, unless it is detached.
#[derive(Debug)]
pub struct Mesh {
    address: LocalMesh,
    sandbox: Child,
    /// Closing it ends the mesh. Not left inside of `sandbox`: waiting for a child closes its input.
    input: Option<ChildStdin>,
    words: Arc<Mutex<Vec<String>>>,
    warnings: Vec<String>,
}

impl Mesh {
    /// Starts it and waits until it can be talked to; its pods start meanwhile.
    ///
    /// # Errors
    /// The manifests can't run, the name is taken, or the kernel does not give namespaces.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        // Here already, so that a mistake in a file is a plain error.
        let manifests = manifest::Manifests::read(&options.manifests, &options.namespace)?;
        if manifests.workloads.is_empty() {
            let why: Vec<_> = manifests.warnings.into_iter().collect();
            bail!("{}", why.join("; "));
        }
        let address = LocalMesh {
            uid: geteuid().as_raw(),
            name: options.name.clone(),
        };
        let program = options.program.clone();
        let mut config = serde_json::to_string(&Config::from(options))?;
        config.push('\n');

        // A process group of its own: Ctrl-C in the terminal is for us, and we end the mesh in order.
        let mut sandbox = Command::new(&program)
            .args(["sandbox", "enter"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let words = Arc::new(Mutex::new(Vec::new()));
        if let Some(stderr) = sandbox.stderr.take() {
            let words = words.clone();
            tokio::spawn(async move {
                let mut lines = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let mut words = words.lock().unwrap_or_else(|e| e.into_inner());
                    words.push(line);
                    let excess = words.len().saturating_sub(WORDS);
                    words.drain(..excess);
                }
            });
        }
        let mut mesh = Self {
            address,
            input: sandbox.stdin.take(),
            sandbox,
            words,
            warnings: manifests.warnings.into_iter().collect(),
        };
        if let Some(input) = &mut mesh.input {
            // A sandbox that has failed already says why.
            let _ = input.write_all(config.as_bytes()).await;
        }
        mesh.answers().await?;
        Ok(mesh)
    }

    /// How to reach it.
    pub fn address(&self) -> &LocalMesh {
        &self.address
    }

    /// What of the manifests is not honoured, in sentences.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Waits until all workloads are ready.
    ///
    /// # Errors
    /// Not in this time: says which pods are not ready, and why. The mesh goes on.
    pub async fn ready(&self, patience: Duration) -> anyhow::Result<ListResponse> {
        ready(&self.address, patience).await
    }

    /// Waits until the mesh ends by itself: by `mesh down`, or because something of it was killed.
    ///
    /// # Errors
    /// It ended badly.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        let status = self.sandbox.wait().await?;
        if !status.success() {
            bail!("{}", self.last_words());
        }
        Ok(())
    }

    /// Ends it, and waits until nothing is left of it.
    ///
    /// # Errors
    /// It does not end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        stop(&self.address).await?;
        drop(self.input.take());
        timeout(STOP_PATIENCE, self.sandbox.wait())
            .await
            .context("the mesh does not end; kill its process `mesh sandbox enter`")??;
        Ok(())
    }

    async fn answers(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            if self.sandbox.try_wait()?.is_some() {
                // Its last words may still be on the way.
                sleep(Duration::from_millis(50)).await;
                bail!("{}", self.last_words());
            }
            if let Ok(mut client) = self.address.local().await
                && let Ok(Ok(_)) =
                    timeout(Duration::from_secs(2), client.list(ListRequest {})).await
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the mesh does not answer after {START_PATIENCE:?}");
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn last_words(&self) -> String {
        let words = self.words.lock().unwrap_or_else(|e| e.into_inner());
        match words.is_empty() {
            true => "the mesh ended without a word: was it killed?".into(),
            false => words.join("\n").trim_start_matches("mesh: ").to_owned(),
        }
    }
}

/// Waits until all workloads of a running mesh are ready.
///
/// # Errors
/// Not in this time: says which pods are not ready, and why.
pub async fn ready(mesh: &LocalMesh, patience: Duration) -> anyhow::Result<ListResponse> {
    let mut client = mesh.local().await?;
    let deadline = Instant::now() + patience;
    loop {
        let list = client.list(ListRequest {}).await?.into_inner();
        if list.ready {
            return Ok(list);
        }
        if Instant::now() > deadline {
            bail!("not ready after {patience:?}:\n{}", unready(&list));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Ends a running mesh. It is gone when nothing listens on its socket any more.
///
/// # Errors
/// It does not end.
pub async fn stop(mesh: &LocalMesh) -> anyhow::Result<()> {
    // One that ends by itself just now does not answer.
    if let Ok(mut client) = mesh.local().await {
        let _ = client.down(DownRequest {}).await;
    }
    let deadline = Instant::now() + STOP_PATIENCE;
    while mesh.local().await.is_ok() {
        if Instant::now() > deadline {
            bail!(
                "the mesh {} does not end; kill its process `mesh sandbox enter`",
                mesh.name
            );
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Which pods are not ready, and why: a line each.
pub(crate) fn unready(list: &ListResponse) -> String {
    let mut lines: Vec<String> = list
        .pods
        .iter()
        .filter(|pod| !pod.ready)
        .map(|pod| {
            let reason = if pod.reason.is_empty() {
                &pod.phase
            } else {
                &pod.reason
            };
            format!("  {}/{}: {reason}", pod.namespace, pod.name)
        })
        .collect();
    if !list.controller_running {
        lines.push("  the controller does not run: see `mesh local logs controller`".into());
    }
    lines.join("\n")
}

impl From<Options> for Config {
    fn from(options: Options) -> Self {
        Self {
            name: options.name,
            manifests: options.manifests,
            namespace: options.namespace,
            inject: options.inject,
            leaf_lifetime: options.leaf_lifetime,
            root_lifetime: options.root_lifetime,
            log_level: options.log_level,
            detached: options.detached,
            proxy_args: options.proxy_args,
            env: options.env,
        }
    }
}
