//! Sets of fields, as `metadata.managedFields` writes them (`fieldsV1`), and what two objects differ in.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::apiserver::schema::{List, Schema};

/// A way into an object; the steps are written as in `fieldsV1`: `f:name`, `k:{"name":"a"}`, `v:"item"`.
pub(super) type Path = Vec<String>;

/// Fields of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct FieldSet(pub(super) BTreeSet<Path>);

impl FieldSet {
    /// All fields that an object sets.
    pub(super) fn of(object: &Value, schema: &Schema<'_>) -> Self {
        Self(leaves(object, schema).into_keys().collect())
    }

    /// Reads `fieldsV1`.
    pub(super) fn parse(fields: &Value) -> Self {
        let mut set = Self::default();
        set.read(fields, &Vec::new());
        set
    }

    fn read(&mut self, fields: &Value, path: &Path) {
        let Some(map) = fields.as_object() else {
            return;
        };
        if map.is_empty() && !path.is_empty() {
            self.0.insert(path.clone());
        }
        for (step, inner) in map {
            if step == "." {
                self.0.insert(path.clone());
            } else {
                let mut path = path.clone();
                path.push(step.clone());
                self.read(inner, &path);
            }
        }
    }

    /// Writes `fieldsV1`.
    pub(super) fn render(&self) -> Value {
        let mut root = Map::new();
        for path in &self.0 {
            let mut at = &mut root;
            for step in path {
                let inner = at.entry(step.clone()).or_insert_with(|| json!({}));
                let Value::Object(inner) = inner else {
                    unreachable!("only objects are inserted here");
                };
                at = inner;
            }
            // Other fields lie below this one, or may come: a path sorts before those that it leads to.
            at.insert(".".to_owned(), json!({}));
        }
        let mut fields = Value::Object(root);
        fold_leaves(&mut fields);
        fields
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.extend(other.0.iter().cloned());
    }

    pub(super) fn remove(&mut self, other: &Self) {
        self.0.retain(|path| !other.0.contains(path));
    }

    pub(super) fn common(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).cloned().collect())
    }

    /// Whether it holds this field or one below it.
    pub(super) fn reaches(&self, path: &Path) -> bool {
        let first = self.0.range(path.clone()..).next();
        first.is_some_and(|found| found.starts_with(path))
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Path) -> bool) {
        self.0.retain(keep);
    }
}

/// `{".": {}}` alone is written `{}`.
fn fold_leaves(fields: &mut Value) {
    let Some(map) = fields.as_object_mut() else {
        return;
    };
    if map.len() == 1 && map.contains_key(".") {
        map.clear();
    }
    map.iter_mut()
        .filter(|(step, _)| *step != ".")
        .for_each(|(_, inner)| fold_leaves(inner));
}

/// The fields that differ between two objects.
#[derive(Debug)]
pub(super) struct Comparison {
    /// There only in the new one, or of another value.
    pub(super) set: FieldSet,
    /// There only in the old one.
    pub(super) removed: FieldSet,
}

impl Comparison {
    pub(super) fn new(old: &Value, new: &Value, schema: &Schema<'_>) -> Self {
        let (before, after) = (leaves(old, schema), leaves(new, schema));
        let set = after
            .iter()
            .filter(|(path, value)| before.get(*path) != Some(*value));
        let mut set: BTreeSet<Path> = set.map(|(path, _)| path.clone()).collect();
        maps(new, old, schema, &Vec::new(), &mut set);
        let removed = before.keys().filter(|path| !after.contains_key(*path));
        Self {
            set: FieldSet(set),
            removed: FieldSet(removed.cloned().collect()),
        }
    }
}

/// Maps with free keys that are new count as fields of their own.
fn maps(new: &Value, old: &Value, schema: &Schema<'_>, path: &Path, set: &mut BTreeSet<Path>) {
    let Some(map) = new.as_object() else {
        return;
    };
    for (field, value) in map {
        let (inner, path) = (schema.field(field), step(path, format!("f:{field}")));
        if value.is_object() && !inner.is_atomic() {
            if inner.is_free() && old.get(field).is_none_or(Value::is_null) {
                set.insert(path.clone());
            }
            maps(value, &old[field], &inner, &path, set);
        }
    }
}

/// The fields of an object with their values; those that only hold others have none.
fn leaves<'a>(object: &'a Value, schema: &Schema<'_>) -> BTreeMap<Path, Option<&'a Value>> {
    let mut found = BTreeMap::new();
    walk(object, schema, &Vec::new(), &mut found);
    found
}

fn walk<'a>(
    value: &'a Value,
    schema: &Schema<'_>,
    path: &Path,
    found: &mut BTreeMap<Path, Option<&'a Value>>,
) {
    match value {
        Value::Object(map) if path.is_empty() || !schema.is_atomic() => {
            for (field, value) in map {
                let path = step(path, format!("f:{field}"));
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                if empty || (schema.is_free() && !value.is_object()) {
                    found.insert(path, Some(value));
                } else {
                    if schema.is_free() {
                        found.insert(path.clone(), None);
                    }
                    walk(value, &schema.field(field), &path, found);
                }
            }
        }
        Value::Array(list) => match schema.list() {
            List::Atomic => {
                found.insert(path.clone(), Some(value));
            }
            List::Set => {
                for item in list {
                    found.insert(step(path, format!("v:{item}")), Some(item));
                }
            }
            List::Map(keys) => {
                for item in list {
                    let path = step(path, format!("k:{}", item_key(item, &keys)));
                    walk(item, &schema.item(), &path, found);
                    found.entry(path).or_insert(None);
                }
            }
        },
        value => {
            found.insert(path.clone(), Some(value));
        }
    }
}

fn step(path: &Path, step: String) -> Path {
    let mut path = path.clone();
    path.push(step);
    path
}

/// What tells an item of a list from others; ports are of TCP unless they say otherwise.
pub(super) fn item_key(item: &Value, keys: &[String]) -> Value {
    let value = |key: &String| match (&item[key], key.as_str()) {
        (Value::Null, "protocol") => json!("TCP"),
        (value, _) => value.clone(),
    };
    keys.iter().map(|key| (key.clone(), value(key))).collect()
}

/// A path as errors write it: `.spec.containers[name="a"].image`.
pub(super) fn display(path: &Path) -> String {
    let step = |step: &String| match step.split_once(':') {
        Some(("f", field)) => format!(".{field}"),
        Some(("k", key)) => {
            let key: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
            let parts: Vec<String> = key.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", parts.join(","))
        }
        Some((_, value)) => format!("[={value}]"),
        None => step.clone(),
    };
    path.iter().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::resource::Table;

    #[test]
    fn fields_are_written_and_read_back() {
        let table = Table::built_in();
        let services = table.find("", "v1", "services").expect("services");
        let schema = Schema::of(&services);
        let service = json!({
            "metadata": { "labels": { "a": "b" } },
            "spec": { "ports": [{ "port": 80, "name": "http" }], "selector": { "app": "x" } },
        });
        let set = FieldSet::of(&service, &schema);
        let rendered = set.render();
        assert_eq!(
            rendered,
            json!({
                "f:metadata": { "f:labels": { "f:a": {} } },
                "f:spec": {
                    "f:ports": {
                        "k:{\"port\":80,\"protocol\":\"TCP\"}": { ".": {}, "f:port": {}, "f:name": {} },
                    },
                    "f:selector": {},
                },
            })
        );
        assert_eq!(FieldSet::parse(&rendered), set);
    }

    #[test]
    fn paths_are_shown_as_in_conflicts() {
        let path: Path = ["f:spec", "f:ports", "k:{\"port\":80}", "f:name"]
            .map(str::to_owned)
            .into();
        assert_eq!(display(&path), ".spec.ports[port=80].name");
    }
}
