//! Merging what is applied into what is there, and taking single fields out.

use serde_json::{Map, Value};

use super::fieldset::{Path, item_key};
use crate::apiserver::schema::{List, Schema};

/// What is there, with what is applied in its place.
pub(super) fn merge(old: &Value, wanted: &Value, schema: &Schema<'_>) -> Value {
    match (old, wanted) {
        (Value::Object(old), Value::Object(wanted)) => {
            let mut map = old.clone();
            for (field, value) in wanted {
                let inner = schema.field(field);
                let merged = match map.get(field) {
                    Some(Value::Object(_)) if inner.is_atomic() => value.clone(),
                    Some(old) => merge(old, value, &inner),
                    None => value.clone(),
                };
                map.insert(field.clone(), merged);
            }
            Value::Object(map)
        }
        (Value::Array(old), Value::Array(wanted)) => merge_list(old, wanted, schema),
        (_, wanted) => wanted.clone(),
    }
}

fn merge_list(old: &[Value], wanted: &[Value], schema: &Schema<'_>) -> Value {
    let mut list = old.to_vec();
    match schema.list() {
        List::Atomic => return wanted.to_vec().into(),
        List::Set => {
            for item in wanted {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        }
        List::Map(keys) => {
            for item in wanted {
                let key = item_key(item, &keys);
                match list.iter_mut().find(|old| item_key(old, &keys) == key) {
                    Some(old) if schema.is_atomic() => *old = item.clone(),
                    Some(old) => *old = merge(old, item, &schema.item()),
                    None => list.push(item.clone()),
                }
            }
        }
    }
    list.into()
}

/// Takes a field out; a map that is empty then goes as well.
pub(super) fn remove(object: &mut Value, path: &Path) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    remove_step(object, first, rest);
}

fn remove_step(value: &mut Value, step: &str, rest: &[String]) {
    match (value, step.split_once(':')) {
        (Value::Object(map), Some(("f", field))) => {
            let Some((next, rest)) = rest.split_first() else {
                map.remove(field);
                return;
            };
            if let Some(inner) = map.get_mut(field) {
                let was_empty = is_empty(inner);
                remove_step(inner, next, rest);
                if is_empty(inner) && !was_empty {
                    map.remove(field);
                }
            }
        }
        (Value::Array(list), Some(("k", key))) => {
            let key: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
            let keys: Vec<String> = key.keys().cloned().collect();
            let key = Value::Object(key);
            let found = list.iter().position(|item| item_key(item, &keys) == key);
            match (found, rest.split_first()) {
                (Some(index), None) => {
                    list.remove(index);
                }
                (Some(index), Some((next, rest))) => remove_step(&mut list[index], next, rest),
                (None, _) => {}
            }
        }
        (Value::Array(list), Some(("v", value))) => {
            let value: Value = serde_json::from_str(value).unwrap_or_default();
            list.retain(|item| *item != value);
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}
