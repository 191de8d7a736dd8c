//! The trust bundle as a ConfigMap in every namespace whose pods need it: a proxy's first anchors.
//!
//! Pods wait for it (their volume can't be mounted before), so it is there within moments of the label. It is
//! written by server-side apply: the name is in the request's path, which is what lets RBAC limit even its
//! creation to this one name.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    runtime::{
        WatchStreamExt,
        watcher::{self, watcher},
    },
};
use mesh_api::names;
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{Census, labels};
use crate::ca::Bundle;

/// Changes that come together are dealt with together.
const SETTLE: Duration = Duration::from_millis(50);
/// How long a bundle stays that nobody seems to need: pods of a job come and go.
const LINGER: Duration = Duration::from_secs(10);
/// When what has failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Requests at the same time.
const PARALLEL: usize = 4;

/// Keeps the ConfigMaps as they should be, for ever.
pub(super) async fn keep(
    client: &Client,
    mut bundle: watch::Receiver<Arc<Bundle>>,
    census: &Census,
) {
    let ours =
        watcher::Config::default().fields(&format!("metadata.name={}", names::TRUST_CONFIG_MAP));
    let changes = watcher(Api::<ConfigMap>::all(client.clone()), ours).default_backoff();
    let mut changes = pin!(changes);
    let mut changed = census.changed();
    let (mut found, mut idle) = (Found::default(), HashMap::new());
    loop {
        let mut again = None;
        if found.complete {
            let pem = bundle.borrow_and_update().pem.clone();
            changed.mark_unchanged();
            let now = Instant::now();
            let (acts, due) = plan(&census.needing_bundle(), &found.maps, &pem, &mut idle, now);
            let failed = carry_out(client, acts, &pem).await;
            again = failed.then(|| now + RETRY).into_iter().chain(due).min();
        }
        tokio::select! {
            change = changes.next() => match change {
                Some(Ok(event)) => found.apply(event),
                Some(Err(error)) => tracing::warn!(%error, "watching the trust bundles failed; it is tried again"),
                None => return,
            },
            Ok(()) = changed.changed() => sleep(SETTLE).await,
            Ok(()) = bundle.changed() => {}
            () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
        }
    }
}

/// The ConfigMaps that exist, by namespace.
#[derive(Default)]
struct Found {
    maps: BTreeMap<String, Map>,
    listed: BTreeMap<String, Map>,
    /// All have been listed.
    complete: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Map {
    pem: Option<String>,
    /// It has our label: it may be removed.
    ours: bool,
    uid: Option<String>,
}

#[derive(Debug, PartialEq)]
enum Act {
    Apply(String),
    Delete(String, Option<String>),
}

/// What there is to do, and when to look again although nothing has changed. `idle` says since when bundles
/// are not needed any more.
fn plan(
    needing: &BTreeSet<String>,
    found: &BTreeMap<String, Map>,
    pem: &str,
    idle: &mut HashMap<String, Instant>,
    now: Instant,
) -> (Vec<Act>, Option<Instant>) {
    let is_right = |map: &Map| map.ours && map.pem.as_deref() == Some(pem);
    let wrong = needing
        .iter()
        .filter(|namespace| !found.get(*namespace).is_some_and(is_right));
    let mut acts: Vec<Act> = wrong.cloned().map(Act::Apply).collect();
    idle.retain(|namespace, _| !needing.contains(namespace) && found.contains_key(namespace));
    let mut next: Option<Instant> = None;
    for (namespace, map) in found {
        if needing.contains(namespace) || !map.ours {
            continue;
        }
        let over = *idle.entry(namespace.clone()).or_insert(now) + LINGER;
        if over <= now {
            acts.push(Act::Delete(namespace.clone(), map.uid.clone()));
        } else {
            next = next.into_iter().chain([over]).min();
        }
    }
    (acts, next)
}

/// Returns whether anything has failed that may succeed later.
async fn carry_out(client: &Client, acts: Vec<Act>, pem: &str) -> bool {
    let results = stream::iter(acts).map(async |act| {
        let (namespace, result) = match &act {
            Act::Apply(namespace) => (namespace, apply(client, namespace, pem).await),
            Act::Delete(namespace, uid) => (namespace, delete(client, namespace, uid.clone()).await),
        };
        match result {
            Ok(()) => {
                tracing::info!(namespace, done = ?act, "trust bundle");
                false
            }
            // The namespace has gone, or is going, meanwhile.
            Err(kube::Error::Api(status)) if status.is_not_found() || is_terminating(&status) => false,
            Err(error) => {
                tracing::warn!(namespace, %error, "the trust bundle can't be kept: pods that start there wait");
                true
            }
        }
    });
    let failed = results.buffer_unordered(PARALLEL);
    failed.fold(false, async |any, one| any || one).await
}

async fn apply(client: &Client, namespace: &str, pem: &str) -> Result<(), kube::Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": names::TRUST_CONFIG_MAP, "labels": labels()},
        "data": {names::TRUST_KEY: pem},
    });
    let params = PatchParams::apply(names::CONTROLLER).force();
    api.patch(names::TRUST_CONFIG_MAP, &params, &Patch::Apply(map))
        .await?;
    Ok(())
}

async fn delete(client: &Client, namespace: &str, uid: Option<String>) -> Result<(), kube::Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid,
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    api.delete(names::TRUST_CONFIG_MAP, &params).await?;
    Ok(())
}

fn is_terminating(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.is_forbidden()
        && causes
            .into_iter()
            .any(|cause| cause.reason == "NamespaceTerminating")
}

impl Found {
    fn apply(&mut self, event: watcher::Event<ConfigMap>) {
        match event {
            watcher::Event::Init => self.listed.clear(),
            watcher::Event::InitApply(map) => {
                self.listed
                    .insert(map.namespace().unwrap_or_default(), Map::from(&map));
            }
            watcher::Event::InitDone => {
                self.maps = std::mem::take(&mut self.listed);
                self.complete = true;
            }
            watcher::Event::Apply(map) => {
                self.maps
                    .insert(map.namespace().unwrap_or_default(), Map::from(&map));
            }
            watcher::Event::Delete(map) => {
                self.maps.remove(&map.namespace().unwrap_or_default());
            }
        }
    }
}

impl From<&ConfigMap> for Map {
    fn from(map: &ConfigMap) -> Self {
        let pem = map
            .data
            .as_ref()
            .and_then(|data| data.get(names::TRUST_KEY));
        Self {
            pem: pem.cloned(),
            ours: labels()
                .iter()
                .all(|(name, value)| map.labels().get(name) == Some(value)),
            uid: map.uid(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needing(namespaces: &[&str]) -> BTreeSet<String> {
        namespaces.iter().map(|name| (*name).to_owned()).collect()
    }

    fn found(maps: &[(&str, &str, bool)]) -> BTreeMap<String, Map> {
        let map = |(namespace, pem, ours): &(&str, &str, bool)| {
            let map = Map {
                pem: Some((*pem).into()),
                ours: *ours,
                uid: Some(format!("uid-{namespace}")),
            };
            ((*namespace).to_owned(), map)
        };
        maps.iter().map(map).collect()
    }

    #[test]
    fn what_is_missing_old_or_foreign_is_applied() {
        let found = found(&[
            ("right", "new", true),
            ("old", "old", true),
            ("foreign", "new", false),
        ]);
        let needing = needing(&["foreign", "missing", "old", "right"]);
        let (acts, next) = plan(&needing, &found, "new", &mut HashMap::new(), Instant::now());
        let applied = ["foreign", "missing", "old"].map(|name| Act::Apply(name.into()));
        assert_eq!(acts, applied);
        assert_eq!(next, None);
    }

    #[test]
    fn what_nobody_needs_goes_after_a_while_unless_it_is_somebody_elses() {
        let start = Instant::now();
        let found = found(&[("ours", "pem", true), ("theirs", "pem", false)]);
        let mut idle = HashMap::new();
        let none = needing(&[]);
        let due = start + LINGER;
        assert_eq!(
            plan(&none, &found, "pem", &mut idle, start),
            (vec![], Some(due))
        );
        // Needed again in between: the time starts over.
        plan(
            &needing(&["ours"]),
            &found,
            "pem",
            &mut idle,
            start + LINGER / 2,
        );
        let again = start + LINGER / 2;
        assert_eq!(
            plan(&none, &found, "pem", &mut idle, again).1,
            Some(again + LINGER)
        );
        let gone = Act::Delete("ours".into(), Some("uid-ours".into()));
        assert_eq!(
            plan(&none, &found, "pem", &mut idle, again + LINGER).0,
            [gone]
        );
    }

    #[test]
    fn a_list_that_breaks_off_is_not_taken_for_the_whole() {
        let map = |namespace: &str| ConfigMap {
            metadata: kube::api::ObjectMeta {
                namespace: Some(namespace.into()),
                ..Default::default()
            },
            ..ConfigMap::default()
        };
        let mut state = Found::default();
        for event in [
            watcher::Event::Init,
            watcher::Event::InitApply(map("a")),
            watcher::Event::InitApply(map("b")),
            watcher::Event::InitDone,
            watcher::Event::Init,
            watcher::Event::InitApply(map("a")),
        ] {
            state.apply(event);
        }
        assert_eq!(state.maps.len(), 2);
        assert!(state.complete);
    }
}
