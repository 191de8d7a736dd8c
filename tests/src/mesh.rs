//! A running mesh.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use mesh_api::local::{
    DeletePodRequest, ListRequest, ListResponse, Pod, RestartRequest, ScaleRequest, SignalRequest,
    local_client::LocalClient, signal_request::Target,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::{
    Output, Running, Snapshot, Turn, binary,
    leftovers::{Family, command_line, descendants},
    local,
    manifest::App,
};

/// How to start a mesh.
#[derive(Default)]
pub struct Options {
    /// More arguments for `mesh up`.
    pub arguments: Vec<String>,
}

/// A mesh of this test alone. Its drop ends it and asserts that nothing is left of it.
pub struct Mesh {
    name: String,
    child: Child,
    client: LocalClient<Channel>,
    runtime: Runtime,
    before: Snapshot,
    family: Family,
    ended: bool,
    folder: tempfile::TempDir,
    _turn: Turn,
}

impl Mesh {
    /// Runs `apps` with `mesh up` and waits until all of them are ready. `None`, and a printed reason, where
    /// the system does not let this user make namespaces.
    ///
    /// # Panics
    /// The mesh does not become ready in 60 s: shows its output.
    pub fn up(test: &str, apps: &[App], options: &Options) -> Option<Self> {
        let manifests: String = apps.iter().map(App::yaml).collect();
        Self::up_with(test, &manifests, options)
    }

    /// The same, of manifests as text.
    ///
    /// # Panics
    /// As [`Mesh::up`].
    pub fn up_with(test: &str, manifests: &str, options: &Options) -> Option<Self> {
        if let Err(why) = namespaces_possible() {
            crate::skip(test, &why);
            return None;
        }
        let turn = Turn::wait();
        println!("{test}:");
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{}-{number}", std::process::id());
        let folder = tempfile::tempdir().expect("a folder for the test");
        for path in ["tmp", "run", "manifests", "shared"] {
            fs::create_dir(folder.path().join(path)).expect("a folder for the test");
        }
        fs::write(folder.path().join("manifests/apps.yaml"), manifests).expect("the manifests");

        let before = Snapshot::take();
        let log = File::create(folder.path().join("log")).expect("a log file");
        let mut child = Command::new(binary::mesh())
            .args(["up", "--name", &name, "--file"])
            .arg(folder.path().join("manifests"))
            .args(&options.arguments)
            .env("TMPDIR", folder.path().join("tmp"))
            .env("XDG_RUNTIME_DIR", folder.path().join("run"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .spawn()
            .expect("mesh starts");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let client = wait_ready(&runtime, &mut child, &name, folder.path());
        let family = Family::of(child.id());
        Some(Self {
            name,
            child,
            client,
            runtime,
            before,
            family,
            ended: false,
            folder,
            _turn: turn,
        })
    }

    /// A folder of the host that the pods see, too.
    pub fn shared(&self) -> PathBuf {
        self.folder.path().join("shared")
    }

    /// The folder whose manifests `mesh up` watches.
    pub fn manifests(&self) -> PathBuf {
        self.folder.path().join("manifests")
    }

    /// Its `--name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The outer process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that runs, now.
    ///
    /// # Panics
    /// The mesh does not answer.
    pub fn list(&self) -> ListResponse {
        let mut client = self.client.clone();
        let call = client.list(ListRequest {});
        self.runtime
            .block_on(call)
            .expect("the mesh answers")
            .into_inner()
    }

    /// The pods of a Deployment that are not on their way out, by name.
    pub fn pods(&self, workload: &str) -> Vec<Pod> {
        let mut pods = self.list().pods;
        pods.retain(|pod| pod.workload == workload && pod.phase != "Terminating");
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        pods
    }

    /// The one pod of a Deployment as "namespace/name".
    ///
    /// # Panics
    /// It has none.
    pub fn pod(&self, workload: &str) -> String {
        let pods = self.pods(workload);
        let pod = pods
            .first()
            .unwrap_or_else(|| panic!("{workload} has no pod"));
        path(pod)
    }

    /// Starts a command in a pod ("namespace/name"; empty: in the node).
    pub fn start<S: Into<String>>(
        &self,
        pod: &str,
        command: impl IntoIterator<Item = S>,
    ) -> Running {
        let command = command.into_iter().map(Into::into).collect();
        let handle = self.runtime.handle();
        Running::start(handle, self.client.clone(), pod, command, HashMap::new())
    }

    /// Runs a command in a pod to its end, at most two minutes.
    pub fn exec<S: Into<String>>(&self, pod: &str, command: impl IntoIterator<Item = S>) -> Output {
        self.start(pod, command).wait(Duration::from_secs(120))
    }

    /// The proxy's `/metrics`.
    pub fn metrics(&self, pod: &str) -> String {
        self.admin(pod, "metrics")
    }

    /// An answer of a proxy's admin server, asked from within its pod.
    pub fn admin(&self, pod: &str, path: &str) -> String {
        let url = format!("http://127.0.0.1:4191/{path}");
        self.exec(pod, ["curl", "-s", "-S", "--max-time", "5", &url])
            .good()
    }

    /// Starts a rolling restart.
    pub fn restart(&self, workload: &str) {
        let (namespace, name) = ("default".to_owned(), workload.to_owned());
        let mut client = self.client.clone();
        let call = client.restart(RestartRequest { namespace, name });
        self.runtime.block_on(call).expect("a restart");
    }

    /// Changes the number of replicas.
    pub fn scale(&self, workload: &str, replicas: u32) {
        let (namespace, name) = ("default".to_owned(), workload.to_owned());
        let mut client = self.client.clone();
        let call = client.scale(ScaleRequest {
            namespace,
            name,
            replicas,
        });
        self.runtime.block_on(call).expect("a new scale");
    }

    /// Ends a pod; with a grace of 0 by SIGKILL.
    pub fn delete(&self, pod: &Pod, grace_s: u32) {
        let (namespace, pod) = (pod.namespace.clone(), pod.name.clone());
        let mut client = self.client.clone();
        let call = client.delete_pod(DeletePodRequest {
            namespace,
            pod,
            grace_s,
        });
        self.runtime.block_on(call).expect("a deletion");
    }

    /// Sends a signal; with `hold` the process is not started again.
    pub fn signal(&self, target: Target, signal: Signal, hold: bool) {
        self.signalled(SignalRequest {
            signal: signal as i32,
            hold,
            resume: false,
            target: Some(target),
        });
    }

    /// Starts a held process again.
    pub fn resume(&self, target: Target) {
        self.signalled(SignalRequest {
            signal: 0,
            hold: false,
            resume: true,
            target: Some(target),
        });
    }

    fn signalled(&self, request: SignalRequest) {
        let mut client = self.client.clone();
        let call = client.signal(request);
        self.runtime.block_on(call).expect("a signal");
    }

    /// Waits until `condition` holds for the list.
    ///
    /// # Panics
    /// It does not within `patience`.
    pub fn wait_until(
        &self,
        what: &str,
        patience: Duration,
        condition: impl Fn(&ListResponse) -> bool,
    ) {
        let end = Instant::now() + patience;
        loop {
            let list = self.list();
            if condition(&list) {
                return;
            }
            assert!(
                Instant::now() < end,
                "not within {patience:?}: {what}: {list:#?}"
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// A command of the CLI, on this mesh.
    pub fn cli(&self, arguments: &[&str]) -> std::process::Output {
        self.cli_command(arguments).output().expect("mesh starts")
    }

    /// The same, not yet started.
    pub fn cli_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary::mesh());
        command
            .args(arguments)
            .env("MESH_NAME", &self.name)
            .stdin(Stdio::null());
        command
    }

    /// A command of the CLI that prints JSON.
    ///
    /// # Panics
    /// It fails, or prints something else.
    pub fn cli_json(&self, arguments: &[&str]) -> Value {
        let output = self.cli(&[arguments, &["-o", "json"]].concat());
        let text = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "mesh {arguments:?}: {text}{error}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// Resident memory of a pod's proxy, bytes.
    ///
    /// # Panics
    /// There is no such process.
    pub fn proxy_memory(&self, pod: &str) -> u64 {
        let name = pod.rsplit('/').next().unwrap_or(pod);
        let is_proxy = |pid: &u32| {
            let line = command_line(*pid);
            line.contains("proxy run") && line.contains(&format!("--pod {name}"))
        };
        let pid = descendants(self.id()).into_iter().find(is_proxy);
        let pid = pid.unwrap_or_else(|| panic!("{pod} has no proxy process"));
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: u64 = line
            .and_then(|line| line.split_whitespace().next()?.parse().ok())
            .unwrap_or_else(|| panic!("no VmRSS for process {pid}"));
        kib * 1024
    }

    /// Sends a signal to the outer process, waits for its end, and asserts that nothing is left.
    pub fn end(&mut self, signal: Signal) {
        self.family = Family::of(self.id());
        let _ = kill(Pid::from_raw(self.id() as i32), signal);
        self.assert_ended();
    }

    /// Asserts that the outer process ends by itself now, and that nothing is left.
    pub fn assert_ended(&mut self) {
        self.ended = true;
        let start = Instant::now();
        let end = start + Duration::from_secs(20);
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() > end {
                let _ = self.child.kill();
                let _ = self.child.wait();
                panic!("mesh up did not end in 20 s:\n{}", log(self.folder.path()));
            }
            thread::sleep(Duration::from_millis(20));
        }
        let folder = self.folder.path();
        for own in ["tmp", "run"] {
            self.before
                .assert_nothing_left(&self.name, &self.family, &folder.join(own));
        }
        crate::figure!("nothing left after {:.1} s", start.elapsed().as_secs_f64());
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("--- mesh up said ---\n{}", log(self.folder.path()));
            if !self.ended {
                println!("{}", self.logs());
                let _ = kill(Pid::from_raw(self.id() as i32), Signal::SIGKILL);
                let _ = self.child.wait();
            }
            return;
        }
        if !self.ended {
            self.end(Signal::SIGTERM);
        }
    }
}

impl Mesh {
    /// The end of what every pod and the controller have printed.
    pub fn logs(&self) -> String {
        let sources = self.list_sources();
        sources
            .iter()
            .map(|source| logs(&self.name, source))
            .collect()
    }

    /// What has logs; nothing when the mesh does not answer any more.
    fn list_sources(&self) -> Vec<String> {
        let mut client = self.client.clone();
        let list = self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(2), client.list(ListRequest {})).await
        });
        match list {
            Ok(Ok(list)) => {
                let pods = list.into_inner().pods;
                pods.iter()
                    .map(path)
                    .chain(["controller".to_owned()])
                    .collect()
            }
            _ => Vec::new(),
        }
    }
}

/// A pod as "namespace/name".
pub fn path(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

/// Whether this user can make the namespaces that a mesh needs.
///
/// # Errors
/// What does not work.
pub fn namespaces_possible() -> Result<(), String> {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    match command
        .args(["--net", "--mount", "--pid", "--fork", "true"])
        .output()
    {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "this user can't make namespaces: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Err(format!(
            "unshare, to see whether namespaces are possible: {error}"
        )),
    }
}

fn wait_ready(
    runtime: &Runtime,
    child: &mut Child,
    name: &str,
    folder: &Path,
) -> LocalClient<Channel> {
    let start = Instant::now();
    let mut last = String::new();
    while start.elapsed() < Duration::from_secs(60) {
        if let Ok(Some(status)) = child.try_wait() {
            panic!("mesh up ended with {status}:\n{}", log(folder));
        }
        let list = runtime.block_on(async {
            let mut client = local::connect(name).await.ok()?;
            let list = client.list(ListRequest {}).await.ok()?.into_inner();
            Some((client, list))
        });
        if let Some((client, list)) = list {
            if list.ready {
                crate::figure!("ready after {:.1} s", start.elapsed().as_secs_f64());
                return client;
            }
            last = format!("{list:#?}");
        }
        thread::sleep(Duration::from_millis(50));
    }
    let controller = logs(name, "controller");
    let _ = child.kill();
    let _ = child.wait();
    panic!(
        "not ready after 60 s:\n{last}\n{}\n{controller}",
        log(folder)
    );
}

fn log(folder: &Path) -> String {
    fs::read_to_string(folder.join("log")).unwrap_or_default()
}

/// The end of what a part of the mesh has printed.
fn logs(name: &str, source: &str) -> String {
    let output = Command::new(binary::mesh())
        .args(["local", "logs", "--name", name, source])
        .output();
    // What went wrong instead is worth a line too.
    let text = match output {
        Ok(output) => {
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned())
        }
        Err(error) => [error.to_string(), String::new()],
    }
    .concat();
    let lines: Vec<_> = text.lines().rev().take(40).collect();
    let lines: String = lines.iter().rev().map(|line| format!("{line}\n")).collect();
    format!("--- {source} ---\n{lines}")
}
