//! What makes pods, parsed into what the engine runs.

use std::{collections::BTreeMap, hash::Hasher, path::PathBuf, time::Duration};

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::core::v1 as k8s;
use serde_json::Value;

use super::{
    names,
    probe::{Hook, Probe},
    volume::{Mount, Volume},
};

/// Pods of one workload: more than a machine can run, and less than would end it.
pub(crate) const MOST_REPLICAS: u32 = 1000;

/// What made a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Deployment,
    StatefulSet,
    DaemonSet,
    Job,
    Pod,
}

impl Kind {
    pub(super) fn of(kind: &str) -> Option<Self> {
        Some(match kind {
            "Deployment" => Self::Deployment,
            "StatefulSet" => Self::StatefulSet,
            "DaemonSet" => Self::DaemonSet,
            "Job" => Self::Job,
            "Pod" => Self::Pod,
            _ => return None,
        })
    }

    /// Whether a user means this kind: "deploy", "Deployment", "sts", …
    pub(crate) fn is_called(self, text: &str) -> bool {
        let short = match self {
            Self::Deployment => ["deploy", "deployments"],
            Self::StatefulSet => ["sts", "statefulsets"],
            Self::DaemonSet => ["ds", "daemonsets"],
            Self::Job => ["job", "jobs"],
            Self::Pod => ["po", "pods"],
        };
        let text = text.to_ascii_lowercase();
        text == self.name().to_ascii_lowercase() || short.contains(&text.as_str())
    }

    /// As in `kind:` of a manifest.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::Job => "Job",
            Self::Pod => "Pod",
        }
    }
}

/// A thing that makes pods.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) namespace: String,
    /// Pods that are wanted.
    pub(crate) replicas: u32,
    pub(crate) template: Template,
}

/// How a workload's pods look.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// Changes when anything in it does.
    pub(crate) hash: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) service_account: String,
    pub(crate) hostname: Option<String>,
    /// The headless Service under which a pod has a name of its own.
    pub(crate) subdomain: Option<String>,
    pub(crate) restart: Restart,
    /// Between SIGTERM and SIGKILL.
    pub(crate) grace: Duration,
    pub(crate) init_containers: Vec<Container>,
    pub(crate) containers: Vec<Container>,
    pub(crate) volumes: BTreeMap<String, Volume>,
    /// As written, for the controller.
    pub(crate) spec: k8s::PodSpec,
}

/// When a container that has ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    Always,
    OnFailure,
    Never,
}

/// One command of a pod.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) name: String,
    /// Command and arguments, before `$(VAR)` is expanded.
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<(String, EnvValue)>,
    /// Config maps (`false`) and secrets (`true`) whose keys become variables, with a prefix.
    pub(crate) env_from: Vec<(String, bool, String)>,
    pub(crate) dir: Option<PathBuf>,
    /// Ports and their names; TCP only.
    pub(crate) ports: Vec<u16>,
    pub(crate) readiness: Option<Probe>,
    pub(crate) liveness: Option<Probe>,
    pub(crate) startup: Option<Probe>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) pre_stop: Option<Hook>,
    pub(crate) mounts: Vec<Mount>,
}

/// Where a variable's value comes from.
#[derive(Clone, Debug)]
pub(crate) enum EnvValue {
    Literal(String),
    /// `fieldRef`: "status.podIP", "metadata.labels['app']", …
    Field(String),
    /// Config map, key, optional.
    ConfigMap(String, String, bool),
    /// Secret, key, optional.
    Secret(String, String, bool),
}

impl Workload {
    /// Of a manifest that has a pod in it.
    pub(super) fn parse(kind: Kind, namespace: &str, mut object: Value) -> anyhow::Result<Self> {
        let replicas = match kind {
            Kind::Deployment | Kind::StatefulSet => object.pointer("/spec/replicas"),
            _ => None,
        };
        let replicas = match replicas {
            None => 1,
            Some(number) => number
                .as_u64()
                .and_then(|number| number.try_into().ok())
                .filter(|number| *number <= MOST_REPLICAS)
                .with_context(|| {
                    format!("spec.replicas must be a number from 0 to {MOST_REPLICAS}")
                })?,
        };
        let service_name = object
            .pointer("/spec/serviceName")
            .and_then(Value::as_str)
            .map(str::to_owned);
        let template = if kind == Kind::Pod {
            object
        } else {
            object
                .pointer_mut("/spec/template")
                .map(Value::take)
                .context("spec.template is missing")?
        };
        let template: k8s::PodTemplateSpec =
            serde_json::from_value(template).context("the pod template is not valid")?;
        let mut template = Template::parse(template)?;
        if kind == Kind::Job && template.restart == Restart::Always {
            template.restart = Restart::OnFailure;
        }
        template.subdomain = template.subdomain.or(service_name);
        Ok(Self {
            namespace: namespace.into(),
            replicas,
            template,
        })
    }
}

impl Template {
    fn parse(template: k8s::PodTemplateSpec) -> anyhow::Result<Self> {
        let hash = hash(&template)?;
        let metadata = template.metadata.unwrap_or_default();
        let spec = template.spec.context("the pod has no spec")?;
        let user = spec.security_context.clone().unwrap_or_default();
        let ids = (user.run_as_user, user.run_as_group);
        let parse = |containers: &[k8s::Container]| {
            let parsed = containers.iter().map(|c| Container::parse(c, ids));
            parsed.collect::<anyhow::Result<Vec<_>>>()
        };
        ensure!(!spec.containers.is_empty(), "the pod has no containers");
        names::containers(&spec)?;
        Ok(Self {
            hash,
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            service_account: spec
                .service_account_name
                .clone()
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "default".into()),
            hostname: spec.hostname.clone(),
            subdomain: spec.subdomain.clone(),
            restart: match spec.restart_policy.as_deref() {
                Some("Never") => Restart::Never,
                Some("OnFailure") => Restart::OnFailure,
                _ => Restart::Always,
            },
            grace: seconds(spec.termination_grace_period_seconds, 30),
            init_containers: parse(spec.init_containers.as_deref().unwrap_or_default())?,
            containers: parse(&spec.containers)?,
            volumes: Volume::parse_all(&spec)?,
            spec,
        })
    }
}

impl Container {
    fn parse(container: &k8s::Container, ids: (Option<i64>, Option<i64>)) -> anyhow::Result<Self> {
        let name = &container.name;
        let mut command = container.command.clone().unwrap_or_default();
        if command.is_empty() {
            bail!(
                "container {name} has no command: images are not run on one machine, so say what the image's entry point would do, for example command: [\"/usr/bin/{name}\"]"
            );
        }
        command.extend(container.args.clone().unwrap_or_default());
        let own = container.security_context.clone().unwrap_or_default();
        let ports = container.ports.as_deref().unwrap_or_default();
        let probe = |what: &str, probe: &Option<k8s::Probe>| {
            let parsed = probe.as_ref().map(|probe| Probe::parse(probe, ports));
            parsed
                .transpose()
                .with_context(|| format!("container {name}: {what} is not valid"))
        };
        let hook = container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        Ok(Self {
            name: name.clone(),
            command,
            env: container.env.iter().flatten().filter_map(env).collect(),
            env_from: container
                .env_from
                .iter()
                .flatten()
                .filter_map(env_from)
                .collect(),
            dir: container.working_dir.clone().map(PathBuf::from),
            ports: tcp_ports(ports).with_context(|| format!("container {name}"))?,
            readiness: probe("readinessProbe", &container.readiness_probe)?,
            liveness: probe("livenessProbe", &container.liveness_probe)?,
            startup: probe("startupProbe", &container.startup_probe)?,
            uid: id(own.run_as_user.or(ids.0), "runAsUser")?,
            gid: id(own.run_as_group.or(ids.1), "runAsGroup")?,
            pre_stop: hook
                .map(|hook| Hook::parse(hook, ports))
                .transpose()
                .with_context(|| format!("container {name}: lifecycle.preStop is not valid"))?
                .flatten(),
            mounts: Mount::parse_all(container)?,
        })
    }
}

/// The ports on which a container says that it listens.
fn tcp_ports(ports: &[k8s::ContainerPort]) -> anyhow::Result<Vec<u16>> {
    let mut numbers = Vec::new();
    for port in ports {
        let number = names::port(port.container_port).context("its containerPort")?;
        if port.protocol.as_deref().unwrap_or("TCP") == "TCP" {
            numbers.push(number);
        }
    }
    Ok(numbers)
}

fn env(var: &k8s::EnvVar) -> Option<(String, EnvValue)> {
    let value = match &var.value_from {
        None => EnvValue::Literal(var.value.clone().unwrap_or_default()),
        Some(from) => {
            if let Some(field) = &from.field_ref {
                EnvValue::Field(field.field_path.clone())
            } else if let Some(map) = &from.config_map_key_ref {
                EnvValue::ConfigMap(
                    map.name.clone(),
                    map.key.clone(),
                    map.optional == Some(true),
                )
            } else {
                let secret = from.secret_key_ref.as_ref()?;
                let optional = secret.optional == Some(true);
                EnvValue::Secret(secret.name.clone(), secret.key.clone(), optional)
            }
        }
    };
    Some((var.name.clone(), value))
}

fn env_from(source: &k8s::EnvFromSource) -> Option<(String, bool, String)> {
    let prefix = source.prefix.clone().unwrap_or_default();
    if let Some(map) = &source.config_map_ref {
        Some((map.name.clone(), false, prefix))
    } else {
        Some((source.secret_ref.as_ref()?.name.clone(), true, prefix))
    }
}

fn id(id: Option<i64>, what: &str) -> anyhow::Result<Option<u32>> {
    id.map(u32::try_from)
        .transpose()
        .with_context(|| format!("securityContext.{what} is out of range"))
}

pub(super) fn seconds(value: Option<i64>, default: u64) -> Duration {
    Duration::from_secs(
        value
            .and_then(|value| u64::try_from(value).ok())
            .unwrap_or(default),
    )
}

/// Eight letters and digits, as in the names of a Deployment's pods.
fn hash(template: &k8s::PodTemplateSpec) -> anyhow::Result<String> {
    // The standard library promises no stable hash; this one lives for one run only.
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(&serde_json::to_vec(template)?);
    Ok(format!("{:08x}", hasher.finish() >> 32))
}
