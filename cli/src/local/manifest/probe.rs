//! Questions to a container, and what is done before its end.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use k8s_openapi::{api::core::v1 as k8s, apimachinery::pkg::util::intstr::IntOrString};

use super::{names, workload::seconds};

/// A question asked again and again.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) check: Check,
    pub(crate) initial_delay: Duration,
    pub(crate) period: Duration,
    pub(crate) timeout: Duration,
    pub(crate) success_threshold: u32,
    pub(crate) failure_threshold: u32,
}

/// A question to a container.
#[derive(Clone, Debug)]
pub(crate) enum Check {
    Exec(Vec<String>),
    Http {
        port: u16,
        /// With TLS; the certificate is not verified (Kubernetes' API reference, HTTPGetAction.scheme).
        tls: bool,
        host: Option<String>,
        path: String,
        headers: Vec<(String, String)>,
    },
    Tcp(u16),
    Grpc {
        port: u16,
        service: String,
    },
}

/// What is done before SIGTERM.
#[derive(Clone, Debug)]
pub(crate) enum Hook {
    Sleep(Duration),
    Do(Check),
}

impl Probe {
    pub(super) fn parse(probe: &k8s::Probe, ports: &[k8s::ContainerPort]) -> anyhow::Result<Self> {
        let count = |value: Option<i32>, default| {
            value
                .and_then(|v| u32::try_from(v).ok())
                .filter(|v| *v > 0)
                .unwrap_or(default)
        };
        let check = if let Some(exec) = &probe.exec {
            command(exec)?
        } else if let Some(get) = &probe.http_get {
            http(get, ports)?
        } else if let Some(tcp) = &probe.tcp_socket {
            Check::Tcp(port(&tcp.port, ports)?)
        } else if let Some(grpc) = &probe.grpc {
            Check::Grpc {
                port: names::port(grpc.port)?,
                service: grpc.service.clone().unwrap_or_default(),
            }
        } else {
            bail!("it has none of exec, httpGet, tcpSocket and grpc");
        };
        Ok(Self {
            check,
            initial_delay: seconds(probe.initial_delay_seconds.map(i64::from), 0),
            // No pause at all would be a busy loop; Kubernetes' least is a second too.
            period: seconds(probe.period_seconds.map(i64::from), 10).max(Duration::from_secs(1)),
            timeout: seconds(probe.timeout_seconds.map(i64::from), 1).max(Duration::from_secs(1)),
            success_threshold: count(probe.success_threshold, 1),
            failure_threshold: count(probe.failure_threshold, 3),
        })
    }
}

impl Hook {
    pub(super) fn parse(
        hook: &k8s::LifecycleHandler,
        ports: &[k8s::ContainerPort],
    ) -> anyhow::Result<Option<Self>> {
        let check = if let Some(sleep) = &hook.sleep {
            return Ok(Some(Self::Sleep(seconds(Some(sleep.seconds), 0))));
        } else if let Some(exec) = &hook.exec {
            command(exec)?
        } else if let Some(get) = &hook.http_get {
            http(get, ports)?
        } else {
            return Ok(None);
        };
        Ok(Some(Self::Do(check)))
    }
}

fn command(exec: &k8s::ExecAction) -> anyhow::Result<Check> {
    let command = exec.command.clone().unwrap_or_default();
    ensure!(!command.is_empty(), "exec.command is missing");
    Ok(Check::Exec(command))
}

fn http(get: &k8s::HTTPGetAction, ports: &[k8s::ContainerPort]) -> anyhow::Result<Check> {
    Ok(Check::Http {
        port: port(&get.port, ports)?,
        tls: match get.scheme.as_deref() {
            None | Some("HTTP") => false,
            Some("HTTPS") => true,
            Some(scheme) => bail!("httpGet.scheme {scheme:?} must be HTTP or HTTPS"),
        },
        host: get.host.clone(),
        path: get.path.clone().unwrap_or_else(|| "/".into()),
        headers: get
            .http_headers
            .iter()
            .flatten()
            .map(|header| (header.name.clone(), header.value.clone()))
            .collect(),
    })
}

fn port(port: &IntOrString, ports: &[k8s::ContainerPort]) -> anyhow::Result<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => match ports.iter().find(|p| p.name.as_ref() == Some(name)) {
            Some(port) => port.container_port,
            None => name
                .parse()
                .with_context(|| format!("the container has no port named {name}"))?,
        },
    };
    names::port(number)
}
