//! What is known of a port before its first byte: `appProtocol` and opaque ports.

use std::ops::RangeInclusive;

use mesh_api::{names, v1::Protocol};

/// What an `appProtocol` says; `None` for words without a meaning here.
///
/// The words are Kubernetes' own (KEP-3726: `kubernetes.io/h2c`, `ws`, `wss`), IANA service names, and the
/// spellings in use with other meshes.
pub(super) fn hint(app_protocol: &str) -> Option<Protocol> {
    match app_protocol.to_ascii_lowercase().as_str() {
        "http" | "kubernetes.io/ws" => Some(Protocol::Http),
        "kubernetes.io/h2c" | "h2c" | "http2" | "grpc" => Some(Protocol::Http2),
        "https" | "tls" | "kubernetes.io/wss" => Some(Protocol::Tls),
        "tcp" => Some(Protocol::Opaque),
        _ => None,
    }
}

/// Whether a port is opaque where nobody said anything.
pub(super) fn opaque_by_default(port: u16) -> bool {
    names::DEFAULT_OPAQUE_PORTS.contains(&port)
}

/// Ports as an annotation lists them: "25,3306,9000-9010".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ports(Vec<RangeInclusive<u16>>);

impl Ports {
    /// Parts that are not a port or a range are left out and returned.
    pub(crate) fn parse(text: &str) -> (Self, Vec<&str>) {
        let (mut ranges, mut bad) = (Vec::new(), Vec::new());
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
                (Ok(first), Ok(last)) if 0 < first && first <= last => ranges.push(first..=last),
                _ => bad.push(part),
            }
        }
        (Self(ranges), bad)
    }

    pub(super) fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.iter().cloned().flatten()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words() {
        assert_eq!(hint("kubernetes.io/h2c"), Some(Protocol::Http2));
        assert_eq!(hint("HTTPS"), Some(Protocol::Tls));
        assert_eq!(hint("mystery"), None);
    }

    #[test]
    fn lists_of_ports() {
        let (ports, bad) = Ports::parse(" 25, 9000-9010 ,x, 7-3, 0,70000,");
        assert!(ports.contains(25) && ports.contains(9000) && ports.contains(9010));
        assert!(!ports.contains(7) && !ports.contains(0) && !ports.contains(9011));
        assert_eq!(bad, ["x", "7-3", "0", "70000"]);
    }

    proptest! {
        #[test]
        fn any_text_parses(text: String) {
            let (ports, _) = Ports::parse(&text);
            prop_assert!(!ports.contains(0));
        }
    }
}
