//! What the server knows, and the tasks' way to it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    addresses::Addresses,
    faults::Faults,
    meta,
    request::{Query, Target},
    resource::{Resource, Table},
    store::{Key, Scope, Store},
    token::Issuer,
};

/// The objects and what depends on them; behind one lock, held only for a moment.
#[derive(Debug)]
pub(super) struct State {
    pub(super) store: Store,
    pub(super) table: Table,
    pub(super) addresses: Addresses,
}

impl State {
    /// The stored form of the object that a target names.
    pub(super) fn find(&self, target: &Target) -> Option<Arc<Value>> {
        let name = target.name.as_deref()?;
        self.store
            .find(&key(&target.resource, target.place(), name))
            .cloned()
    }

    /// A namespace's object.
    pub(super) fn namespace(&self, name: &str) -> Option<&Arc<Value>> {
        self.store.find(&Key {
            resource: "namespaces".into(),
            namespace: String::new(),
            name: name.to_owned(),
        })
    }

    /// All objects of a built-in resource, by its qualified name.
    pub(super) fn all(&self, qualified: &str) -> Vec<Arc<Value>> {
        let scope = Scope {
            resource: qualified.into(),
            namespace: None,
        };
        self.store
            .list(&scope)
            .map(|(_, object)| object.clone())
            .collect()
    }
}

/// The server's parts that all requests share.
#[derive(Debug)]
pub(super) struct Api {
    state: Mutex<State>,
    /// Tells watches the number of the last change.
    revisions: watch::Sender<u64>,
    pub(super) faults: Faults,
    pub(super) issuer: Issuer,
    /// Where the ports of pods are served on this machine, by namespace and pod.
    pub(super) pod_ports: Mutex<HashMap<(String, String), HashMap<u16, SocketAddr>>>,
    /// Where the webhooks behind Services are served on this machine, by namespace and Service.
    pub(super) service_addresses: Mutex<HashMap<(String, String), SocketAddr>>,
}

impl Api {
    /// A server with the namespaces that every cluster has.
    pub(super) fn new(issuer: Issuer) -> Self {
        let mut state = State {
            store: Store::new(),
            table: Table::built_in(),
            addresses: Addresses::default(),
        };
        for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
            let namespace = json!({
                "kind": "Namespace",
                "apiVersion": "v1",
                "metadata": {
                    "name": name,
                    "uid": meta::uid(),
                    "creationTimestamp": meta::now(),
                    "labels": { "kubernetes.io/metadata.name": name },
                },
                "spec": { "finalizers": ["kubernetes"] },
                "status": { "phase": "Active" },
            });
            let key = Key {
                resource: "namespaces".into(),
                namespace: String::new(),
                name: name.to_owned(),
            };
            state.store.put(key, namespace);
        }
        Self {
            revisions: watch::Sender::new(state.store.revision()),
            state: Mutex::new(state),
            faults: Faults::default(),
            issuer,
            pod_ports: Mutex::default(),
            service_addresses: Mutex::default(),
        }
    }

    /// The state; watches are told of what was changed when the guard goes.
    pub(super) fn lock(&self) -> Guard<'_> {
        Guard {
            // A panic in one request must not end the others, and no change is made in steps.
            state: self.state.lock().unwrap_or_else(PoisonError::into_inner),
            revisions: &self.revisions,
        }
    }

    /// The number of the last change, and its changes.
    pub(super) fn revisions(&self) -> watch::Receiver<u64> {
        self.revisions.subscribe()
    }
}

/// The locked state.
pub(super) struct Guard<'a> {
    state: MutexGuard<'a, State>,
    revisions: &'a watch::Sender<u64>,
}

impl std::ops::Deref for Guard<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl std::ops::DerefMut for Guard<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let revision = self.state.store.revision();
        self.revisions.send_if_modified(|told| {
            let news = *told != revision;
            *told = revision;
            news
        });
    }
}

/// One request, authenticated and read.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) target: Target,
    pub(super) query: Query,
    pub(super) user: User,
    /// Who owns the fields that this request sets: `fieldManager`, or the name in `User-Agent`.
    pub(super) manager: String,
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) groups: Vec<String>,
    pub(super) extra: Value,
}

impl User {
    /// `authentication.k8s.io/v1 UserInfo`.
    pub(super) fn info(&self) -> Value {
        let mut info = json!({ "username": self.name, "groups": self.groups });
        if !self.uid.is_empty() {
            info["uid"] = self.uid.as_str().into();
        }
        if !self.extra.is_null() {
            info["extra"] = self.extra.clone();
        }
        info
    }
}

/// Where an object of a resource is stored.
pub(super) fn key(resource: &Resource, namespace: &str, name: &str) -> Key {
    Key {
        resource: stored_as(resource).into(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// The part of the store that a target without a name lists.
pub(super) fn scope(target: &Target) -> Scope {
    Scope {
        resource: stored_as(&target.resource).into(),
        namespace: target.namespace.clone(),
    }
}

/// Both kinds of Event are one.
fn stored_as(resource: &Resource) -> String {
    match resource.qualified().as_str() {
        "events.events.k8s.io" => "events".to_owned(),
        qualified => qualified.to_owned(),
    }
}
