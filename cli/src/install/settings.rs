//! `--set KEY=VALUE`: a short list of the chart's values, each with its own check.

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::{options::is_dns_name, quantity};

/// What a key's value has to be.
#[derive(Clone, Copy)]
enum Kind {
    Cpu,
    Memory,
    LogLevel,
    Bool,
    Domain,
}

const KEYS: [(&str, Kind); 12] = [
    ("clusterDomain", Kind::Domain),
    ("controller.cpu.limit", Kind::Cpu),
    ("controller.cpu.request", Kind::Cpu),
    ("controller.logLevel", Kind::LogLevel),
    ("controller.memory.limit", Kind::Memory),
    ("controller.memory.request", Kind::Memory),
    ("proxy.cpu.limit", Kind::Cpu),
    ("proxy.cpu.request", Kind::Cpu),
    ("proxy.logLevel", Kind::LogLevel),
    ("proxy.memory.limit", Kind::Memory),
    ("proxy.memory.request", Kind::Memory),
    ("proxy.nativeSidecar", Kind::Bool),
];

/// Sets one value.
///
/// # Errors
/// The key is not known, or the value is none for it.
pub(super) fn set(values: &mut Value, key: &str, value: &str) -> Result<()> {
    let Some((_, kind)) = KEYS.iter().find(|(known, _)| *known == key) else {
        bail!("--set {key}: there is no such key.{}", suggestion(key));
    };
    let value = match kind {
        // No limit.
        Kind::Cpu | Kind::Memory if value.is_empty() && key.ends_with(".limit") => json!(""),
        Kind::Cpu => {
            ensure!(
                is_amount(value, 1e-3),
                "--set {key}={value}: expected a number of cores such as 250m or 2"
            );
            json!(value)
        }
        Kind::Memory => {
            ensure!(
                is_amount(value, 1.0),
                "--set {key}={value}: expected a number of bytes such as 64Mi or 2Gi"
            );
            // Kubernetes takes 128m, a tenth of a byte, and such a pod never starts.
            json!(value)
        }
        Kind::LogLevel => {
            ensure!(
                is_filter(value),
                "--set {key}={value}: expected a level such as info or debug, or a filter such as \
                 info,mesh_controller=debug"
            );
            json!(value)
        }
        Kind::Bool => match value {
            "true" => json!(true),
            "false" => json!(false),
            _ => bail!("--set {key}={value}: expected true or false"),
        },
        Kind::Domain => {
            ensure!(
                is_dns_name(value),
                "--set {key}={value}: expected a domain such as cluster.local, without a dot at its end"
            );
            json!(value)
        }
    };
    let mut place = values;
    for part in key.split('.') {
        place = &mut place[part];
    }
    *place = value;
    Ok(())
}

/// What no single value shows.
///
/// # Errors
/// A limit that is below its request, which the API server would refuse.
pub(super) fn check(values: &Value) -> Result<()> {
    for program in ["controller", "proxy"] {
        for resource in ["cpu", "memory"] {
            let amount = |bound: &str| {
                let text = values[program][resource][bound]
                    .as_str()
                    .unwrap_or_default();
                Some((text.to_owned(), quantity::parse(text)?))
            };
            if let (Some((request, least)), Some((limit, most))) =
                (amount("request"), amount("limit"))
            {
                ensure!(
                    least <= most,
                    "The limit {program}.{resource}.limit={limit} is below what is requested, \
                     {program}.{resource}.request={request}: raise the one or lower the other with --set"
                );
            }
        }
    }
    Ok(())
}

fn is_amount(text: &str, least: f64) -> bool {
    quantity::parse(text).is_some_and(|amount| amount >= least)
}

fn is_filter(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_:=,".contains(c);
    !text.is_empty() && text.chars().all(allowed)
}

fn suggestion(key: &str) -> String {
    let nearest = KEYS
        .iter()
        .map(|(known, _)| (strsim::jaro_winkler(known, key), *known))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, known)) if likeness > 0.8 => format!(" Did you mean {known}?"),
        _ => {
            let known: Vec<_> = KEYS.iter().map(|(known, _)| *known).collect();
            format!(" There are: {}", known.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::chart, *};

    #[test]
    fn every_key_is_a_value_of_the_chart() {
        let defaults = chart::defaults().unwrap();
        for (key, kind) in KEYS {
            let pointer = format!("/{}", key.replace('.', "/"));
            let default = defaults.pointer(&pointer);
            let expected = matches!(kind, Kind::Bool);
            assert_eq!(default.map(Value::is_boolean), Some(expected), "{key}");
        }
    }

    #[test]
    fn values_are_checked() {
        let mut values = chart::defaults().unwrap();
        for (key, value) in [
            ("controller.memory.limit", "2Gi"),
            ("controller.memory.limit", ""),
            ("proxy.cpu.request", "0.5"),
            ("proxy.nativeSidecar", "false"),
            ("proxy.logLevel", "info,mesh_proxy::http=debug"),
            ("clusterDomain", "k8s.example"),
        ] {
            set(&mut values, key, value).unwrap();
        }
        assert_eq!(values["proxy"]["nativeSidecar"], false);
        assert_eq!(values["proxy"]["cpu"]["request"], "0.5");
        for (key, value, expected) in [
            ("controller.memory.limit", "128m", "a number of bytes"),
            ("controller.memory.request", "", "a number of bytes"),
            ("controller.memory.request", "1GB", "a number of bytes"),
            ("proxy.cpu.request", "0", "a number of cores"),
            ("proxy.cpu.request", "much", "a number of cores"),
            ("proxy.nativeSidecar", "yes", "true or false"),
            ("proxy.logLevel", "info \"", "a level"),
            ("clusterDomain", "cluster.local.", "a domain"),
            (
                "controller.memory.limits",
                "1Gi",
                "Did you mean controller.memory.limit?",
            ),
            ("proxy.cpu.requst", "1", "Did you mean proxy.cpu.request?"),
            ("zzz", "1", "There are: clusterDomain, "),
            // A value of the chart, but not one to set alone.
            ("ha", "true", "There are: "),
        ] {
            let error = set(&mut values, key, value).unwrap_err().to_string();
            assert!(error.contains(expected), "{key}={value}: {error}");
        }
    }

    #[test]
    fn a_limit_below_its_request_is_refused() {
        let mut values = chart::defaults().unwrap();
        check(&values).unwrap();
        set(&mut values, "proxy.memory.limit", "1Mi").unwrap();
        let error = check(&values).unwrap_err().to_string();
        assert!(error.contains("proxy.memory.limit=1Mi is below"), "{error}");
    }
}
