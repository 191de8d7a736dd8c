//! Versioned objects and the log of their changes. Pure: no I/O, no clock.
//!
//! One counter numbers all changes, as in etcd: an object's `resourceVersion` is the number of its last
//! change, a list's is the counter. The log keeps the changes since the horizon, so that a watch can go on
//! from a revision and a list can be continued as of a revision; what lies before the horizon is compacted.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use serde_json::Value;

/// How many changes are kept for watches to go on from.
const LOG_LENGTH: usize = 100_000;

/// Where an object is stored. Sorts as lists do: by namespace, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// The resource's qualified name, such as `deployments.apps`.
    pub(super) resource: Arc<str>,
    /// Empty for objects of the cluster.
    pub(super) namespace: String,
    pub(super) name: String,
}

/// A part of the store: all objects of a resource, or those of it in one namespace.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scope {
    pub(super) resource: Arc<str>,
    pub(super) namespace: Option<String>,
}

impl Scope {
    pub(super) fn holds(&self, key: &Key) -> bool {
        let here = self.namespace.as_ref();
        key.resource == self.resource && here.is_none_or(|namespace| *namespace == key.namespace)
    }
}

/// An object was created (no `before`), changed, or deleted (no `after`).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) revision: u64,
    pub(super) key: Key,
    pub(super) before: Option<Arc<Value>>,
    pub(super) after: Option<Arc<Value>>,
}

/// The revision asked for lies before the horizon; it holds the oldest that does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the oldest revision that is kept is {horizon}")]
pub(super) struct Compacted {
    pub(super) horizon: u64,
}

/// The objects and their log.
#[derive(Debug)]
pub(super) struct Store {
    revision: u64,
    horizon: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    log: VecDeque<Change>,
}

impl Store {
    /// An empty store at revision 1.
    pub(super) fn new() -> Self {
        Self {
            revision: 1,
            horizon: 1,
            objects: BTreeMap::new(),
            log: VecDeque::new(),
        }
    }

    /// The number of the last change.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn find(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// Creates or replaces an object; its `metadata.resourceVersion` becomes the number of this change.
    pub(super) fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        stamp(&mut object, self.revision);
        let object = Arc::new(object);
        let before = self.objects.insert(key.clone(), object.clone());
        self.record(key, before, Some(object.clone()));
        object
    }

    /// Deletes an object and returns it as it was, with the number of its deletion.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let before = self.objects.remove(key)?;
        self.revision += 1;
        let mut last = Value::clone(&before);
        stamp(&mut last, self.revision);
        self.record(key.clone(), Some(before), None);
        Some(Arc::new(last))
    }

    /// The objects of a scope, in order.
    pub(super) fn list(&self, scope: &Scope) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        let first = Key {
            resource: scope.resource.clone(),
            namespace: scope.namespace.clone().unwrap_or_default(),
            name: String::new(),
        };
        let scope = scope.clone();
        self.objects
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(key, _)| scope.holds(key))
    }

    /// The objects of a scope as they were at a revision, in order.
    ///
    /// # Errors
    /// The revision lies before the horizon.
    pub(super) fn list_at(
        &self,
        scope: &Scope,
        revision: u64,
    ) -> Result<BTreeMap<Key, Arc<Value>>, Compacted> {
        let later = self.changes_after(revision)?;
        let now = self.list(scope);
        let mut objects: BTreeMap<_, _> = now.map(|(k, v)| (k.clone(), v.clone())).collect();
        let undo: Vec<&Change> = later.filter(|change| scope.holds(&change.key)).collect();
        for change in undo.into_iter().rev() {
            match &change.before {
                Some(before) => objects.insert(change.key.clone(), before.clone()),
                None => objects.remove(&change.key),
            };
        }
        Ok(objects)
    }

    /// The changes that came after a revision, in order.
    ///
    /// # Errors
    /// The revision lies before the horizon.
    pub(super) fn changes_after(
        &self,
        revision: u64,
    ) -> Result<impl Iterator<Item = &Change>, Compacted> {
        if revision < self.horizon {
            return Err(Compacted {
                horizon: self.horizon,
            });
        }
        let first = self
            .log
            .partition_point(|change| change.revision <= revision);
        Ok(self.log.range(first..))
    }

    /// Forgets how the store was before now.
    pub(super) fn compact(&mut self) {
        self.log.clear();
        self.horizon = self.revision;
    }

    fn record(&mut self, key: Key, before: Option<Arc<Value>>, after: Option<Arc<Value>>) {
        if self.log.len() == LOG_LENGTH
            && let Some(oldest) = self.log.pop_front()
        {
            self.horizon = oldest.revision;
        }
        self.log.push_back(Change {
            revision: self.revision,
            key,
            before,
            after,
        });
    }
}

/// Sets `metadata.resourceVersion`.
pub(super) fn stamp(object: &mut Value, revision: u64) {
    object["metadata"]["resourceVersion"] = revision.to_string().into();
}

#[cfg(test)]
#[path = "store/tests.rs"]
mod tests;
