//! What has been told of one kind: enough to find out what a relist or a check shows to be missing. Pure.

use std::collections::HashMap;

use crate::source::ObjectKey;

/// Names and versions of the objects of which [`Applied`](crate::source::Event::Applied) was the last word.
#[derive(Default)]
pub(super) struct Known {
    told: HashMap<ObjectKey, Told>,
    /// Counts lists: what a complete list did not contain is gone.
    lists: u32,
}

struct Told {
    version: Box<str>,
    /// The last list that contained it.
    list: u32,
}

/// Names and versions as the API server holds them.
#[derive(Default)]
pub(super) struct Listing(pub(super) HashMap<ObjectKey, String>);

/// Objects that a list shows otherwise than they are known, each with the version that is known.
pub(super) struct Suspects(pub(super) HashMap<ObjectKey, Option<Box<str>>>);

impl Known {
    /// A list begins; one that had begun before has failed.
    pub(super) fn begin_list(&mut self) {
        self.lists = self.lists.wrapping_add(1);
    }

    /// The object exists in this version. Returns whether that is news.
    ///
    /// Versions are compared for equality only: their order is the API server's own business.
    pub(super) fn apply(&mut self, key: &ObjectKey, version: &str) -> bool {
        let list = self.lists;
        match self.told.get_mut(key) {
            Some(told) => {
                told.list = list;
                let is_news = *told.version != *version;
                if is_news {
                    told.version = version.into();
                }
                is_news
            }
            None => {
                let version = version.into();
                self.told.insert(key.clone(), Told { version, list });
                true
            }
        }
    }

    /// The object is gone. Returns whether that is news.
    pub(super) fn delete(&mut self, key: &ObjectKey) -> bool {
        self.told.remove(key).is_some()
    }

    /// The list is complete: what it did not contain was deleted unseen, and is returned.
    pub(super) fn end_list(&mut self) -> Vec<ObjectKey> {
        let list = self.lists;
        let gone = self.told.extract_if(|_, told| told.list != list);
        gone.map(|(key, _)| key).collect()
    }

    /// How many objects there are.
    pub(super) fn len(&self) -> usize {
        self.told.len()
    }

    /// What differs from `listing`. It need not be wrong: the list is of another moment.
    pub(super) fn suspects(&self, listing: &Listing) -> Suspects {
        let unlisted = self.told.keys().filter(|key| !listing.0.contains_key(*key));
        let other = listing.0.iter().filter_map(|(key, version)| {
            (self.version(key) != Some(version.as_str())).then_some(key)
        });
        let suspects = unlisted
            .chain(other)
            .map(|key| (key.clone(), self.version(key).map(Box::from)));
        Suspects(suspects.collect())
    }

    /// Keeps the suspects of which nothing has been heard since.
    pub(super) fn retain_silent(&self, suspects: &mut Suspects) {
        suspects
            .0
            .retain(|key, version| self.version(key) == version.as_deref());
    }

    /// Keeps the suspects of which nothing has been heard since and which a later list shows otherwise, too: the watch
    /// has missed them.
    pub(super) fn retain_missed(&self, suspects: &mut Suspects, later: &Listing) {
        self.retain_silent(suspects);
        suspects
            .0
            .retain(|key, version| later.0.get(key).map(String::as_str) != version.as_deref());
    }

    fn version(&self, key: &ObjectKey) -> Option<&str> {
        self.told.get(key).map(|told| &*told.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Kind;

    fn key(name: &str) -> ObjectKey {
        ObjectKey {
            kind: Kind::Pod,
            namespace: "shop".into(),
            name: name.into(),
        }
    }

    fn listing(objects: &[(&str, &str)]) -> Listing {
        let entries = objects
            .iter()
            .map(|(name, version)| (key(name), (*version).to_owned()));
        Listing(entries.collect())
    }

    fn known(objects: &[(&str, &str)]) -> Known {
        let mut known = Known::default();
        known.begin_list();
        for (name, version) in objects {
            assert!(known.apply(&key(name), version));
        }
        assert!(known.end_list().is_empty());
        known
    }

    #[test]
    fn a_relist_finds_what_was_deleted_unseen() {
        let mut known = known(&[("a", "1"), ("b", "2")]);
        known.begin_list();
        assert!(!known.apply(&key("a"), "1"), "nothing new");
        // This list breaks off, and the next one begins.
        known.begin_list();
        assert!(known.apply(&key("b"), "3"));
        assert_eq!(known.end_list(), [key("a")]);
        assert!(!known.delete(&key("a")), "said already");
        assert!(known.delete(&key("b")));
    }

    #[test]
    fn only_what_stays_different_was_missed() {
        let mut known = known(&[
            ("same", "1"),
            ("missed", "1"),
            ("late", "1"),
            ("ahead", "9"),
            ("deleted", "1"),
        ]);
        let first = listing(&[
            ("same", "1"),
            ("missed", "2"),
            ("late", "2"),
            ("ahead", "8"),
            ("unseen", "1"),
            ("short", "1"),
        ]);
        let mut suspects = known.suspects(&first);
        assert_eq!(suspects.0.len(), 6);

        known.apply(&key("late"), "2");
        known.retain_silent(&mut suspects);
        assert_eq!(suspects.0.len(), 5);
        let later = listing(&[
            ("same", "1"),
            ("missed", "2"),
            ("late", "2"),
            ("ahead", "9"),
            ("unseen", "1"),
        ]);
        known.retain_missed(&mut suspects, &later);
        let mut missed: Vec<String> = suspects.0.into_keys().map(|key| key.name).collect();
        missed.sort();
        assert_eq!(missed, ["deleted", "missed", "unseen"]);
    }
}
