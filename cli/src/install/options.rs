//! What an installation can be told: options in, the chart's values out. Nothing that can't work gets through.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use mesh_api::{SpiffeId, names};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{chart, settings};

/// How the control plane is installed.
///
/// Everything has a default; what was said is kept in the cluster, so that `mesh upgrade` need not be told
/// again.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {
    /// Three controllers on different nodes, a disruption budget, and no pod of an opted-in namespace
    /// starts without its proxy
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ha: Option<bool>,

    /// Where images come from: REGISTRY/mesh-proxy:VERSION and REGISTRY/mesh-controller:VERSION
    /// [default: localhost/mesh]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,

    /// Version of the images [default: this program's]
    // Not kept: an upgrade is to the version of the program that does it.
    #[arg(long)]
    #[serde(skip)]
    pub version: Option<String>,

    /// Trust domain of all identities [default: cluster.local]
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,

    /// Name of a Secret of type kubernetes.io/tls in mesh-system that holds a root of your own; without it,
    /// the controller makes its roots and rotates them
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<String>,

    /// Resources and details, such as controller.memory.limit=2Gi or proxy.cpu.request=50m
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<(String, String)>,
}

impl Options {
    /// These options, and for what they leave open those that were kept.
    pub(super) fn or(self, kept: Self) -> Self {
        // Of one key, the last value counts.
        let set: BTreeMap<_, _> = kept.set.into_iter().chain(self.set).collect();
        Self {
            ha: self.ha.or(kept.ha),
            registry: self.registry.or(kept.registry),
            version: self.version,
            trust_domain: self.trust_domain.or(kept.trust_domain),
            ca_secret: self.ca_secret.or(kept.ca_secret),
            set: set.into_iter().collect(),
        }
    }

    /// The chart's values.
    ///
    /// # Errors
    /// One sentence about the first option that can't work.
    pub(super) fn values(&self) -> Result<Value> {
        let mut values = chart::defaults()?;
        values["ha"] = json!(self.ha.unwrap_or(false));
        values["version"] = json!(env!("CARGO_PKG_VERSION"));
        if let Some(registry) = &self.registry {
            ensure!(
                is_registry(registry),
                "--registry {registry:?} is not the name of a registry: expected HOST[:PORT][/PATH] in lower case, \
                 such as registry.example.com/mesh, without https:// and without a tag"
            );
            values["registry"] = json!(registry);
        }
        if let Some(version) = &self.version {
            ensure!(
                is_label(version),
                "--version {version:?} is not an image's tag: expected up to 63 letters, digits, dots, dashes and \
                 underscores, such as {}",
                env!("CARGO_PKG_VERSION")
            );
            values["version"] = json!(version);
        }
        if let Some(domain) = &self.trust_domain {
            ensure!(
                is_trust_domain(domain),
                "--trust-domain {domain:?} is not a trust domain: expected lower-case letters, digits, dots, dashes \
                 and underscores, such as cluster.local or mesh.example.com"
            );
            values["trustDomain"] = json!(domain);
        }
        if let Some(name) = &self.ca_secret {
            ensure!(
                is_dns_name(name),
                "--ca-secret {name:?} is not the name of a Secret: expected lower-case letters, digits, dots and dashes"
            );
            ensure!(
                name != names::CA_SECRET,
                "--ca-secret {name}: this Secret is the controller's own; bring your root in one of another name"
            );
            values["caSecret"] = json!(name);
        }
        for (key, value) in &self.set {
            settings::set(&mut values, key, value)?;
        }
        settings::check(&values)?;
        values["options"] = json!(self.kept()?);
        Ok(values)
    }

    /// As they are kept in the cluster; nothing, where nothing was said.
    fn kept(&self) -> Result<String> {
        let said = Self {
            version: None,
            ..self.clone()
        };
        if said == Self::default() {
            return Ok(String::new());
        }
        serde_json::to_string(self).context("The options can't be written as JSON")
    }

    /// What was kept in the cluster.
    ///
    /// # Errors
    /// The text is none that [`Options::values`] has made.
    pub(super) fn from_kept(text: &str) -> Result<Self> {
        serde_json::from_str(text).context(format!(
            "The ConfigMap {} in {} does not say how the mesh was installed: its options.json can't be read",
            names::CONFIG_MAP,
            names::SYSTEM_NAMESPACE
        ))
    }
}

fn key_and_value(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.trim().into(), value.trim().into())),
        _ => bail!("expected KEY=VALUE, such as controller.memory.limit=2Gi"),
    }
}

/// `host[:port][/path]`, as the distribution specification's references have it.
fn is_registry(text: &str) -> bool {
    let mut parts = text.split('/');
    let host = parts.next().unwrap_or_default();
    let (host, port) = match host.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (host, None),
    };
    let port_ok = port.is_none_or(|port| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    let part_ok = |part: &str| {
        let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(edge)
            && part.ends_with(edge)
            && part.chars().all(|c| edge(c) || "._-".contains(c))
    };
    text.len() <= 200 && is_dns_name(host) && port_ok && parts.all(part_ok)
}

/// Kubernetes' syntax of a label's value, which also is one of a tag.
fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// A trust domain that identities of this mesh can be of (SPIFFE-ID, section 2.1: up to 255 bytes).
fn is_trust_domain(text: &str) -> bool {
    text.len() <= 255
        && SpiffeId::new(text, "namespace", "account").is_ok_and(|id| id.trust_domain() == text)
}

/// RFC 1123, as Kubernetes names most objects.
pub(super) fn is_dns_name(text: &str) -> bool {
    let label_ok = |label: &str| {
        let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        label.len() <= 63
            && label.starts_with(edge)
            && label.ends_with(edge)
            && label.chars().all(|c| edge(c) || c == '-')
    };
    text.len() <= 253 && text.split('.').all(label_ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_with_a_sentence() {
        let refused = |options: Options, expected: &str| {
            let error = options.values().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        for registry in [
            "",
            "https://registry.example",
            "Registry.example",
            "registry.example/",
            "registry.example/mesh:1.0",
            "registry.example:port/mesh",
            "registry.example:0/mesh",
            "registry.example:+80/mesh",
            "registry .example",
            "-registry",
            "a/b\"c",
        ] {
            let options = Options {
                registry: Some(registry.into()),
                ..Options::default()
            };
            refused(options, "--registry");
        }
        for version in ["", "1.0:2", "-1", "1 0", "a/b", &"1".repeat(64)] {
            let options = Options {
                version: Some(version.into()),
                ..Options::default()
            };
            refused(options, "--version");
        }
        for domain in [
            "",
            "Cluster.local",
            "a/b",
            "a b",
            "spiffe://a",
            &"a".repeat(256),
        ] {
            let options = Options {
                trust_domain: Some(domain.into()),
                ..Options::default()
            };
            refused(options, "--trust-domain");
        }
        for name in ["mesh-ca", "", "A", "a_b", "a/b", ".a", "a.", "a..b", "a]"] {
            let options = Options {
                ca_secret: Some(name.into()),
                ..Options::default()
            };
            refused(options, "--ca-secret");
        }
    }

    #[test]
    fn sense_is_taken() {
        for registry in [
            "localhost/mesh",
            "localhost:5000",
            "registry.example.com:5000/a/b_c/d-e",
            "10.0.0.1:5000/mesh",
        ] {
            assert!(is_registry(registry), "{registry}");
        }
        for version in ["0.1.0", "v1.2.3-rc.1", "main", "a_b"] {
            assert!(is_label(version), "{version}");
        }
    }

    #[test]
    fn what_was_said_is_kept_but_for_the_version() {
        let said = Options {
            ha: Some(true),
            registry: Some("registry.example/mesh".into()),
            version: Some("0.0.9".into()),
            trust_domain: None,
            ca_secret: Some("own".into()),
            set: vec![
                ("proxy.cpu.limit".into(), "1".into()),
                ("proxy.cpu.request".into(), "20m".into()),
            ],
        };
        let values = said.values().unwrap();
        assert_eq!(values["version"], "0.0.9");
        let kept = Options::from_kept(values["options"].as_str().unwrap()).unwrap();
        let expected = Options {
            version: None,
            ..said
        };
        assert_eq!(kept, expected);

        let upgrade = Options {
            ha: Some(false),
            set: vec![("proxy.cpu.limit".into(), "2".into())],
            ..Options::default()
        };
        let values = upgrade.or(kept).values().unwrap();
        assert_eq!(values["ha"], false);
        assert_eq!(values["registry"], "registry.example/mesh");
        assert_eq!(values["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(
            values["proxy"]["cpu"],
            json!({"request": "20m", "limit": "2"})
        );
    }
}
