//! Replicas of the controller, each a process of its own on one API server.

use std::{
    fs::File,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use k8s_openapi::{
    ByteString,
    api::{
        coordination::v1::Lease,
        core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount},
    },
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use mesh_api::names;
use mesh_tests::{binary, cluster::Cluster, ports::free_ports};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use tokio::time::{sleep, timeout};

/// Whatever a test waits for comes within this: an election takes 15 s, everything here shares few cores.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One replica. Dropped, it is killed.
pub(crate) struct Replica {
    pub(crate) pod: String,
    pub(crate) proxies: SocketAddr,
    pub(crate) webhook: SocketAddr,
    admin: SocketAddr,
    child: Child,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

impl Replica {
    /// Starts one; it need not become ready.
    pub(crate) fn start(cluster: &Cluster, pod: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = folder.path().join("log");
        let [proxies, webhook, admin, observe] = free_ports();
        let output = File::create(&log).expect("a log");
        let child = Command::new(binary::mesh())
            .args(["controller", "run", "--source", "kubernetes", "--pod", pod])
            .arg(format!("--listen={proxies}"))
            .arg(format!("--webhook-listen={webhook}"))
            .arg(format!("--admin-listen={admin}"))
            .arg(format!("--observe-listen={observe}"))
            .args(["--log-level", "info,mesh_controller=debug"])
            .args(more)
            .env("KUBECONFIG", cluster.kubeconfig())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .expect("the controller starts");
        Self {
            pod: pod.into(),
            proxies,
            webhook,
            admin,
            child,
            log,
            _folder: folder,
        }
    }

    /// Waits until it says that it is ready.
    pub(crate) async fn ready(&self) {
        until(&format!("{} is ready", self.pod), async || {
            self.get("/ready").await.filter(|(code, _)| *code == 200)
        })
        .await;
    }

    /// A page of its admin port: status and body.
    pub(crate) async fn get(&self, path: &str) -> Option<(u16, String)> {
        use http_body_util::{BodyExt, Empty};
        let stream = tokio::net::TcpStream::connect(self.admin).await.ok()?;
        let stream = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.ok()?;
        tokio::spawn(connection);
        let request = http::Request::get(path)
            .header("host", "controller")
            .body(Empty::<bytes::Bytes>::new())
            .ok()?;
        let response = sender.send_request(request).await.ok()?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// The sum of a metric's samples.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").await.unwrap_or_default();
        let samples = text.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        samples
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"));
        kill(pid, signal).expect("it runs");
    }

    /// Ends it as the kubelet does, and waits for the end.
    pub(crate) async fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let ended = timeout(Duration::from_secs(20), async {
            loop {
                if let Some(status) = self.child.try_wait().expect("a child") {
                    return status;
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
        ended.await.expect("it ends in 20 s")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("---- log of {}\n{}", self.pod, self.log());
        }
    }
}

/// Asks again and again until there is an answer.
///
/// # Panics
/// There is none in time.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(started.elapsed() < PATIENCE, "in vain: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// An API server with the controller's namespace.
pub(crate) async fn cluster(test: &str) -> Option<(Cluster, Client)> {
    let Some(cluster) = Cluster::start() else {
        mesh_tests::skip(test, "no API server");
        return None;
    };
    let client = cluster.client().await;
    namespace(&client, names::SYSTEM_NAMESPACE, None).await;
    Some((cluster, client))
}

/// Creates a namespace, or changes its label.
pub(crate) async fn namespace(client: &Client, name: &str, inject: Option<&str>) {
    let api: Api<Namespace> = Api::all(client.clone());
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": inject.map(|inject| json!({names::LABEL_INJECT: inject}))},
    });
    let params = PatchParams::apply("test").force();
    api.patch(name, &params, &Patch::Apply(namespace))
        .await
        .expect("a namespace");
    // What a controller-manager would do, and the API server wants before it takes pods.
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), name);
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    accounts
        .patch("default", &params, &Patch::Apply(account))
        .await
        .expect("a service account");
}

/// Who holds the Lease.
pub(crate) async fn leader(client: &Client) -> Option<String> {
    let api: Api<Lease> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    let lease = api.get_opt(names::CONTROLLER).await.expect("the Lease")?;
    lease.spec?.holder_identity
}

/// The roots that the Secret holds: their certificates, in order.
pub(crate) async fn roots(client: &Client) -> Option<Vec<serde_json::Value>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    let secret = api.get_opt(names::CA_SECRET).await.expect("the Secret")?;
    let ByteString(text) = secret.data?.remove(names::CA_KEY)?;
    serde_json::from_slice(&text).expect("roots")
}

/// The trust bundle in a namespace.
pub(crate) async fn bundle(client: &Client, namespace: &str) -> Option<String> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = api
        .get_opt(names::TRUST_CONFIG_MAP)
        .await
        .expect("an answer")?;
    map.data?.remove(names::TRUST_KEY)
}

/// The same of all roots of the Secret.
pub(crate) async fn pem_of_roots(client: &Client) -> String {
    let roots = roots(client).await.expect("roots");
    roots
        .iter()
        .map(|root| root["certificate_pem"].as_str().expect("PEM"))
        .collect()
}

/// A Secret of the controller's namespace.
pub(crate) async fn put_secret(client: &Client, name: &str, data: &[(&str, &str)]) {
    let api: Api<Secret> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": name}, "type": "kubernetes.io/tls",
        "stringData": data.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
    }))
    .expect("a Secret");
    match api.create(&PostParams::default(), &secret).await {
        Ok(_) => {}
        Err(_) => {
            let patch = json!({"stringData": secret.string_data});
            api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
                .await
                .expect("the Secret changes");
        }
    }
}

/// A pod of one container, as its owner writes it.
pub(crate) fn pod(name: &str, mut metadata: serde_json::Value) -> Pod {
    metadata["name"] = name.into();
    let pod = json!({
        "metadata": metadata,
        "spec": {
            "serviceAccountName": "default",
            "automountServiceAccountToken": false,
            "containers": [{"name": "app", "image": "app:1"}],
        },
    });
    serde_json::from_value(pod).expect("a pod")
}
