//! A pair of proxies that runs, with the app behind it.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use super::{
    app,
    peer::{APP_PORT, Binaries, Pair, Peer, ProxyProcess, fill},
    process::{Process, Usage},
    topology::Pod,
};

/// A control plane writes files that the proxies read at their start.
const CONTROL_PLANE_START: Duration = Duration::from_millis(500);
/// For everything to be ready.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is busy with its start is not idle yet.
const CALM: Duration = Duration::from_secs(1);

/// Dropped in this order: proxies, then what they need.
pub(super) struct Running {
    client: Option<Process>,
    server: Option<Process>,
    _node: Vec<Process>,
    _app: Process,
    scratch: tempfile::TempDir,
    target: IpAddr,
    /// From the start of the client's proxy to the first answer through it. None: direct.
    pub(super) ready: Option<Duration>,
    /// Resident after the first answer, before any load: client's and server's proxy.
    pub(super) idle: [u64; 2],
}

impl Running {
    /// Starts everything and waits for the first answer through it.
    pub(super) fn start(peer: &Peer, mesh: &Binaries) -> anyhow::Result<Self> {
        let scratch = tempfile::tempdir()?;
        let folder = scratch.path().to_owned();
        write_files(peer, &folder)?;
        let app = app::start(&folder)?;
        let start = |what: &str, pod: Option<Pod>, process: &ProxyProcess| {
            let command = process.command(pod.is_some(), &folder);
            Process::start(what, pod, command, log(&folder, what)?)
        };
        let node = peer.node.iter().map(|process| start("node", None, process));
        let node = node.collect::<anyhow::Result<Vec<_>>>()?;
        if !node.is_empty() {
            std::thread::sleep(CONTROL_PLANE_START);
        }
        redirect(mesh, peer.proxies.as_ref())?;
        let proxy = |pod: Pod| {
            let pair = peer.proxies.as_ref();
            let process = pair.map(|pair| match pod {
                Pod::Client => &pair.client,
                Pod::Server => &pair.server,
            });
            process
                .map(|process| start(pod.name(), Some(pod), process))
                .transpose()
        };
        let target = peer.target.unwrap_or_else(|| Pod::Server.ip().into());
        let mut running = Self {
            server: proxy(Pod::Server)?,
            client: proxy(Pod::Client)?,
            _node: node,
            _app: app,
            scratch,
            target,
            ready: None,
            idle: [0; 2],
        };
        running.first_answer(|_| Ok(()))?;
        if running.client.take().is_some() {
            // Again, now that everything else is up: how long one proxy takes.
            running.ready = Some(running.first_answer(|running| {
                running.client = proxy(Pod::Client)?;
                Ok(())
            })?);
        }
        std::thread::sleep(CALM);
        running.idle = running.usage()?.map(|usage| usage.rss);
        Ok(running)
    }

    /// Client's and server's proxy; zero for direct.
    pub(super) fn usage(&mut self) -> anyhow::Result<[Usage; 2]> {
        let mut usage = [Usage::default(); 2];
        for (usage, process) in usage.iter_mut().zip([&mut self.client, &mut self.server]) {
            if let Some(process) = process {
                process.alive()?;
                *usage = process.usage()?;
            }
        }
        Ok(usage)
    }

    /// Starts the load generator in the client's pod, with its output and input as pipes.
    pub(super) fn load(&self, port: u16, arguments: &[&str]) -> anyhow::Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args([
                "load",
                "--address",
                &SocketAddr::new(self.target, port).to_string(),
            ])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Pod::Client
            .enter(|| command.spawn())?
            .context("starting the load generator")
    }

    /// From the call of `begin` to the first answer.
    fn first_answer(
        &mut self,
        begin: impl FnOnce(&mut Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<Duration> {
        let seconds = PATIENCE.as_secs().to_string();
        let mut waiter = self.load(APP_PORT, &["--mode", "first", "--seconds", &seconds])?;
        let output = waiter
            .stdout
            .take()
            .context("the load generator's output")?;
        let mut lines = BufReader::new(output).lines();
        // It is asking from here on.
        lines.next().transpose()?;
        let begun = Instant::now();
        begin(self)?;
        let answered = lines.next().transpose()?.is_some();
        let took = begun.elapsed();
        let output = waiter.wait_with_output()?;
        if !answered {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("{}{}", error.trim(), self.logs());
        }
        Ok(took)
    }

    fn logs(&self) -> String {
        let mut logs = String::new();
        for name in ["node", "client", "server", "app"] {
            let text = std::fs::read(self.scratch.path().join(format!("{name}.log")));
            let text = text.unwrap_or_default();
            let end = String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]);
            logs += &format!("\n--- {name}\n{end}");
        }
        logs
    }
}

fn write_files(peer: &Peer, scratch: &Path) -> anyhow::Result<()> {
    for (name, text) in &peer.files {
        let path = scratch.join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, fill(text, scratch))?;
    }
    // Proxies run as another user and must read what was written for them.
    succeed(Command::new("chmod").args(["-R", "a+rwX"]).arg(scratch))
}

/// Redirects connections to a pair of proxies; to none where there is none.
fn redirect(mesh: &Binaries, pair: Option<&Pair>) -> anyhow::Result<()> {
    for pod in [Pod::Client, Pod::Server] {
        let mut init = mesh.init();
        match pair {
            Some(pair) => init
                .args(["--outbound-port", &pair.outbound_port.to_string()])
                .args(["--inbound-port", &pair.inbound_port.to_string()]),
            None => init.arg("--remove"),
        };
        pod.enter(|| succeed(&mut init))??;
    }
    Ok(())
}

fn log(scratch: &Path, name: &str) -> anyhow::Result<File> {
    Ok(File::options()
        .create(true)
        .append(true)
        .open(scratch.join(format!("{name}.log")))?)
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
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
