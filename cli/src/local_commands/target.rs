//! How pods and workloads are named on the command line.

use std::{convert::Infallible, str::FromStr};

use anyhow::{Context, bail};
use mesh_api::local::Pod;

/// A name as the user wrote it; what it means depends on what runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target(Vec<String>);

const KINDS: [(&str, &[&str]); 5] = [
    ("deployment", &["deploy", "deployments"]),
    ("statefulset", &["sts", "statefulsets"]),
    ("daemonset", &["ds", "daemonsets"]),
    ("job", &["jobs"]),
    ("pod", &["po", "pods"]),
];

impl FromStr for Target {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.split('/').map(str::to_owned).collect()))
    }
}

impl Target {
    /// Namespace and "kind/name" (or name) of a workload.
    pub(super) fn workload(&self, pods: &[Pod], namespace: Option<&str>) -> (String, String) {
        let (own, kind, name) = self.parts();
        // A workload without pods can only be found by its full name.
        let mut owners = pods.iter().filter(|pod| pod.workload == name);
        let namespace = own
            .or(namespace)
            .or_else(|| owners.next().map(|pod| pod.namespace.as_str()))
            .unwrap_or("default");
        let name = kind.map_or_else(|| name.to_owned(), |kind| format!("{kind}/{name}"));
        (namespace.to_owned(), name)
    }

    /// The pod, or one of the workload's pods: one that is ready, if there is one.
    pub(super) fn pod<'a>(
        &self,
        pods: &'a [Pod],
        namespace: Option<&str>,
    ) -> anyhow::Result<&'a Pod> {
        let (own, kind, name) = self.parts();
        let namespace = own.or(namespace);
        let candidates = || {
            pods.iter()
                .filter(|pod| namespace.is_none_or(|namespace| pod.namespace == namespace))
        };
        if kind.is_none_or(|kind| kind == "pod")
            && let Some(pod) = candidates().find(|pod| pod.name == name)
        {
            return Ok(pod);
        }
        let of_kind = |pod: &&Pod| kind.is_none_or(|kind| pod.workload_kind == kind);
        let mut owned: Vec<_> = candidates()
            .filter(|pod| pod.workload == name)
            .filter(of_kind)
            .collect();
        owned.sort_by_key(|pod| (!pod.ready, pod.name.clone()));
        let first = owned.first().with_context(|| {
            format!(
                "there is no pod and no workload {:?}; `mesh local ps` lists them",
                self.0.join("/")
            )
        })?;
        if owned.iter().any(|pod| pod.namespace != first.namespace) {
            bail!("{name} is in several namespaces: say which with -n");
        }
        Ok(first)
    }

    /// How a log's source is named: "controller", "namespace/pod", "namespace/pod/container".
    pub(super) fn source(&self, pods: &[Pod], namespace: Option<&str>) -> anyhow::Result<String> {
        if self.0 == ["controller"] || self.0 == ["mesh"] {
            return Ok(self.0[0].clone());
        }
        if let [namespace, pod, container] = self.0.as_slice() {
            let pod = Self(vec![namespace.clone(), pod.clone()]).pod(pods, None)?;
            return Ok(format!("{}/{container}", super::title(pod)));
        }
        let found = self.pod(pods, namespace);
        if let ([pod, container], Err(_)) = (self.0.as_slice(), &found)
            && let Ok(pod) = Self(vec![pod.clone()]).pod(pods, namespace)
        {
            return Ok(format!("{}/{container}", super::title(pod)));
        }
        Ok(super::title(found?))
    }

    /// Namespace, kind and name, as far as they are given.
    fn parts(&self) -> (Option<&str>, Option<&'static str>, &str) {
        let name = self.0.last().map_or("", String::as_str);
        let Some(first) = self.0.first().filter(|_| self.0.len() > 1) else {
            return (None, None, name);
        };
        match KINDS
            .iter()
            .find(|(kind, short)| kind == first || short.contains(&first.as_str()))
        {
            Some((kind, _)) => (None, Some(kind), name),
            None => (Some(first), None, name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, name: &str, workload: &str, ready: bool) -> Pod {
        Pod {
            namespace: namespace.into(),
            name: name.into(),
            workload_kind: "deployment".into(),
            workload: workload.into(),
            ready,
            ..Pod::default()
        }
    }

    #[test]
    fn pods_are_found_by_name_and_by_workload() {
        let pods = [
            pod("shop", "web-1", "web", false),
            pod("shop", "web-2", "web", true),
            pod("test", "db-1", "db", true),
            pod("shop", "db-1", "db", true),
        ];
        let find = |text: &str, namespace| {
            let target: Target = text.parse().unwrap();
            target
                .pod(&pods, namespace)
                .map(|pod| format!("{}/{}", pod.namespace, pod.name))
        };
        assert_eq!(find("web-1", None).unwrap(), "shop/web-1");
        assert_eq!(find("shop/web-1", None).unwrap(), "shop/web-1");
        assert_eq!(find("deploy/web", None).unwrap(), "shop/web-2");
        assert_eq!(find("db", Some("test")).unwrap(), "test/db-1");
        assert!(find("deploy/db", None).is_err());
        assert!(find("sts/web", None).is_err());
        assert!(find("nobody", None).is_err());
    }

    #[test]
    fn workloads_and_containers() {
        let pods = [pod("shop", "web-1", "web", true)];
        let target: Target = "deploy/web".parse().unwrap();
        assert_eq!(
            target.workload(&pods, None),
            ("shop".into(), "deployment/web".into())
        );
        let target: Target = "shop/web/mesh-proxy".parse().unwrap();
        assert_eq!(target.source(&pods, None).unwrap(), "shop/web-1/mesh-proxy");
        let target: Target = "web/mesh-proxy".parse().unwrap();
        assert_eq!(target.source(&pods, None).unwrap(), "shop/web-1/mesh-proxy");
    }
}
