//! Which namespaces and pods want a proxy, and which have one. Pure, behind one lock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::core::v1::{Namespace, Pod};
use mesh_api::names;
use tokio::sync::watch;

use crate::{
    index::Name,
    inject::NamespaceFacts,
    source::{Event, Kind, Object},
};

/// What the source has told, as far as injection is concerned.
pub(crate) struct Census {
    state: Mutex<HashMap<String, Population>>,
    changed: watch::Sender<()>,
}

/// A pod that wants a proxy and has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missed {
    pub(super) pod: Name,
    pub(super) uid: String,
}

/// A namespace and its pods.
#[derive(Default)]
struct Population {
    /// `None`: the source has told only of pods in it.
    namespace: Option<Settlement>,
    pods: HashMap<String, Inhabitant>,
}

#[derive(PartialEq)]
struct Settlement {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    terminating: bool,
}

#[derive(PartialEq)]
struct Inhabitant {
    uid: String,
    /// What its own label says.
    wants: Option<bool>,
    proxied: bool,
    /// It has ended, or is about to.
    leaving: bool,
}

impl Census {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// Takes one step of the source.
    pub(crate) fn apply(&self, event: &Event) {
        let mut state = self.lock();
        let changed = match event {
            Event::Applied(object) => match &**object {
                Object::Namespace(namespace) => {
                    let name = namespace.metadata.name.clone().unwrap_or_default();
                    let population = state.entry(name).or_default();
                    let after = Some(Settlement::from(namespace));
                    std::mem::replace(&mut population.namespace, after) != population.namespace
                }
                Object::Pod(pod) => {
                    let key = object.key();
                    let population = state.entry(key.namespace).or_default();
                    let after = Inhabitant::from(pod);
                    population.pods.get(&key.name) != Some(&after) && {
                        population.pods.insert(key.name, after);
                        true
                    }
                }
                _ => false,
            },
            Event::Deleted(key) => match key.kind {
                Kind::Namespace => state
                    .get_mut(&key.name)
                    .is_some_and(|population| population.namespace.take().is_some()),
                Kind::Pod => state
                    .get_mut(&key.namespace)
                    .is_some_and(|population| population.pods.remove(&key.name).is_some()),
                _ => false,
            },
            Event::Synced => true,
        };
        if let Event::Deleted(key) = event {
            let name = if key.kind == Kind::Namespace {
                &key.name
            } else {
                &key.namespace
            };
            if state.get(name).is_some_and(|population| {
                population.namespace.is_none() && population.pods.is_empty()
            }) {
                state.remove(name);
            }
        }
        drop(state);
        if changed {
            self.changed.send_replace(());
        }
    }

    /// Hears of every change.
    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What the injector has to know of a namespace.
    pub(crate) fn facts(&self, name: &str) -> Option<NamespaceFacts> {
        let state = self.lock();
        let namespace = state.get(name)?.namespace.as_ref()?;
        Some(NamespaceFacts {
            name: name.into(),
            labels: namespace.labels.clone(),
            annotations: namespace.annotations.clone(),
        })
    }

    /// The namespaces with pods whose proxies need the trust bundle, now or as soon as one is created.
    pub(super) fn needing_bundle(&self) -> BTreeSet<String> {
        let state = self.lock();
        let needing = state
            .iter()
            .filter(|(_, population)| population.needs_bundle());
        needing.map(|(name, _)| name.clone()).collect()
    }

    /// The pods that want a proxy and have none. Not all of them can have one.
    pub(super) fn missed(&self) -> Vec<Missed> {
        let state = self.lock();
        let missed = |(namespace, population): (&String, &Population)| {
            let inherited = population.wants();
            let pods = population.pods.iter();
            let pods = pods.filter(move |(_, pod)| {
                pod.wants.or(inherited) == Some(true) && !pod.proxied && !pod.leaving
            });
            pods.map(|(name, pod)| Missed {
                pod: Name::new(namespace, name),
                uid: pod.uid.clone(),
            })
            .collect::<Vec<_>>()
        };
        state.iter().flat_map(missed).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Population>> {
        // Every change is one insertion or removal.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Population {
    fn wants(&self) -> Option<bool> {
        wants(&self.namespace.as_ref()?.labels)
    }

    fn needs_bundle(&self) -> bool {
        let terminating = |namespace: &Settlement| namespace.terminating;
        !self.namespace.as_ref().is_some_and(terminating)
            && (self.wants() == Some(true)
                || self
                    .pods
                    .values()
                    .any(|pod| !pod.leaving && (pod.proxied || pod.wants == Some(true))))
    }
}

impl From<&Namespace> for Settlement {
    fn from(namespace: &Namespace) -> Self {
        let meta = &namespace.metadata;
        Self {
            labels: meta.labels.clone().unwrap_or_default(),
            annotations: meta.annotations.clone().unwrap_or_default(),
            terminating: meta.deletion_timestamp.is_some(),
        }
    }
}

impl From<&Pod> for Inhabitant {
    fn from(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let annotation = |name| meta.annotations.as_ref().and_then(|all| all.get(name));
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            wants: meta.labels.as_ref().and_then(wants),
            proxied: annotation(names::ANNOTATION_PROXY).is_some_and(|value| value == "true"),
            leaving: meta.deletion_timestamp.is_some()
                || matches!(phase, Some("Succeeded" | "Failed")),
        }
    }
}

/// A value that is neither is not an answer, as to the injector.
fn wants(labels: &BTreeMap<String, String>) -> Option<bool> {
    match labels.get(names::LABEL_INJECT)?.as_str() {
        "enabled" => Some(true),
        "disabled" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::source::ObjectKey;

    fn namespace(name: &str, inject: Option<&str>) -> Event {
        let labels = inject.map(|inject| json!({names::LABEL_INJECT: inject}));
        let namespace = json!({"metadata": {"name": name, "labels": labels}});
        Event::Applied(Box::new(Object::Namespace(
            serde_json::from_value(namespace).unwrap(),
        )))
    }

    fn pod(namespace: &str, name: &str, metadata: Value, phase: &str) -> Event {
        let mut pod = json!({"metadata": metadata, "status": {"phase": phase}});
        pod["metadata"]["namespace"] = namespace.into();
        pod["metadata"]["name"] = name.into();
        pod["metadata"]["uid"] = format!("uid-{name}").into();
        Event::Applied(Box::new(Object::Pod(serde_json::from_value(pod).unwrap())))
    }

    fn deleted(kind: Kind, namespace: &str, name: &str) -> Event {
        Event::Deleted(ObjectKey {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        })
    }

    fn census(events: impl IntoIterator<Item = Event>) -> Census {
        let census = Census::new();
        events.into_iter().for_each(|event| census.apply(&event));
        census
    }

    fn needing(census: &Census) -> Vec<String> {
        census.needing_bundle().into_iter().collect()
    }

    #[test]
    fn a_bundle_is_needed_by_label_or_by_pod() {
        let proxied = || json!({"annotations": {names::ANNOTATION_PROXY: "true"}});
        let census = census([
            namespace("labelled", Some("enabled")),
            namespace("off", Some("disabled")),
            namespace("plain", None),
            namespace("odd", Some("true")),
            namespace("left", None),
            pod("left", "a", proxied(), "Running"),
            namespace("done", None),
            pod("done", "a", proxied(), "Succeeded"),
            // The source tells of kinds in no particular order.
            pod(
                "early",
                "a",
                json!({"labels": {names::LABEL_INJECT: "enabled"}}),
                "Pending",
            ),
        ]);
        assert_eq!(needing(&census), ["early", "labelled", "left"]);
        census.apply(&deleted(Kind::Pod, "left", "a"));
        census.apply(&deleted(Kind::Namespace, "", "labelled"));
        assert_eq!(needing(&census), ["early"]);
    }

    #[test]
    fn a_namespace_that_is_being_deleted_needs_nothing() {
        let meta = json!({"name": "n", "labels": {names::LABEL_INJECT: "enabled"}, "deletionTimestamp": "2026-01-01T00:00:00Z"});
        let namespace = serde_json::from_value(json!({"metadata": meta})).unwrap();
        let census = census([Event::Applied(Box::new(Object::Namespace(namespace)))]);
        assert!(needing(&census).is_empty());
    }

    #[test]
    fn pods_without_the_proxy_they_want_are_missed() {
        let label = |value: &str| json!({"labels": {names::LABEL_INJECT: value}});
        let census = census([
            namespace("shop", Some("enabled")),
            pod("shop", "missed", json!({}), "Running"),
            pod("shop", "out", label("disabled"), "Running"),
            pod("shop", "over", json!({}), "Failed"),
            pod(
                "shop",
                "fine",
                json!({"annotations": {names::ANNOTATION_PROXY: "true"}}),
                "Running",
            ),
            pod("other", "own", label("enabled"), "Running"),
            pod("other", "none", json!({}), "Running"),
        ]);
        let mut missed = census.missed();
        missed.sort_by(|a, b| a.uid.cmp(&b.uid));
        let names: Vec<String> = missed.iter().map(|missed| missed.pod.to_string()).collect();
        assert_eq!(names, ["shop/missed", "other/own"]);
        assert_eq!(missed[0].uid, "uid-missed");
    }

    #[test]
    fn only_what_matters_is_a_change() {
        let census = census([pod("shop", "a", json!({}), "Pending")]);
        let mut changed = census.changed();
        changed.mark_unchanged();
        census.apply(&pod("shop", "a", json!({}), "Running"));
        assert!(!changed.has_changed().unwrap());
        census.apply(&pod("shop", "a", json!({}), "Failed"));
        assert!(changed.has_changed().unwrap());
    }

    #[test]
    fn facts_are_those_of_the_labels_now() {
        let census = census([namespace("shop", None), namespace("shop", Some("enabled"))]);
        let facts = census.facts("shop").unwrap();
        assert_eq!(facts.labels[names::LABEL_INJECT], "enabled");
        assert!(census.facts("unknown").is_none());
    }
}
