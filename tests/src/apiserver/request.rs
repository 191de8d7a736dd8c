//! What a request asks for: its path and query, read into types.

use std::{str::FromStr, sync::Arc, time::Duration};

use super::{
    resource::{Resource, Table},
    status::Status,
};

/// What a path leads to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Path {
    /// `/version`, `/apis/apps`, …: all that names no resource.
    Other,
    Resource(Target),
}

/// A resource, or one object of it, or a subresource of that.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    pub(super) resource: Arc<Resource>,
    /// The namespace in the path; `None` in a path over all namespaces, and for objects of the cluster.
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    /// Empty: the object itself.
    pub(super) subresource: String,
}

impl Target {
    /// The namespace of an object's key: empty for objects of the cluster.
    pub(super) fn place(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }
}

/// Reads a path.
///
/// # Errors
/// It names a resource, namespace or subresource that is not served: 404.
pub(super) fn parse_path(path: &str, table: &Table) -> Result<Path, Status> {
    let steps: Vec<&str> = path.split('/').filter(|step| !step.is_empty()).collect();
    let (group, version, rest) = match steps.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return Ok(Path::Other),
    };
    let find = |plural: &str| {
        table
            .find(group, version, plural)
            .ok_or_else(Status::no_path)
    };
    let (namespace, rest) = match rest {
        // `namespaces/a/status` and `/finalize` are subresources of the namespace itself.
        ["namespaces", _, "status" | "finalize"] if group.is_empty() => (None, rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        rest => (None, rest),
    };
    let (plural, name, subresource) = match rest {
        [plural] => (plural, None, ""),
        [plural, name] => (plural, Some(*name), ""),
        [plural, name, subresource] => (plural, Some(*name), *subresource),
        _ => return Err(Status::no_path()),
    };
    let resource = find(plural)?;
    let wrong_scope = match namespace {
        Some(_) => !resource.namespaced,
        None => resource.namespaced && name.is_some(),
    };
    if wrong_scope || (!subresource.is_empty() && !resource.has(subresource)) {
        return Err(Status::no_path());
    }
    Ok(Path::Resource(Target {
        resource,
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
        subresource: subresource.to_owned(),
    }))
}

/// The parameters of a query, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self(pairs.into_owned().collect())
    }

    /// The first value; empty is absent.
    pub(super) fn find(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let found = self.0.iter().filter(move |(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// `?watch`, `?watch=1`, `?watch=true`.
    pub(super) fn flag(&self, name: &str) -> bool {
        let value = self.0.iter().find(|(key, _)| key == name);
        value.is_some_and(|(_, value)| value != "false" && value != "0")
    }

    /// # Errors
    /// It is there and can't be read: 400.
    pub(super) fn number<N: FromStr>(&self, name: &str) -> Result<Option<N>, Status> {
        let Some(text) = self.find(name) else {
            return Ok(None);
        };
        let bad =
            |_| Status::bad_request(format!("{name}: Invalid value: \"{text}\": not a number"));
        text.parse().map(Some).map_err(bad)
    }

    /// `timeoutSeconds`.
    ///
    /// # Errors
    /// It is there and can't be read: 400.
    pub(super) fn timeout(&self) -> Result<Option<Duration>, Status> {
        Ok(self.number("timeoutSeconds")?.map(Duration::from_secs))
    }

    /// Whether nothing is to be stored.
    ///
    /// # Errors
    /// A value other than `All`: 422, as the real one.
    pub(super) fn dry_run(&self) -> Result<bool, Status> {
        let mut dry = false;
        for value in self.all("dryRun") {
            match value {
                "All" => dry = true,
                other => {
                    return Err(Status::unprocessable(format!(
                        "dryRun: Unsupported value: \"{other}\": supported values: \"All\""
                    )));
                }
            }
        }
        Ok(dry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Option<(String, Option<String>, Option<String>, String)> {
        match parse_path(path, &Table::built_in()) {
            Ok(Path::Resource(target)) => Some((
                target.resource.qualified(),
                target.namespace,
                target.name,
                target.subresource,
            )),
            _ => None,
        }
    }

    #[test]
    fn paths() {
        let own = |text: &str| Some(text.to_owned());
        let is = |resource: &str, namespace, name, subresource: &str| {
            Some((resource.to_owned(), namespace, name, subresource.to_owned()))
        };
        assert_eq!(target("/api/v1/pods"), is("pods", None, None, ""));
        assert_eq!(
            target("/api/v1/namespaces"),
            is("namespaces", None, None, "")
        );
        assert_eq!(
            target("/api/v1/namespaces/a"),
            is("namespaces", None, own("a"), "")
        );
        assert_eq!(
            target("/api/v1/namespaces/a/finalize"),
            is("namespaces", None, own("a"), "finalize")
        );
        assert_eq!(
            target("/api/v1/namespaces/a/pods"),
            is("pods", own("a"), None, "")
        );
        assert_eq!(
            target("/apis/apps/v1/namespaces/a/deployments/b/scale"),
            is("deployments.apps", own("a"), own("b"), "scale")
        );
        assert_eq!(target("/api/v1/pods/b"), None, "a pod is in a namespace");
        assert_eq!(target("/api/v1/namespaces/a/nodes"), None, "a node is not");
        assert_eq!(target("/apis/apps/v1/namespaces/a/deployments/b/log"), None);
        assert_eq!(target("/apis/apps/v1"), None);
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse(Some(
            "labelSelector=a%3Db%2Cc&watch=1&limit=&force=false&x=a+b",
        ));
        assert_eq!(query.find("labelSelector"), Some("a=b,c"));
        assert_eq!(query.number::<u64>("limit"), Ok(None));
        assert!(query.flag("watch") && !query.flag("force") && !query.flag("other"));
        assert_eq!(query.find("x"), Some("a b"));
    }
}
