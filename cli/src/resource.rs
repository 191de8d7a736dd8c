//! How users name what they look at: `deploy/web`, `svc`, `ns/shop`; namespaces and time windows.
//!
//! In: the words of the command line. Out: the wire's `Selector`s. A word that names no kind fails with
//! a hint; whether a name exists is for the controller to say.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use mesh_api::v1::{Selector, Workload};

use crate::client::Mesh;

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

/// Which namespaces to look at, and what in them.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Scope {
    /// Only this namespace [default: the context's on Kubernetes, all of them on this machine]
    #[arg(short, long, env = "MESH_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Only what has these labels, as in kubectl: app=web,tier!=db
    #[arg(short = 'l', long = "selector", value_name = "LABELS")]
    pub labels: Option<String>,
}

impl Scope {
    /// The scope in a mesh, which says what the default is.
    pub fn of(&self, mesh: &Mesh) -> Namespaced {
        let chosen = self.all_namespaces || self.namespace.is_some();
        Namespaced {
            namespace: match &self.namespace {
                _ if self.all_namespaces => String::new(),
                Some(namespace) => namespace.clone(),
                None => mesh.namespace().to_owned(),
            },
            chosen,
        }
    }

    /// What the words and labels select in a mesh: everything in scope when there are none.
    ///
    /// # Errors
    /// A word names no kind; or nothing has these labels, or they can't be looked for.
    pub async fn selectors(&self, mesh: &Mesh, words: &[String]) -> Result<Vec<Selector>> {
        let selectors = self.of(mesh).selectors(words)?;
        let Some(labels) = &self.labels else {
            return Ok(selectors);
        };
        if let Some(named) = selectors.iter().find(|selector| !selector.name.is_empty()) {
            bail!(
                "-l selects by labels, and {:?} by name: take one of them.",
                named.name
            );
        }
        let Mesh::Cluster(cluster) = mesh else {
            bail!(
                "-l asks the API server of a cluster for labels: on this machine, name the workloads."
            );
        };
        let mut found = Vec::new();
        for selector in &selectors {
            found.extend(cluster.with_labels(selector, labels).await?);
        }
        Ok(found)
    }
}

/// A scope whose namespace is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespaced {
    /// Empty for all.
    pub namespace: String,
    /// The user has said so.
    chosen: bool,
}

impl Namespaced {
    /// What the words select, as in kubectl: `deploy`, `deploy/web`, `deploy web cart`, `deploy,svc`; everything in
    /// scope when there are none.
    ///
    /// # Errors
    /// A word names no kind.
    pub fn selectors(&self, words: &[String]) -> Result<Vec<Selector>> {
        if words.is_empty() {
            return Ok(vec![self.everything()]);
        }
        let mut selectors = Vec::new();
        // The kinds that the last word named, and whether a name of theirs has followed.
        let mut kinds: (Vec<&'static str>, bool) = (Vec::new(), true);
        for word in words {
            if word.contains('/') {
                selectors.push(self.selector(word)?);
                continue;
            }
            match word.split(',').map(kind_of).collect::<Option<Vec<_>>>() {
                Some(next) => {
                    let (last, named) = std::mem::replace(&mut kinds, (next, false));
                    if !named {
                        selectors.extend(last.into_iter().map(|kind| self.select(kind, "")));
                    }
                }
                None if kinds.0.is_empty() => return Err(self.selector(word).unwrap_err()),
                None => {
                    kinds.1 = true;
                    selectors.extend(kinds.0.iter().map(|kind| self.select(kind, word)));
                }
            }
        }
        if let (kinds, false) = kinds {
            selectors.extend(kinds.into_iter().map(|kind| self.select(kind, "")));
        }
        Ok(selectors)
    }

    /// What one word selects: `KIND` or `KIND/NAME`.
    ///
    /// # Errors
    /// It names no kind.
    pub fn selector(&self, word: &str) -> Result<Selector> {
        let (kind, name) = word.split_once('/').unwrap_or((word, ""));
        match kind_of(kind) {
            Some(kind) if !name.contains('/') => Ok(self.select(kind, name)),
            Some(_) => bail!("{word:?} has too many slashes: write KIND/NAME, and -n NAMESPACE."),
            None if name.is_empty() => Err(anyhow!(
                "{word:?} is not a kind. Did you mean deploy/{word} or svc/{word}? Kinds: {}.",
                short_kinds()
            )),
            None => Err(anyhow!("{kind:?} is not a kind. Kinds: {}.", short_kinds())),
        }
    }

    /// Workloads and services of all namespaces in scope.
    pub fn everything(&self) -> Selector {
        self.select("", "")
    }

    /// A namespace is in no namespace: the default one does not narrow it.
    fn select(&self, kind: &str, name: &str) -> Selector {
        Selector {
            namespace: match kind {
                "namespace" if !self.chosen => String::new(),
                _ => self.namespace.clone(),
            },
            kind: kind.into(),
            name: name.into(),
        }
    }
}

/// A selector as a side of a tap; a namespace means everything in it.
pub fn side(selector: Selector) -> Workload {
    let Selector {
        namespace,
        kind,
        name,
    } = selector;
    match kind.as_str() {
        "namespace" => Workload {
            namespace: if name.is_empty() { namespace } else { name },
            ..Workload::default()
        },
        _ => Workload {
            namespace,
            kind,
            name,
        },
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

    fn shop() -> Namespaced {
        Namespaced {
            namespace: "shop".into(),
            chosen: true,
        }
    }

    fn selector(word: &str) -> Result<Selector> {
        shop().selector(word)
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
    fn words_as_in_kubectl() {
        let of = |words: &str| {
            let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
            let selectors = shop().selectors(&words);
            selectors.map(|selectors| {
                let texts = selectors.iter().map(|s| match s.name.as_str() {
                    "" => s.kind.clone(),
                    name => format!("{}/{name}", short(&s.kind)),
                });
                texts.collect::<Vec<_>>().join(" ")
            })
        };
        for (words, expected) in [
            ("", ""),
            ("deploy svc", "deployment service"),
            ("deploy,svc", "deployment service"),
            ("deploy web", "deploy/web"),
            ("deploy web cart svc", "deploy/web deploy/cart service"),
            ("deploy,svc web", "deploy/web svc/web"),
            ("deploy/web svc/cart", "deploy/web svc/cart"),
            ("po web-1 ns/shop", "po/web-1 ns/shop"),
        ] {
            assert_eq!(of(words).unwrap(), expected, "{words}");
        }
        for words in ["web", "deploy/web web", "deploy,web", "cronjob/x"] {
            assert!(of(words).is_err(), "{words}");
        }
    }

    #[test]
    fn the_contexts_namespace_does_not_narrow_namespaces() {
        let default = Namespaced {
            namespace: "shop".into(),
            chosen: false,
        };
        assert_eq!(default.selector("ns").unwrap().namespace, "");
        assert_eq!(default.selector("deploy").unwrap().namespace, "shop");
        assert_eq!(selector("ns").unwrap().namespace, "shop");
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
