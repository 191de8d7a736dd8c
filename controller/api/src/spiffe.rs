//! SPIFFE ids of the form `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use std::{fmt, str::FromStr, sync::Arc};

/// The identity of a workload (SPIFFE-ID specification, sections 2.1 and 2.2).
///
/// Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId(Arc<str>);

/// The text is not an id of this mesh.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "{text:?} is not a workload identity: expected spiffe://<trust domain>/ns/<namespace>/sa/<service account>"
)]
pub struct SpiffeIdError {
    text: String,
}

impl SpiffeId {
    /// The id of a service account.
    ///
    /// # Errors
    /// A part that is empty or has characters outside of SPIFFE's set.
    pub fn new(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeIdError> {
        format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For example "cluster.local".
    pub fn trust_domain(&self) -> &str {
        self.parts().0
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        self.parts().1
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        self.parts().2
    }

    fn parts(&self) -> (&str, &str, &str) {
        // Invariant: only `from_str` makes a value, and only of text that splits.
        split(&self.0).unwrap_or_default()
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        // 2048 bytes is the longest URI that the specification asks implementations to take.
        match split(text) {
            Some(_) if text.len() <= 2048 => Ok(Self(text.into())),
            _ => Err(SpiffeIdError {
                text: text.chars().take(200).collect(),
            }),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn split(text: &str) -> Option<(&str, &str, &str)> {
    let mut parts = text.strip_prefix("spiffe://")?.split('/');
    let found = match (
        parts.next()?,
        parts.next()?,
        parts.next()?,
        parts.next()?,
        parts.next()?,
    ) {
        (domain, "ns", namespace, "sa", account) => (domain, namespace, account),
        _ => return None,
    };
    let domain_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
    let segment_ok = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    let valid = !found.0.is_empty()
        && found.0.chars().all(domain_ok)
        && [found.1, found.2].iter().all(|part| {
            !part.is_empty() && *part != "." && *part != ".." && part.chars().all(segment_ok)
        });
    (valid && parts.next().is_none()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_an_id() {
        let id = SpiffeId::new("cluster.local", "shop", "web").unwrap();
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
        assert_eq!(
            (id.trust_domain(), id.namespace(), id.service_account()),
            ("cluster.local", "shop", "web")
        );
    }

    #[test]
    fn rejects_what_is_not_an_id() {
        for text in [
            "",
            "spiffe://",
            "https://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/ns/a/sa/b?x",
            "spiffe://Cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/../sa/b",
            "spiffe:///ns/a/sa/b",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
    }
}
