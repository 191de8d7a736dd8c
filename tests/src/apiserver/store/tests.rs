//! The store against a naive one that keeps every state it ever had.

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Remove(u8, u8),
    Compact,
}

fn step() -> impl Strategy<Value = Step> {
    let place = (0u8..3, 0u8..4);
    prop_oneof![
        4 => place.clone().prop_map(|(namespace, name)| Step::Put(namespace, name)),
        2 => place.prop_map(|(namespace, name)| Step::Remove(namespace, name)),
        1 => Just(Step::Compact),
    ]
}

fn key(resource: &str, namespace: u8, name: u8) -> Key {
    Key {
        resource: resource.into(),
        namespace: format!("ns-{namespace}"),
        name: format!("name-{name}"),
    }
}

fn scope(namespace: Option<u8>) -> Scope {
    Scope {
        resource: "pods".into(),
        namespace: namespace.map(|namespace| format!("ns-{namespace}")),
    }
}

type State = BTreeMap<Key, Arc<Value>>;

proptest! {
    #[test]
    fn every_kept_revision_can_be_listed_and_watched_from(steps in prop::collection::vec(step(), 0..60)) {
        let mut store = Store::new();
        store.put(key("other", 0, 0), json!({ "metadata": {} }));
        let mut states: BTreeMap<u64, State> = BTreeMap::new();
        let mut now = State::new();
        states.insert(store.revision(), now.clone());
        let mut horizon = 1;
        for step in steps {
            match step {
                Step::Put(namespace, name) => {
                    let key = key("pods", namespace, name);
                    let stored = store.put(key.clone(), json!({ "metadata": {} }));
                    prop_assert_eq!(&stored["metadata"]["resourceVersion"], &json!(store.revision().to_string()));
                    now.insert(key, stored);
                }
                Step::Remove(namespace, name) => {
                    let key = key("pods", namespace, name);
                    let removed = store.remove(&key);
                    prop_assert_eq!(removed.is_some(), now.remove(&key).is_some());
                }
                Step::Compact => {
                    store.compact();
                    horizon = store.revision();
                }
            }
            states.insert(store.revision(), now.clone());
        }
        for (revision, state) in &states {
            let listed = store.list_at(&scope(None), *revision);
            if *revision < horizon {
                prop_assert_eq!(listed, Err(Compacted { horizon }));
                continue;
            }
            prop_assert_eq!(listed.as_ref(), Ok(state));
            // A watch from there arrives at what is there now.
            let mut seen = state.clone();
            for change in store.changes_after(*revision).expect("kept") {
                prop_assert_eq!(seen.get(&change.key), change.before.as_ref());
                match &change.after {
                    Some(after) => seen.insert(change.key.clone(), after.clone()),
                    None => seen.remove(&change.key),
                };
            }
            prop_assert_eq!(&seen, &now);
        }
        for namespace in 0..3 {
            let listed: Vec<&Key> = store.list(&scope(Some(namespace))).map(|(key, _)| key).collect();
            let expected: Vec<&Key> = now.keys().filter(|key| scope(Some(namespace)).holds(key)).collect();
            prop_assert_eq!(listed, expected);
        }
    }
}

#[test]
fn a_deleted_object_is_gone_with_the_number_of_its_deletion() {
    let mut store = Store::new();
    store.put(key("pods", 0, 0), json!({ "metadata": {} }));
    let last = store.remove(&key("pods", 0, 0)).expect("it was there");
    assert_eq!(
        last["metadata"]["resourceVersion"],
        store.revision().to_string()
    );
    assert!(store.find(&key("pods", 0, 0)).is_none());
}
