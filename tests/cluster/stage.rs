//! The cluster under test: what is applied to it, what runs in its pods, and that nothing of it stays.

use std::{
    env,
    path::PathBuf,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Pod},
};
use kube::{
    Api, Client, ResourceExt,
    api::{AttachParams, DeleteParams, DynamicObject, ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, GroupVersionKind},
};
use mesh_api::names;
use mesh_tests::{Output, binary};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, runtime::Runtime, task::JoinHandle};

use crate::workload::{self, MESHED, PLAIN};

/// Nodes may be slow and shared; whatever a test waits for comes within this, or never.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// A cluster that has no mesh. Dropped, it has none again.
pub(crate) struct Stage {
    pub(crate) registry: String,
    runtime: Runtime,
    client: Client,
    kubeconfig: PathBuf,
}

impl Stage {
    /// `None` where there is no cluster for it; the reason is printed.
    pub(crate) fn new(test: &str) -> Option<Self> {
        let Some(kubeconfig) = env::var_os("KUBECONFIG").filter(|path| !path.is_empty()) else {
            mesh_tests::skip(test, "KUBECONFIG is not set");
            return None;
        };
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let kubeconfig = PathBuf::from(kubeconfig);
        let runtime = Runtime::new().expect("a runtime");
        let client = runtime.block_on(async {
            let file = Kubeconfig::read_from(&kubeconfig).expect("the file that KUBECONFIG names");
            let options = KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(file, &options).await;
            Client::try_from(config.expect("a usable kubeconfig")).expect("a client")
        });
        let registry = env::var("MESH_TEST_REGISTRY");
        let registry = registry.unwrap_or_else(|_| names::IMAGE_REGISTRY.to_owned());
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let mesh = runtime.block_on(namespaces.get_opt(names::SYSTEM_NAMESPACE));
        if mesh.expect("an answer of the cluster").is_some() {
            mesh_tests::skip(
                test,
                "the cluster has a mesh: run mesh uninstall --apply first",
            );
            return None;
        }
        let stage = Self {
            registry,
            runtime,
            client,
            kubeconfig,
        };
        // Of a run that was killed.
        stage.remove_namespaces();
        for name in [MESHED, PLAIN] {
            stage.apply(
                "",
                &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
            );
        }
        if let Some(missing) = stage.missing_image() {
            mesh_tests::skip(
                test,
                &format!(
                    "no node can run an image: {missing}. See install/README.md, or set MESH_TEST_REGISTRY"
                ),
            );
            return None;
        }
        Some(stage)
    }

    /// Why an image does not start, if one does not.
    fn missing_image(&self) -> Option<String> {
        let programs = ["mesh-proxy", "mesh-controller", "mesh-testapp"];
        for program in programs {
            let pod = workload::program(program, &self.image(program));
            self.apply(PLAIN, &pod);
        }
        programs.into_iter().find_map(|program| {
            let said = self.until(&format!("{program} has started or can't"), || {
                let pod: Pod = self.get(PLAIN, program)?;
                let states = pod.status?.container_statuses?;
                let state = states.into_iter().next()?.state?;
                match (state.waiting, state.terminated) {
                    (Some(waiting), _) if waiting.reason.as_deref()? == "ContainerCreating" => None,
                    (Some(waiting), _) => Some(waiting.message.or(waiting.reason)),
                    (_, Some(_)) => Some(None),
                    _ => None,
                }
            });
            self.delete::<Pod>(PLAIN, program);
            said
        })
    }

    /// An image of the version that is tested.
    pub(crate) fn image(&self, program: &str) -> String {
        format!("{}/{program}:{}", self.registry, env!("CARGO_PKG_VERSION"))
    }

    /// Asks again and again until there is an answer.
    ///
    /// # Panics
    /// There is none in time.
    pub(crate) fn until<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            assert!(started.elapsed() < PATIENCE, "in vain: {what}");
            sleep(Duration::from_millis(500));
        }
    }

    /// Applies an object as the test, and returns what came of it.
    pub(crate) fn apply(&self, namespace: &str, object: &Value) -> DynamicObject {
        let text = |field: &str| object[field].as_str().expect("a type").to_owned();
        let (version, kind) = (text("apiVersion"), text("kind"));
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
        let api: Api<DynamicObject> = match namespace {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        };
        let name = object["metadata"]["name"].as_str().expect("a name");
        let params = PatchParams::apply("mesh-tests").force();
        let patch = Patch::Apply(object);
        self.runtime
            .block_on(api.patch(name, &params, &patch))
            .unwrap_or_else(|error| panic!("{kind} {name}: {error}"))
    }

    /// Changes an object by a merge patch.
    pub(crate) fn patch<K: Namespaced>(&self, namespace: &str, name: &str, change: &Value) {
        let patched = self.runtime.block_on(self.api::<K>(namespace).patch(
            name,
            &PatchParams::default(),
            &Patch::Merge(change),
        ));
        patched.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// The same, merging lists by their items' names.
    pub(crate) fn strategic<K: Namespaced>(&self, namespace: &str, name: &str, change: &Value) {
        let patched = self.runtime.block_on(self.api::<K>(namespace).patch(
            name,
            &PatchParams::default(),
            &Patch::Strategic(change),
        ));
        patched.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    pub(crate) fn get<K: Namespaced>(&self, namespace: &str, name: &str) -> Option<K> {
        let found = self
            .runtime
            .block_on(self.api::<K>(namespace).get_opt(name));
        found.expect("an answer of the cluster")
    }

    pub(crate) fn list<K: Namespaced>(&self, namespace: &str, labels: &str) -> Vec<K> {
        let params = ListParams::default().labels(labels);
        let list = self
            .runtime
            .block_on(self.api::<K>(namespace).list(&params));
        list.expect("an answer of the cluster").items
    }

    /// Everything of a kind in all namespaces.
    pub(crate) fn list_all<K: Listed>(&self, labels: &str) -> Vec<K> {
        let params = ListParams::default().labels(labels);
        let list = self
            .runtime
            .block_on(async { Api::<K>::all(self.client.clone()).list(&params).await });
        list.expect("an answer of the cluster").items
    }

    pub(crate) fn delete<K: Namespaced>(&self, namespace: &str, name: &str) {
        let params = DeleteParams::default();
        let deleted = self
            .runtime
            .block_on(self.api::<K>(namespace).delete(name, &params));
        deleted.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Waits until a Deployment's pods are those that it wants, ready, and no others are there.
    pub(crate) fn rollout(&self, namespace: &str, name: &str) {
        self.until(&format!("deploy/{name} in {namespace}"), || {
            let deployment: Deployment = self.get(namespace, name)?;
            let wanted = deployment.spec.replicas?;
            let status = deployment.status?;
            let is_current = status.observed_generation >= deployment.metadata.generation;
            let counts = [
                status.replicas,
                status.updated_replicas,
                status.available_replicas,
            ];
            (is_current && counts.into_iter().all(|count| count.unwrap_or(0) == wanted))
                .then_some(())
        });
    }

    /// The pods of an app that are not ending, by name.
    pub(crate) fn pods(&self, namespace: &str, app: &str) -> Vec<Pod> {
        let mut pods: Vec<Pod> = self.list(namespace, &format!("app={app}"));
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        pods.sort_by_key(ResourceExt::name_any);
        pods
    }

    /// Runs `mesh-testapp` in the first pod of an app, to its end.
    pub(crate) fn testapp(&self, namespace: &str, app: &str, arguments: &str) -> Output {
        let started = self.start(namespace, app, arguments);
        self.end(started)
    }

    /// Starts `mesh-testapp` in the first pod of an app.
    pub(crate) fn start(&self, namespace: &str, app: &str, arguments: &str) -> JoinHandle<Output> {
        let pods = self.pods(namespace, app);
        let pod = pods.first().expect("a pod").name_any();
        self.start_in(namespace, pod, arguments)
    }

    /// The same in this pod, which may be ending.
    pub(crate) fn start_in(
        &self,
        namespace: &str,
        pod: String,
        arguments: &str,
    ) -> JoinHandle<Output> {
        let mut command = vec!["/mesh-testapp".to_owned()];
        command.extend(arguments.split_whitespace().map(str::to_owned));
        let api: Api<Pod> = self.api(namespace);
        self.runtime
            .spawn(async move { exec(api, &pod, command).await })
    }

    pub(crate) fn end<T>(&self, started: JoinHandle<T>) -> T {
        self.runtime.block_on(started).expect("a task")
    }

    /// A command line of `mesh`, to be run against this cluster.
    pub(crate) fn command(&self, words: &str) -> Command {
        let mut command = Command::new(binary::mesh());
        command
            .args(words.split_whitespace())
            .env("KUBECONFIG", &self.kubeconfig)
            .env_remove("MESH_NAME")
            .env_remove("MESH_NAMESPACE");
        command
    }

    /// Runs `mesh`, and returns its standard output.
    ///
    /// # Panics
    /// It fails.
    pub(crate) fn mesh(&self, words: &str) -> String {
        let said = self.command(words).output().expect("mesh runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            said.status.success(),
            "mesh {words}\n{}{}",
            text(&said.stdout),
            text(&said.stderr)
        );
        text(&said.stdout)
    }

    /// Runs `mesh … -o json`.
    pub(crate) fn json(&self, words: &str) -> Value {
        let said = self.mesh(&format!("{words} -o json"));
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error} in {said}"))
    }

    pub(crate) fn api<K: Namespaced>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn remove_namespaces(&self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let params = DeleteParams::default();
        for name in [MESHED, PLAIN] {
            let gone = async {
                let _ = namespaces.delete(name, &params).await;
                while let Ok(Some(_)) = namespaces.get_opt(name).await {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            };
            let gone = async { tokio::time::timeout(PATIENCE, gone).await };
            if self.runtime.block_on(gone).is_err() {
                println!("the namespace {name} does not end");
            }
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Where all went well, it is uninstalled already.
        let _ = self.command("uninstall --apply").output();
        self.remove_namespaces();
    }
}

/// A kind that lives in namespaces.
pub(crate) trait Namespaced:
    kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Listed
{
}

impl<K> Namespaced for K where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope> + Listed
{
}

/// A kind that can be read.
pub(crate) trait Listed:
    kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned
{
}

impl<K> Listed for K where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned
{
}

/// Runs a command in the container `app` of a pod.
async fn exec(pods: Api<Pod>, pod: &str, command: Vec<String>) -> Output {
    let params = AttachParams::default().container(workload::CONTAINER);
    let mut running = pods
        .exec(pod, &command, &params)
        .await
        .unwrap_or_else(|error| panic!("exec in {pod}: {error}"));
    let (mut stdout, mut stderr) = (String::new(), String::new());
    let (mut out, mut err) = (
        running.stdout().expect("a pipe"),
        running.stderr().expect("a pipe"),
    );
    let status = running.take_status().expect("a status");
    let read = tokio::join!(
        out.read_to_string(&mut stdout),
        err.read_to_string(&mut stderr)
    );
    assert!(read.0.is_ok() && read.1.is_ok(), "text");
    let good = status
        .await
        .is_some_and(|status| status.status.as_deref() == Some("Success"));
    Output {
        code: i32::from(!good),
        stdout,
        stderr,
    }
}
