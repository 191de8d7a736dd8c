//! How users name what they look at: `deploy/web`, `svc`, `ns/shop`; namespaces and time windows.
//!
//! In: the words of the command line. Out: the wire's `Selector`s. A word that names no kind fails with
//! a hint; whether a name exists is for the controller to say.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use mesh_api::v1::{Selector, Workload};

/// Kinds with their short form and the other names that kubectl takes.
const KINDS: [(&str, &str, &[&str]); 7] = [
    ("deployment", "deploy", &["deployments"]),
    ("statefulset", "sts", &["statefulsets"]),
    ("daemonset", "ds", &["daemonsets"]),
    ("job", "job", &["jobs"]),
    ("pod", "po", &["pods"]),
    ("service", "svc", &["services"]),
    ("namespace", "ns", &["namespaces"]),
];

/// Which namespaces to look at.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Scope {
    /// Only this namespace
    #[arg(short, long, env = "MESH_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// All namespaces: the default of a local mesh
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
}

impl Scope {
    /// The namespace as the wire has it: empty for all.
    pub fn namespace(&self) -> &str {
        match &self.namespace {
            Some(namespace) if !self.all_namespaces => namespace,
            _ => "",
        }
    }

    /// What the words select: everything in scope when there are none.
    ///
    /// # Errors
    /// A word names no kind.
    pub fn selectors(&self, words: &[String]) -> Result<Vec<Selector>> {
        if words.is_empty() {
            return Ok(vec![self.everything()]);
        }
        words.iter().map(|word| self.selector(word)).collect()
    }

    /// What one word selects: `KIND` or `KIND/NAME`.
    ///
    /// # Errors
    /// It names no kind.
    pub fn selector(&self, word: &str) -> Result<Selector> {
        let (kind, name) = word.split_once('/').unwrap_or((word, ""));
        let namespace = self.namespace().to_owned();
        match kind_of(kind) {
            Some(kind) if !name.contains('/') => Ok(Selector {
                namespace,
                kind: kind.into(),
                name: name.into(),
            }),
            Some(_) => bail!("{word:?} has too many slashes: write KIND/NAME, and -n NAMESPACE."),
            None if name.is_empty() => Err(anyhow!(
                "{word:?} is not a kind. Did you mean deploy/{word} or svc/{word}? Kinds: {}.",
                short_kinds()
            )),
            None => Err(anyhow!("{kind:?} is not a kind. Kinds: {}.", short_kinds())),
        }
    }

    /// As [`Scope::selector`], where a single workload is meant; all in scope when there is no word.
    ///
    /// # Errors
    /// It names no kind, or one that sends no requests itself.
    pub fn workload(&self, word: &str) -> Result<Workload> {
        let Selector {
            namespace,
            kind,
            name,
        } = self.selector(word)?;
        Ok(match kind.as_str() {
            "namespace" => Workload {
                namespace: name,
                ..Workload::default()
            },
            _ => Workload {
                namespace,
                kind,
                name,
            },
        })
    }

    /// Workloads and services of all namespaces in scope.
    pub fn everything(&self) -> Selector {
        Selector {
            namespace: self.namespace().into(),
            ..Selector::default()
        }
    }
}

/// The short form of a kind: `deploy` for `deployment`.
pub fn short(kind: &str) -> &str {
    KINDS
        .iter()
        .find(|(long, ..)| *long == kind)
        .map_or(kind, |(_, short, _)| short)
}

/// How a workload is written for people: `deploy/web`; without a name, its kind.
pub fn workload_name(workload: &Workload) -> String {
    match (workload.kind.as_str(), workload.name.as_str()) {
        (_, "") => "?".into(),
        ("", name) => name.into(),
        (kind, name) => format!("{}/{name}", short(kind)),
    }
}

/// A time window of 1 s to 10 min, in whole seconds: `30s`, `1m`, `90`.
///
/// # Errors
/// Says what is taken, for clap.
pub fn parse_window(text: &str) -> Result<u32, String> {
    let duration = parse_duration(text)?;
    match u32::try_from(duration.as_secs()) {
        Ok(seconds @ 1..=600) => Ok(seconds),
        _ => Err("the mesh keeps 10 minutes: take 1s to 10m".into()),
    }
}

/// A duration: `500ms`, `20s`, `5m`, `1h`, or a number of seconds.
///
/// # Errors
/// Says what is taken, for clap.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms = match &text[digits.len()..] {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("take a duration like 500ms, 30s or 5m".into()),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit_ms))
        .map(Duration::from_millis)
        .ok_or_else(|| "take a duration like 500ms, 30s or 5m".into())
}

fn kind_of(word: &str) -> Option<&'static str> {
    let word = word.to_ascii_lowercase();
    KINDS
        .iter()
        .find(|(long, short, others)| {
            word == *long || word == *short || others.contains(&word.as_str())
        })
        .map(|(long, ..)| *long)
}

fn short_kinds() -> String {
    KINDS.map(|(_, short, _)| short).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(word: &str) -> Result<Selector> {
        let scope = Scope {
            namespace: Some("shop".into()),
            all_namespaces: false,
        };
        scope.selector(word)
    }

    #[test]
    fn kinds_as_in_kubectl() {
        for (word, kind, name) in [
            ("deploy", "deployment", ""),
            ("deployments", "deployment", ""),
            ("Deployment/web", "deployment", "web"),
            ("svc/web", "service", "web"),
            ("po/web-1", "pod", "web-1"),
            ("ns", "namespace", ""),
        ] {
            let got = selector(word).unwrap();
            assert_eq!((got.kind.as_str(), got.name.as_str()), (kind, name));
            assert_eq!(got.namespace, "shop");
        }
    }

    #[test]
    fn a_bare_name_gets_a_hint() {
        let error = selector("web").unwrap_err().to_string();
        assert!(error.contains("deploy/web or svc/web"), "{error}");
        let error = selector("cronjob/x").unwrap_err().to_string();
        assert!(error.contains("sts"), "{error}");
        assert!(selector("svc/shop/web").is_err());
    }

    #[test]
    fn windows() {
        assert_eq!(parse_window("1m"), Ok(60));
        assert_eq!(parse_window("90"), Ok(90));
        assert_eq!(parse_window("10m"), Ok(600));
        for text in [
            "",
            "0",
            "11m",
            "500ms",
            "m",
            "-1s",
            "1y",
            "99999999999999999999h",
        ] {
            assert!(parse_window(text).is_err(), "{text}");
        }
    }
}
