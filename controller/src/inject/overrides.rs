//! What annotations change for one pod.

use mesh_api::{log_filter, names};
use serde_json::Value;

use super::{
    pod::{NamespaceFacts, annotation},
    settings::{Resources, Settings},
};
use crate::index::Ports;

/// The pod can't be injected as it asks to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// No `spec` with containers, or fields of another type than a pod's.
    #[error(
        "this is no pod: spec.containers is missing or empty, or metadata or volumes are malformed"
    )]
    NotAPod,
    /// The value of an annotation.
    #[error("the annotation {annotation}: {value:?} is not {expected}")]
    Annotation {
        /// Its name.
        annotation: &'static str,
        /// Its value.
        value: String,
        /// What would be right, with an example.
        expected: &'static str,
    },
}

/// The settings of one pod's proxy.
#[derive(Clone, Debug)]
pub(super) struct Overrides {
    pub(super) skip_inbound_ports: String,
    pub(super) skip_outbound_ports: String,
    pub(super) log_level: String,
    pub(super) access_log: bool,
    pub(super) resources: Resources,
    pub(super) native_sidecar: bool,
}

/// The settings, under the namespace's annotations, under the pod's.
pub(super) fn read(
    pod: &Value,
    namespace: &NamespaceFacts,
    settings: &Settings,
) -> Result<Overrides, Invalid> {
    let of_either = |name: &'static str| {
        annotation(pod, name).or_else(|| namespace.annotations.get(name).map(String::as_str))
    };
    let quantity = |name, default: &str| parsed(name, of_either(name), default, is_quantity);
    let limit = |name, default: &Option<String>| match of_either(name) {
        None => Ok(default.clone()),
        Some(_) => quantity(name, "").map(Some),
    };
    // Of the pod only: the controller reads there which of its ports others reach without mutual TLS.
    let ports = |name| {
        let default = names::DEFAULT_SKIP_PORTS.map(|port| port.to_string());
        parsed(name, annotation(pod, name), &default.join(","), is_ports)
    };
    let flag = |name, default: bool| {
        let default = if default { "true" } else { "false" };
        parsed(name, of_either(name), default, is_flag).map(|flag| flag == "true")
    };
    let level = names::ANNOTATION_LOG_LEVEL;
    // Nothing is made of it here, but a mistake in it is best told now.
    let opaque = names::ANNOTATION_OPAQUE_PORTS;
    parsed(opaque, annotation(pod, opaque), "", is_ports)?;
    Ok(Overrides {
        skip_inbound_ports: ports(names::ANNOTATION_SKIP_INBOUND_PORTS)?,
        skip_outbound_ports: ports(names::ANNOTATION_SKIP_OUTBOUND_PORTS)?,
        log_level: parsed(level, of_either(level), &settings.log_level, is_log_filter)?,
        access_log: flag(names::ANNOTATION_ACCESS_LOG, false)?,
        resources: Resources {
            cpu_request: quantity(
                names::ANNOTATION_CPU_REQUEST,
                &settings.resources.cpu_request,
            )?,
            memory_request: quantity(
                names::ANNOTATION_MEMORY_REQUEST,
                &settings.resources.memory_request,
            )?,
            cpu_limit: limit(names::ANNOTATION_CPU_LIMIT, &settings.resources.cpu_limit)?,
            memory_limit: limit(
                names::ANNOTATION_MEMORY_LIMIT,
                &settings.resources.memory_limit,
            )?,
        },
        native_sidecar: flag(names::ANNOTATION_NATIVE_SIDECAR, settings.native_sidecar)?,
    })
}

/// Whether a text is right, and what would be.
type Check = fn(&str) -> Result<(), &'static str>;

fn parsed(
    annotation: &'static str,
    value: Option<&str>,
    default: &str,
    check: Check,
) -> Result<String, Invalid> {
    let Some(value) = value.map(str::trim) else {
        return Ok(default.to_owned());
    };
    match check(value) {
        Ok(()) => Ok(value.to_owned()),
        Err(expected) => Err(Invalid::Annotation {
            annotation,
            value: value.to_owned(),
            expected,
        }),
    }
}

fn is_ports(text: &str) -> Result<(), &'static str> {
    let (_, bad) = Ports::parse(text);
    let expected = "a list of ports and ranges such as 25,9000-9010";
    bad.is_empty().then_some(()).ok_or(expected)
}

fn is_flag(text: &str) -> Result<(), &'static str> {
    matches!(text, "true" | "false")
        .then_some(())
        .ok_or("true or false")
}

/// As the proxy reads it.
fn is_log_filter(text: &str) -> Result<(), &'static str> {
    let expected = "a log level or filter such as debug or info,mesh_proxy::tls=debug";
    log_filter::parse(text, "mesh_proxy")
        .map(drop)
        .map_err(|_| expected)
}

/// A Kubernetes quantity that is not negative: "16Mi", "0.5", "1e3"
/// (k8s.io/apimachinery/pkg/api/resource).
fn is_quantity(text: &str) -> Result<(), &'static str> {
    const SUFFIXES: [&str; 16] = [
        "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let (number, suffix) = match text.split_once(['e', 'E']) {
        // An exponent, unless the letter is the suffix for 10^18.
        Some((number, exponent)) if exponent.parse::<i8>().is_ok() => (number, ""),
        _ => (number, &text[number.len()..]),
    };
    let digits = number.bytes().filter(u8::is_ascii_digit).count();
    let dots = number.bytes().filter(|byte| *byte == b'.').count();
    let is_number = digits > 0 && dots <= 1 && digits + dots == number.len();
    (is_number && SUFFIXES.contains(&suffix))
        .then_some(())
        .ok_or("a quantity such as 100m or 64Mi")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities() {
        for good in [
            "0", "10m", "0.5", "16Mi", "1e3", "2E", "1.5Gi", "12E-3", "1Ei",
        ] {
            assert!(is_quantity(good).is_ok(), "{good}");
        }
        for bad in ["", "m", "-1", "10 m", "1.2.3", "16mb", "1e", "Mi", "½"] {
            assert!(is_quantity(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text: String) {
            let _ = (is_quantity(&text), is_log_filter(&text), is_ports(&text));
        }
    }
}
