//! What is the same for all pods of a cluster.

use mesh_api::names;
use serde::{Deserialize, Serialize};

/// How pods are injected, unless their annotations say otherwise: the content of the ConfigMap
/// [`names::CONFIG_MAP`], as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Settings {
    /// Image of `mesh-proxy` and `mesh-init`.
    pub proxy_image: String,
    /// "IfNotPresent", "Always" or "Never".
    pub image_pull_policy: String,
    /// Where proxies find the controller, "host:port"; none: [`Settings::controller`] of the cluster domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller_address: Option<String>,
    /// Of all identities.
    pub trust_domain: String,
    /// Suffix of the names of services.
    pub cluster_domain: String,
    /// Of the proxy's container.
    pub resources: Resources,
    /// The proxy's log level or filter.
    pub log_level: String,
    /// The proxy's log format: "plain" or "json".
    pub log_format: String,
    /// Whether the proxy is a native sidecar (an init container that goes on running), which Kubernetes has
    /// since 1.29.
    pub native_sidecar: bool,
}

/// Requests and limits, as Kubernetes quantities. A limit that is not set is none: a proxy that is throttled
/// or killed for its size harms its pod more than it costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Resources {
    /// Such as "10m".
    pub cpu_request: String,
    /// Such as "16Mi".
    pub memory_request: String,
    /// Such as "1".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<String>,
    /// Such as "256Mi".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<String>,
}

impl Settings {
    /// The defaults, with the images of this registry and version.
    pub fn of_images(registry: &str, version: &str) -> Self {
        Self {
            proxy_image: format!("{registry}/mesh-proxy:{version}"),
            image_pull_policy: "IfNotPresent".into(),
            controller_address: None,
            trust_domain: names::TRUST_DOMAIN.into(),
            cluster_domain: "cluster.local".into(),
            resources: Resources::default(),
            log_level: "info".into(),
            log_format: "plain".into(),
            native_sidecar: true,
        }
    }

    /// Where proxies find the controller, "host:port".
    pub fn controller(&self) -> String {
        match &self.controller_address {
            Some(address) => address.clone(),
            // The dot at the end spares the resolver its search list: pods have `ndots:5`.
            None => format!(
                "{}.{}.svc.{}.:{}",
                names::CONTROLLER,
                names::SYSTEM_NAMESPACE,
                self.cluster_domain,
                names::CONTROLLER_PORT
            ),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::of_images(names::IMAGE_REGISTRY, env!("CARGO_PKG_VERSION"))
    }
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            cpu_request: "10m".into(),
            memory_request: "16Mi".into(),
            cpu_limit: None,
            memory_limit: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_object_is_the_default() {
        let settings: Settings = serde_json::from_str("{}").unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!(
            settings.controller(),
            "mesh-controller.mesh-system.svc.cluster.local.:8443"
        );
    }

    #[test]
    fn json_goes_both_ways_and_knows_its_fields() {
        let mut settings = Settings::of_images("registry.example", "9.9.9");
        settings.resources.cpu_limit = Some("1".into());
        let json = serde_json::to_string(&settings).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&json).unwrap(), settings);
        assert!(serde_json::from_str::<Settings>(r#"{"proxyImagee": "x"}"#).is_err());
    }
}
