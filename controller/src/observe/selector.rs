//! What a request of the CLI is about: matching, and a good answer to a name that nobody knows.

use std::collections::BTreeSet;

use mesh_api::v1::{Selector, ServicePort, Workload};
use tonic::Status;

/// The kinds that are not workloads.
pub(super) const SERVICE: &str = "service";
pub(super) const POD: &str = "pod";
pub(super) const NAMESPACE: &str = "namespace";

/// Names that an answer lists at most.
const SHOWN: usize = 10;

/// Names one row of statistics.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Resource {
    pub(super) namespace: String,
    pub(super) kind: String,
    pub(super) name: String,
    /// A pod that belongs to no workload, and so is one.
    pub(super) bare: bool,
}

impl Resource {
    pub(super) fn workload(workload: &Workload) -> Self {
        Self {
            bare: workload.kind == POD,
            ..Self::new(&workload.namespace, &workload.kind, &workload.name)
        }
    }

    pub(super) fn service(service: &ServicePort) -> Self {
        Self::new(&service.namespace, SERVICE, &service.name)
    }

    pub(super) fn pod(workload: &Workload, pod: &str) -> Self {
        Self {
            bare: workload.kind == POD,
            ..Self::new(&workload.namespace, POD, pod)
        }
    }

    pub(super) fn namespace(name: &str) -> Self {
        Self::new(name, NAMESPACE, name)
    }

    fn new(namespace: &str, kind: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            kind: kind.into(),
            name: name.into(),
            bare: false,
        }
    }
}

/// Whether a selector means this resource. An empty kind means workloads and services, not every pod.
pub(super) fn selects(selector: &Selector, resource: &Resource) -> bool {
    let kind = match selector.kind.as_str() {
        "" => {
            resource.kind != NAMESPACE
                && (resource.kind != POD || resource.bare || !selector.name.is_empty())
        }
        kind => kind == resource.kind,
    };
    let namespace = selector.namespace.is_empty() || selector.namespace == resource.namespace;
    kind && namespace && (selector.name.is_empty() || selector.name == resource.name)
}

/// Whether a selector means one side of some traffic.
pub(super) fn selects_side(
    selector: &Selector,
    workload: Option<&Workload>,
    pod: &str,
    service: Option<&ServicePort>,
) -> bool {
    let workload = workload.is_some_and(|workload| {
        selects(selector, &Resource::workload(workload))
            || selects(selector, &Resource::namespace(&workload.namespace))
            || (!pod.is_empty() && selects(selector, &Resource::pod(workload, pod)))
    });
    workload || service.is_some_and(|service| selects(selector, &Resource::service(service)))
}

/// Checks that somebody has heard of what is selected.
///
/// # Errors
/// NOT_FOUND, with the nearest name of the same kind.
pub(super) fn check(selector: &Selector, known: &BTreeSet<Resource>) -> Result<(), Status> {
    let namespace = &selector.namespace;
    let namespaces: BTreeSet<&str> = known
        .iter()
        .map(|resource| resource.namespace.as_str())
        .collect();
    if !namespace.is_empty() && !namespaces.contains(namespace.as_str()) {
        return Err(not_found(
            &format!("namespace {namespace:?}"),
            namespace,
            namespaces.into_iter(),
        ));
    }
    if selector.name.is_empty() || known.iter().any(|resource| selects(selector, resource)) {
        return Ok(());
    }
    let same_kind = |resource: &&Resource| match selector.kind.as_str() {
        "" => resource.kind != POD && resource.kind != NAMESPACE,
        kind => kind == resource.kind,
    };
    let here = known
        .iter()
        .filter(same_kind)
        .filter(|r| namespace.is_empty() || r.namespace == *namespace);
    let kind = if selector.kind.is_empty() {
        "workload or service"
    } else {
        &selector.kind
    };
    let place = if namespace.is_empty() {
        String::new()
    } else {
        format!(" in namespace {namespace:?}")
    };
    let what = format!("{kind} {:?}{place}", selector.name);
    Err(not_found(
        &what,
        &selector.name,
        here.map(|resource| resource.name.as_str()),
    ))
}

/// Names what was probably meant, or what there is.
fn not_found<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Status {
    let known: BTreeSet<&str> = known.collect();
    let nearest = known
        .iter()
        .filter(|candidate| is_near(name, candidate))
        .min_by_key(|candidate| (distance(name, candidate), **candidate));
    if let Some(nearest) = nearest {
        return Status::not_found(format!("there is no {what}: did you mean {nearest:?}?"));
    }
    if known.is_empty() {
        return Status::not_found(format!("there is no {what}"));
    }
    let shown: Vec<&str> = known.iter().copied().take(SHOWN).collect();
    let more = if known.len() > SHOWN { ", …" } else { "" };
    Status::not_found(format!(
        "there is no {what}; there are: {}{more}",
        shown.join(", ")
    ))
}

/// Mistyped (two letters, or one in three), or written in part.
fn is_near(name: &str, candidate: &str) -> bool {
    let letters = name.chars().count().max(candidate.chars().count());
    let typos = letters.div_ceil(3).max(2);
    let distance = distance(name, candidate);
    (!name.is_empty() && candidate.contains(name)) || (distance <= typos && distance < letters)
}

/// Levenshtein distance, of characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(namespace: &str, kind: &str, name: &str) -> Selector {
        Selector {
            namespace: namespace.into(),
            kind: kind.into(),
            name: name.into(),
        }
    }

    fn known() -> BTreeSet<Resource> {
        ["web", "orders", "billing"]
            .map(|name| Resource::new("shop", "deployment", name))
            .into_iter()
            .chain([
                Resource::pod(
                    &Workload {
                        namespace: "shop".into(),
                        kind: "deployment".into(),
                        name: "web".into(),
                    },
                    "web-1",
                ),
                Resource::new("shop", SERVICE, "web-front"),
                Resource::namespace("shop"),
            ])
            .collect()
    }

    #[test]
    fn distances() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }

    #[test]
    fn an_unknown_name_gets_the_nearest_one() {
        let message = |selector| check(&selector, &known()).unwrap_err().message().to_owned();
        assert_eq!(
            message(selector("", "deployment", "order")),
            r#"there is no deployment "order": did you mean "orders"?"#
        );
        assert_eq!(
            message(selector("shop", "", "web-fron")),
            r#"there is no workload or service "web-fron" in namespace "shop": did you mean "web-front"?"#
        );
        assert_eq!(
            message(selector("shp", "", "")),
            r#"there is no namespace "shp": did you mean "shop"?"#
        );
        assert_eq!(
            message(selector("", "deployment", "wbe")),
            r#"there is no deployment "wbe": did you mean "web"?"#
        );
        assert_eq!(
            message(selector("shop", "pod", "web")),
            r#"there is no pod "web" in namespace "shop": did you mean "web-1"?"#
        );
        assert_eq!(
            message(selector("", "deployment", "nosuch")),
            r#"there is no deployment "nosuch"; there are: billing, orders, web"#
        );
        assert_eq!(
            message(selector("", "statefulset", "web")),
            r#"there is no statefulset "web""#
        );
    }

    #[test]
    fn known_names_pass() {
        for found in [
            selector("", "", ""),
            selector("shop", "pod", "web-1"),
            selector("", "", "web-1"),
            selector("", "namespace", "shop"),
        ] {
            assert!(check(&found, &known()).is_ok(), "{found:?}");
        }
    }
}
