//! Where in an object its pods are described.

use serde_json::Value;

use super::tree::Step;

/// A pod or pod template within a document.
#[derive(Debug)]
pub(super) struct Place {
    /// From the document's root to what has the pod's `metadata` and `spec`.
    pub(super) path: Vec<Step>,
    /// "deployment/web".
    pub(super) title: String,
    pub(super) namespace: Option<String>,
    /// What the object itself says against a change.
    pub(super) caveat: Option<Caveat>,
}

/// Why changing an object is of no use, or not enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Caveat {
    /// "deployment/web" makes it.
    Owned(String),
    /// It is in a cluster, where it can't be changed.
    Immutable,
}

/// What a document has in it.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) places: Vec<Place>,
    /// Objects without pods.
    pub(super) others: usize,
}

/// Looks through an object, or a list of them.
pub(super) fn contents(document: &Value) -> Contents {
    let mut contents = Contents::default();
    add(document, Vec::new(), &mut contents);
    contents
}

/// Calls `found` with every object, also those in lists.
pub(super) fn each_object<'a>(document: &'a Value, found: &mut impl FnMut(&'a Value)) {
    match items(document) {
        Some(items) => items.iter().for_each(|item| each_object(item, found)),
        None => found(document),
    }
}

/// What a path leads to.
pub(super) fn at<'a>(document: &'a Value, path: &[Step]) -> &'a Value {
    path.iter().fold(document, |value, step| match step {
        Step::Key(key) => &value[key],
        Step::Item(index) => &value[index],
    })
}

/// Replaces what a path leads to.
pub(super) fn replace(document: &mut Value, path: &[Step], new: Value) {
    let place = path.iter().fold(document, |value, step| match step {
        Step::Key(key) => &mut value[key],
        Step::Item(index) => &mut value[index],
    });
    *place = new;
}

fn add(object: &Value, path: Vec<Step>, contents: &mut Contents) {
    if object.is_null() {
        return;
    }
    if let Some(items) = items(object) {
        for (index, item) in items.iter().enumerate() {
            let below = [Step::Key("items"), Step::Item(index)];
            add(item, path.iter().copied().chain(below).collect(), contents);
        }
        return;
    }
    let (group, kind) = group_and_kind(object);
    let Some(steps) = steps_to_pod(group, kind) else {
        contents.others += 1;
        return;
    };
    let metadata = &object["metadata"];
    let name = metadata["name"]
        .as_str()
        .or(metadata["generateName"].as_str());
    contents.places.push(Place {
        path: path
            .into_iter()
            .chain(steps.iter().map(|key| Step::Key(key)))
            .collect(),
        title: title(kind, name.unwrap_or("(no name)")),
        namespace: metadata["namespace"].as_str().map(str::to_owned),
        caveat: caveat(kind, metadata),
    });
}

/// Of a `List`, or a list of one kind such as a `DeploymentList`.
fn items(object: &Value) -> Option<&Vec<Value>> {
    let is_list = object["kind"]
        .as_str()
        .is_some_and(|kind| kind.ends_with("List"));
    if is_list {
        object["items"].as_array()
    } else {
        None
    }
}

fn group_and_kind(object: &Value) -> (&str, &str) {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let group = text("apiVersion")
        .split_once('/')
        .map_or("", |(group, _)| group);
    (group, text("kind"))
}

/// The same kind of another group is something else, with other fields.
fn steps_to_pod(group: &str, kind: &str) -> Option<&'static [&'static str]> {
    match (group, kind) {
        ("", "Pod") => Some(&[]),
        ("", "ReplicationController") => Some(&["spec", "template"]),
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet") => {
            Some(&["spec", "template"])
        }
        ("batch", "Job") => Some(&["spec", "template"]),
        ("batch", "CronJob") => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

fn caveat(kind: &str, metadata: &Value) -> Option<Caveat> {
    let owners = metadata["ownerReferences"].as_array().into_iter().flatten();
    let mut controllers = owners.filter(|owner| owner["controller"] == true);
    if let Some(owner) = controllers.next() {
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        return Some(Caveat::Owned(title(text("kind"), text("name"))));
    }
    let is_live = !metadata["uid"].is_null() || !metadata["creationTimestamp"].is_null();
    (is_live && matches!(kind, "Pod" | "Job")).then_some(Caveat::Immutable)
}

fn title(kind: &str, name: &str) -> String {
    format!("{}/{name}", kind.to_ascii_lowercase())
}
