//! A map from a key to the names of the objects that refer to it.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

use super::record::Name;

/// Ordered sets, so that what is derived from them depends on the objects only and not on their history.
pub(super) struct Links<K>(HashMap<K, BTreeSet<Name>>);

impl<K: Hash + Eq + Clone> Links<K> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    pub(super) fn add(&mut self, key: &K, name: &Name) {
        self.0.entry(key.clone()).or_default().insert(name.clone());
    }

    pub(super) fn remove(&mut self, key: &K, name: &Name) {
        if let Some(names) = self.0.get_mut(key) {
            names.remove(name);
            if names.is_empty() {
                self.0.remove(key);
            }
        }
    }

    /// The names in order.
    pub(super) fn of(&self, key: &K) -> impl Iterator<Item = &Name> {
        self.0.get(key).into_iter().flatten()
    }
}
