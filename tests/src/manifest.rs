//! Standard manifests, as a user would write them.

use serde_json::{Value, json};

/// A Deployment with a Service (unless it has no ports) and a ServiceAccount, all of one name.
#[derive(Clone)]
pub struct App {
    name: String,
    namespace: String,
    replicas: u32,
    command: Vec<String>,
    ports: Vec<(u16, Option<&'static str>)>,
    meshed: bool,
    headless: bool,
    probe: Option<Value>,
    annotations: serde_json::Map<String, Value>,
    user: Option<u32>,
}

impl App {
    /// One meshed replica in the namespace "default".
    pub fn new<S: Into<String>>(name: &str, command: impl IntoIterator<Item = S>) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            replicas: 1,
            command: command.into_iter().map(Into::into).collect(),
            ports: Vec::new(),
            meshed: true,
            headless: false,
            probe: None,
            annotations: serde_json::Map::new(),
            user: None,
        }
    }

    /// A pod from which the test sends requests.
    pub fn client(name: &str) -> Self {
        Self::new(name, ["sleep", "100000"])
    }

    /// How many pods.
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// A port of which nothing is said.
    pub fn port(mut self, port: u16) -> Self {
        self.ports.push((port, None));
        self
    }

    /// A port with an `appProtocol`.
    pub fn port_of(mut self, port: u16, protocol: &'static str) -> Self {
        self.ports.push((port, Some(protocol)));
        self
    }

    /// Not meshed.
    pub fn plain(mut self) -> Self {
        self.meshed = false;
        self
    }

    /// A Service without a ClusterIP.
    pub fn headless(mut self) -> Self {
        self.headless = true;
        self
    }

    /// Ready when this path answers.
    pub fn ready_at(mut self, path: &str, port: u16) -> Self {
        self.probe = Some(json!({
            "httpGet": {"path": path, "port": port},
            "periodSeconds": 1,
        }));
        self
    }

    /// Ready when this port accepts.
    pub fn ready_on(mut self, port: u16) -> Self {
        self.probe = Some(json!({"tcpSocket": {"port": port}, "periodSeconds": 1}));
        self
    }

    /// An annotation on the pods.
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.insert(name.to_owned(), value.into());
        self
    }

    /// The user id of the containers.
    pub fn user(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    /// The documents.
    pub fn yaml(&self) -> String {
        let meta = || json!({"name": self.name, "namespace": self.namespace});
        let inject = if self.meshed { "enabled" } else { "disabled" };
        let labels = json!({"app": self.name, "mesh.internal/inject": inject});
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|(port, _)| json!({"containerPort": port}))
            .collect();
        let mut container = json!({"name": "app", "command": self.command, "ports": ports});
        if let Some(probe) = &self.probe {
            container["readinessProbe"] = probe.clone();
        }
        if let Some(user) = self.user {
            container["securityContext"] = json!({"runAsUser": user});
        }
        let mut documents = vec![
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta()}),
            json!({
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": meta(),
                "spec": {
                    "replicas": self.replicas,
                    "selector": {"matchLabels": {"app": self.name}},
                    "template": {
                        "metadata": {"labels": labels, "annotations": self.annotations},
                        "spec": {"serviceAccountName": self.name, "containers": [container]},
                    },
                },
            }),
        ];
        if !self.ports.is_empty() {
            documents.push(self.service(meta()));
        }
        // JSON is YAML.
        documents
            .iter()
            .map(|document| format!("---\n{document:#}\n"))
            .collect()
    }

    fn service(&self, meta: Value) -> Value {
        let port = |(port, protocol): &(u16, Option<&str>)| {
            let mut entry = json!({"name": format!("p{port}"), "port": port, "targetPort": port});
            if let Some(protocol) = protocol {
                entry["appProtocol"] = (*protocol).into();
            }
            entry
        };
        let ports: Vec<Value> = self.ports.iter().map(port).collect();
        let mut spec = json!({"selector": {"app": self.name}, "ports": ports});
        if self.headless {
            spec["clusterIP"] = "None".into();
        }
        json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
    }
}
