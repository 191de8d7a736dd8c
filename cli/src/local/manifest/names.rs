//! What Kubernetes' API server would refuse: names, ports and selectors that can't work.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use k8s_openapi::{api::core::v1 as k8s, apimachinery::pkg::util::intstr::IntOrString};

use super::Manifests;

/// The name of a namespace, container or volume (RFC 1123, label).
pub(super) fn label(name: &str) -> anyhow::Result<()> {
    ensure!(
        name.len() <= 63 && is_label(name),
        "a name has up to 63 lower-case letters, digits and '-', and begins and ends with a letter or digit"
    );
    Ok(())
}

/// The name of most objects (RFC 1123, subdomain).
pub(super) fn subdomain(name: &str) -> anyhow::Result<()> {
    ensure!(
        name.len() <= 253 && name.split('.').all(is_label),
        "a name has lower-case letters, digits, '-' and '.', and begins and ends with a letter or digit"
    );
    Ok(())
}

/// A port from 1 to 65535.
pub(super) fn port(number: i32) -> anyhow::Result<u16> {
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    port.with_context(|| format!("{number} is not a port: take 1 to 65535"))
}

/// The containers of a pod can be told apart, also from the proxy.
pub(super) fn containers(spec: &k8s::PodSpec) -> anyhow::Result<()> {
    let mut taken = BTreeSet::from([mesh_api::names::PROXY_CONTAINER]);
    for container in spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
    {
        let name = container.name.as_str();
        label(name).with_context(|| format!("container {name:?}"))?;
        ensure!(
            taken.insert(name),
            "two containers are named {name} ({} is the proxy's name)",
            mesh_api::names::PROXY_CONTAINER
        );
    }
    Ok(())
}

/// A Service's ports are ports.
pub(super) fn service(service: &k8s::Service) -> anyhow::Result<()> {
    let ports = service.spec.iter().flat_map(|spec| &spec.ports).flatten();
    for entry in ports {
        port(entry.port).context("spec.ports")?;
        if let Some(IntOrString::Int(target)) = entry.target_port {
            port(target).context("spec.ports: targetPort")?;
        }
    }
    Ok(())
}

/// Labels that a pod gets from its workload, not from the template.
const GIVEN: [&str; 3] = [
    "pod-template-hash",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
];

/// Sentences about Services that lead nowhere: the usual reason is a name that was mistyped.
pub(super) fn services_without_pods(all: &Manifests) -> BTreeSet<String> {
    let mut warnings = BTreeSet::new();
    for ((namespace, name), service) in &all.services {
        let Some(spec) = &service.spec else { continue };
        let Some(selector) = spec.selector.as_ref().filter(|labels| !labels.is_empty()) else {
            continue;
        };
        let selected: Vec<_> = all
            .workloads
            .values()
            .filter(|workload| workload.namespace == *namespace)
            .map(|workload| &workload.template)
            .filter(|template| {
                let mut labels = selector.iter();
                labels.all(|(name, value)| {
                    GIVEN.contains(&name.as_str()) || template.labels.get(name) == Some(value)
                })
            })
            .collect();
        if selected.is_empty() {
            warnings.insert(format!(
                "service/{name} has no pods: none in namespace {namespace} has the labels {}",
                written(selector)
            ));
            continue;
        }
        let named: BTreeSet<&str> = selected
            .iter()
            .flat_map(|template| &template.spec.containers)
            .flat_map(|container| container.ports.iter().flatten())
            .filter_map(|port| port.name.as_deref())
            .collect();
        for port in spec.ports.iter().flatten() {
            if let Some(IntOrString::String(target)) = &port.target_port
                && !named.contains(target.as_str())
                && target.parse::<u16>().is_err()
            {
                warnings.insert(format!(
                    "service/{name}: port {} leads nowhere: no container has a port named {target}",
                    port.port
                ));
            }
        }
    }
    warnings
}

fn written(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(",")
}

fn is_label(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    edge(name.chars().next()) && edge(name.chars().last()) && name.chars().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_kubernetes() {
        for name in ["web", "web-1", "0", "a.b-c.d"] {
            assert!(subdomain(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "Web",
            "web_1",
            "-web",
            "web-",
            "a..b",
            "../../etc",
            "a b",
        ] {
            assert!(subdomain(name).is_err(), "{name}");
        }
        assert!(label("a.b").is_err());
    }

    #[test]
    fn zero_is_no_port() {
        assert_eq!(port(1).unwrap(), 1);
        assert_eq!(
            port(0).unwrap_err().to_string(),
            "0 is not a port: take 1 to 65535"
        );
        assert!(port(65_536).is_err());
        assert!(port(-1).is_err());
    }
}
