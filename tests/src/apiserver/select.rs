//! Label selectors and field selectors: parsed from a query, matched against objects.

use serde_json::{Map, Value};

use super::resource::Resource;

/// One condition on the labels.
#[derive(Clone, Debug, PartialEq)]
enum Term {
    Exists(String),
    Absent(String),
    In(String, Vec<String>),
    /// True as well where the label is absent.
    NotIn(String, Vec<String>),
    Greater(String, i64),
    Less(String, i64),
}

/// All conditions must hold; none means everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Labels(Vec<Term>);

impl Labels {
    /// Parses the text form: `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    ///
    /// # Errors
    /// A sentence about what could not be read.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for part in split(text) {
            terms.push(term(part).ok_or_else(|| {
                format!("unable to parse requirement: {part:?} is no condition on a label")
            })?);
        }
        Ok(Self(terms))
    }

    /// Reads a `LabelSelector` object (`matchLabels`, `matchExpressions`); nothing or `{}` selects everything.
    pub(super) fn of_object(selector: &Value) -> Self {
        let mut terms = Vec::new();
        for (label, value) in selector["matchLabels"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            terms.push(Term::In(label.clone(), vec![value]));
        }
        for expression in selector["matchExpressions"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let label = expression["key"].as_str().unwrap_or_default().to_owned();
            let values = expression["values"].as_array().into_iter().flatten();
            let values = values
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect();
            terms.push(match expression["operator"].as_str() {
                Some("In") => Term::In(label, values),
                Some("NotIn") => Term::NotIn(label, values),
                Some("Exists") => Term::Exists(label),
                _ => Term::Absent(label),
            });
        }
        Self(terms)
    }

    /// Whether an object's `metadata.labels` satisfy it.
    pub(super) fn match_object(&self, object: &Value) -> bool {
        let none = Map::new();
        let labels = object["metadata"]["labels"].as_object().unwrap_or(&none);
        let find = |label: &String| labels.get(label).and_then(Value::as_str);
        self.0.iter().all(|term| match term {
            Term::Exists(label) => find(label).is_some(),
            Term::Absent(label) => find(label).is_none(),
            Term::In(label, values) => {
                find(label).is_some_and(|found| values.iter().any(|value| value == found))
            }
            Term::NotIn(label, values) => {
                find(label).is_none_or(|found| values.iter().all(|value| value != found))
            }
            Term::Greater(label, bound) => number(find(label)).is_some_and(|found| found > *bound),
            Term::Less(label, bound) => number(find(label)).is_some_and(|found| found < *bound),
        })
    }
}

/// Conditions on single fields; all must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Fields(Vec<(String, bool, String)>);

impl Fields {
    /// Parses `metadata.name=a,status.phase!=Running`.
    ///
    /// # Errors
    /// A sentence: not a selector, or a field that can't be selected by.
    pub(super) fn parse(text: &str, resource: &Resource) -> Result<Self, String> {
        let mut terms = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (field, wanted, value) = if let Some((field, value)) = part.split_once("!=") {
                (field, false, value)
            } else if let Some((field, value)) = part.split_once("==") {
                (field, true, value)
            } else if let Some((field, value)) = part.split_once('=') {
                (field, true, value)
            } else {
                return Err(format!(
                    "invalid selector: '{part}'; can't understand '{part}'"
                ));
            };
            if !selectable(resource, field) {
                return Err(format!("field label not supported: {field}"));
            }
            terms.push((field.to_owned(), wanted, value.to_owned()));
        }
        Ok(Self(terms))
    }

    /// Whether an object's fields satisfy it.
    pub(super) fn match_object(&self, object: &Value) -> bool {
        self.0.iter().all(|(field, wanted, value)| {
            let found = field_text(object, field);
            (found == *value) == *wanted
        })
    }
}

fn field_text(object: &Value, field: &str) -> String {
    let mut found = object;
    for step in field.split('.') {
        found = &found[step];
    }
    match found {
        Value::Null if field == "spec.unschedulable" || field == "spec.hostNetwork" => {
            "false".to_owned()
        }
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The fields that the built-in kinds can be selected by, as registered in `pkg/apis/*/v1/conversion.go`.
fn selectable(resource: &Resource, field: &str) -> bool {
    if field == "metadata.name" || (field == "metadata.namespace") {
        return true;
    }
    if let Some(custom) = &resource.custom {
        return custom.selectable.iter().any(|path| path == field);
    }
    let fields: &[&str] = match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "pods") => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        ("", "nodes") => &["spec.unschedulable"],
        ("", "namespaces") => &["status.phase"],
        ("", "secrets") => &["type"],
        ("", "services") => &["spec.clusterIP", "spec.type"],
        ("", "events") => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ("events.k8s.io", "events") => &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "reason",
            "reportingController",
            "type",
        ],
        ("apps", "replicasets") | ("", "replicationcontrollers") => &["status.replicas"],
        ("batch", "jobs") => &["status.successful"],
        _ => &[],
    };
    fields.contains(&field)
}

/// Splits at the commas that stand outside of parentheses.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    text.split(move |char| {
        match char {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        char == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
}

fn term(part: &str) -> Option<Term> {
    let own = |text: &str| text.trim().to_owned();
    if let Some(label) = part.strip_prefix('!') {
        return Some(Term::Absent(name(label)?));
    }
    if let Some((left, values)) = part.split_once('(') {
        let values = values.strip_suffix(')')?.split(',').map(own).collect();
        let (label, operator) = left.trim().split_once(char::is_whitespace)?;
        return match operator.trim() {
            "in" => Some(Term::In(name(label)?, values)),
            "notin" => Some(Term::NotIn(name(label)?, values)),
            _ => None,
        };
    }
    if let Some((label, value)) = part.split_once("!=") {
        return Some(Term::NotIn(name(label)?, vec![own(value)]));
    }
    if let Some((label, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Term::In(name(label)?, vec![own(value)]));
    }
    if let Some((label, value)) = part.split_once('>') {
        return Some(Term::Greater(name(label)?, value.trim().parse().ok()?));
    }
    if let Some((label, value)) = part.split_once('<') {
        return Some(Term::Less(name(label)?, value.trim().parse().ok()?));
    }
    Some(Term::Exists(name(part)?))
}

fn name(label: &str) -> Option<String> {
    let label = label.trim();
    let legal = |char: char| char.is_ascii_alphanumeric() || "-_./".contains(char);
    (!label.is_empty() && label.chars().all(legal)).then(|| label.to_owned())
}

fn number(label: Option<&str>) -> Option<i64> {
    label?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selects(selector: &str, labels: Value) -> bool {
        let selector = Labels::parse(selector).expect("a selector");
        selector.match_object(&json!({ "metadata": { "labels": labels } }))
    }

    #[test]
    fn conditions_on_labels() {
        assert!(selects("", json!({})));
        assert!(selects("a=b,c==d", json!({ "a": "b", "c": "d" })));
        assert!(!selects("a=b", json!({ "a": "c" })));
        assert!(selects("a!=b", json!({})), "an absent label is not b");
        assert!(selects("a in (b, c),!d", json!({ "a": "c" })));
        assert!(!selects("a notin (b,c)", json!({ "a": "c" })));
        assert!(selects("a notin (b,c)", json!({})));
        assert!(selects(
            "app.kubernetes.io/part-of",
            json!({ "app.kubernetes.io/part-of": "x" })
        ));
        assert!(selects("n>3,n<5", json!({ "n": "4" })));
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for text in ["a in b", "a=b c(", "=b", "!", "a>b"] {
            assert!(Labels::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_object_form_of_a_selector() {
        let selector = Labels::of_object(&json!({
            "matchLabels": { "a": "b" },
            "matchExpressions": [{ "key": "c", "operator": "NotIn", "values": ["d"] }],
        }));
        assert!(selector.match_object(&json!({ "metadata": { "labels": { "a": "b" } } })));
        assert!(
            !selector.match_object(&json!({ "metadata": { "labels": { "a": "b", "c": "d" } } }))
        );
        assert!(Labels::of_object(&Value::Null).match_object(&json!({})));
    }

    #[test]
    fn fields_are_those_of_the_kind() {
        let pods = Resource {
            plural: "pods".to_owned(),
            ..Resource::default()
        };
        let pod = json!({ "metadata": { "name": "a" }, "spec": { "nodeName": "n" } });
        let selector = Fields::parse("metadata.name=a,spec.nodeName!=m", &pods).expect("fields");
        assert!(selector.match_object(&pod));
        assert!(Fields::parse("spec.containers=x", &pods).is_err());
    }
}
