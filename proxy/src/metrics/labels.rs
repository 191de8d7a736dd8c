//! Label sets of the Prometheus text, in Linkerd's words.

use std::fmt;

use mesh_api::v1::{Direction, Security};
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};

use super::{EndpointLoad, PeerLabels, series::Status};

/// A set of labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Labels(Vec<(&'static str, String)>);

impl Labels {
    /// One label.
    pub(super) fn one(name: &'static str, value: &str) -> Self {
        Self(vec![(name, value.to_owned())])
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn of_peer(peer: &PeerLabels) -> Self {
        let mut labels = Self::default();
        let outbound = peer.direction == Direction::Outbound;
        labels.push("direction", if outbound { "outbound" } else { "inbound" });
        match &peer.service {
            Some(service) if peer.authority.is_empty() => {
                let (name, namespace) = (&service.name, &service.namespace);
                let host = format!("{name}.{namespace}.svc.cluster.local:{}", service.port);
                labels.0.push(("authority", host));
            }
            _ => labels.push("authority", &peer.authority),
        }
        let (tls, reason) = match peer.security {
            Security::Mtls => ("true", ""),
            Security::PeerNotMeshed if outbound => {
                ("no_identity", "not_provided_by_service_discovery")
            }
            Security::PeerNotMeshed => ("no_identity", "no_tls_from_remote"),
            Security::Outside => ("no_identity", "outside_of_the_mesh"),
            Security::AppTls => ("opaque", ""),
            Security::Loopback => ("loopback", ""),
            Security::Probe => ("no_identity", "probe"),
            Security::Unspecified => ("disabled", ""),
        };
        labels.push("tls", tls);
        labels.push("no_tls_reason", reason);
        let id = if outbound { "server_id" } else { "client_id" };
        labels.push(id, peer.identity.as_ref().map_or("", |id| id.as_str()));
        if let Some(service) = &peer.service {
            labels.push("dst_service", &service.name);
            labels.0.push(("dst_port", service.port.to_string()));
        }
        let service = peer.service.as_ref().map(|service| &service.namespace);
        let namespace = peer
            .workload
            .as_ref()
            .map(|workload| &workload.namespace)
            .or(service);
        labels.push("dst_namespace", namespace.map_or("", |namespace| namespace));
        if let Some(workload) = &peer.workload {
            labels.push(workload_label(&workload.kind), &workload.name);
        }
        labels.push("dst_pod", &peer.pod);
        labels
    }

    pub(super) fn of_endpoint(load: &EndpointLoad) -> Self {
        let mut labels = Self::default();
        if let Some(service) = &load.service {
            labels.push("dst_service", &service.name);
            labels.0.push(("dst_port", service.port.to_string()));
        }
        labels.push("dst_namespace", &load.workload.namespace);
        labels.push(workload_label(&load.workload.kind), &load.workload.name);
        labels.push("dst_pod", &load.pod);
        labels
            .0
            .push(("target_addr", load.state.address.to_string()));
        labels
    }

    pub(super) fn with_status(&self, status: Status) -> Self {
        let mut labels = self.clone();
        labels.push(
            "classification",
            if status.success { "success" } else { "failure" },
        );
        match status.http {
            // No response head arrived.
            0 => {}
            Status::OTHER => labels.push("status_code", "*"),
            code => labels.0.push(("status_code", code.to_string())),
        }
        if let Some(code) = status.grpc {
            labels.0.push(("grpc_status", code.to_string()));
        }
        labels
    }

    pub(super) fn with(&self, name: &'static str, value: &str) -> Self {
        let mut labels = self.clone();
        labels.push(name, value);
        labels
    }

    /// An empty label is the same as none.
    fn push(&mut self, name: &'static str, value: &str) {
        if !value.is_empty() {
            self.0.push((name, value.to_owned()));
        }
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }
}

/// Linkerd's label for what runs at the other end.
fn workload_label(kind: &str) -> &'static str {
    match kind {
        "deployment" => "dst_deployment",
        "statefulset" => "dst_statefulset",
        "daemonset" => "dst_daemonset",
        "job" => "dst_job",
        "cronjob" => "dst_cronjob",
        "replicaset" => "dst_replicaset",
        _ => "dst_workload",
    }
}
