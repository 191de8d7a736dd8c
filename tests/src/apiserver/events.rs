//! `v1` and `events.k8s.io/v1` Events are the same objects under two names; stored in the `v1` form.

use std::borrow::Cow;

use serde_json::Value;

use super::resource::Resource;

/// `(v1, events.k8s.io/v1)` names of a field.
const FIELDS: [(&str, &str); 6] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// A stored object as a resource shows it.
pub(super) fn view<'a>(object: &'a Value, resource: &Resource) -> Cow<'a, Value> {
    if resource.group == "events.k8s.io" {
        let mut event = object.clone();
        rename(&mut event, FIELDS.into_iter());
        move_field(&mut event, "source", "deprecatedSource");
        move_field(&mut event, "reportingInstance", "reportingInstance");
        event["apiVersion"] = "events.k8s.io/v1".into();
        return Cow::Owned(event);
    }
    match &resource.custom {
        // All versions of a custom resource are stored as the one in which they were written.
        Some(_) if object["apiVersion"] != resource.api_version() => {
            let mut object = object.clone();
            object["apiVersion"] = resource.api_version().into();
            Cow::Owned(object)
        }
        _ => Cow::Borrowed(object),
    }
}

/// An object that a resource was given, in the form in which it is stored.
pub(super) fn stored(mut object: Value, resource: &Resource) -> Value {
    if resource.group == "events.k8s.io" {
        rename(
            &mut object,
            FIELDS.into_iter().map(|(core, new)| (new, core)),
        );
        move_field(&mut object, "deprecatedSource", "source");
        object["apiVersion"] = "v1".into();
    }
    object
}

fn rename<'a>(event: &mut Value, fields: impl Iterator<Item = (&'a str, &'a str)>) {
    for (from, to) in fields {
        move_field(event, from, to);
    }
}

fn move_field(event: &mut Value, from: &str, to: &str) {
    if let Some(map) = event.as_object_mut()
        && let Some(value) = map.remove(from)
    {
        map.insert(to.to_owned(), value);
    }
}
