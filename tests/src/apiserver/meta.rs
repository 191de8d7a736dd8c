//! Rules for `metadata`: what names look like, and which fields the server keeps for itself.

use serde_json::{Value, json};

use super::{resource::Resource, status::Cause};

/// Checks `metadata` of an object that is to be stored.
pub(super) fn validate(resource: &Resource, object: &Value) -> Vec<Cause> {
    let metadata = &object["metadata"];
    let mut causes = Vec::new();
    let name = metadata["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        causes.push(Cause::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else if let Some(detail) = bad_name(resource, name) {
        causes.push(Cause::invalid("metadata.name", &name.into(), detail));
    }
    for (label, value) in metadata["labels"].as_object().into_iter().flatten() {
        if !qualified(label) {
            let detail = concat!(
                "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with ",
                "an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation ",
                "is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
            );
            causes.push(Cause::invalid(
                "metadata.labels",
                &label.as_str().into(),
                detail,
            ));
        }
        if !value.as_str().is_some_and(label_value) {
            let detail = concat!(
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', ",
                "and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or ",
                "'12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            );
            causes.push(Cause::invalid("metadata.labels", value, detail));
        }
    }
    for (annotation, _) in metadata["annotations"].as_object().into_iter().flatten() {
        if !qualified(&annotation.to_lowercase()) {
            let detail = "name part must be non-empty";
            causes.push(Cause::invalid(
                "metadata.annotations",
                &annotation.as_str().into(),
                detail,
            ));
        }
    }
    for finalizer in metadata["finalizers"].as_array().into_iter().flatten() {
        if !finalizer.as_str().is_some_and(qualified) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            causes.push(Cause::invalid("metadata.finalizers[0]", finalizer, detail));
        }
    }
    for (index, owner) in metadata["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner[field].as_str().is_none_or(str::is_empty) {
                let path = format!("metadata.ownerReferences[{index}].{field}");
                causes.push(Cause::invalid(&path, &json!(""), "must not be empty"));
            }
        }
    }
    causes
}

/// Checks what an update may not change of `metadata`.
pub(super) fn validate_update(object: &Value, old: &Value) -> Vec<Cause> {
    let immutable = |field: &str| {
        let (new, old) = (&object["metadata"][field], &old["metadata"][field]);
        (new != old)
            .then(|| Cause::invalid(&format!("metadata.{field}"), new, "field is immutable"))
    };
    let mut causes: Vec<_> = ["name", "namespace", "uid"]
        .into_iter()
        .filter_map(immutable)
        .collect();
    if is_deleting(old) {
        let old = finalizers(old);
        let added: Vec<_> = finalizers(object)
            .into_iter()
            .filter(|name| !old.contains(name))
            .collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
            );
            causes.push(Cause {
                field: "metadata.finalizers".to_owned(),
                kind: "FieldValueForbidden",
                message: format!("Forbidden: {detail}"),
            });
        }
    }
    causes
}

/// Whether deletion has begun.
pub(super) fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// The names of those who must act before the object may go.
pub(super) fn finalizers(object: &Value) -> Vec<&str> {
    let finalizers = object["metadata"]["finalizers"].as_array();
    finalizers
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// Removes empty maps and lists and nulls from `metadata`, as an encoder of the real types leaves them out.
pub(super) fn tidy(object: &mut Value) {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.retain(|_, value| match value {
            Value::Null => false,
            Value::Object(map) => !map.is_empty(),
            Value::Array(list) => !list.is_empty(),
            Value::String(text) => !text.is_empty(),
            _ => true,
        });
    }
}

/// A random name that begins so (`k8s.io/apiserver/pkg/storage/names`).
pub(super) fn generate_name(prefix: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let prefix: String = prefix.chars().take(58).collect();
    let random = (0..5).map(|_| char::from(LETTERS[fastrand::usize(..LETTERS.len())]));
    prefix + &random.collect::<String>()
}

/// A random UUID (version 4).
pub(super) fn uid() -> String {
    let bits = fastrand::u128(..);
    let bits = bits & !(0xf << 76) | (0x4 << 76);
    let bits = bits & !(0x3 << 62) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let (a, b, c, d, e) = (
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    );
    format!("{a}-{b}-{c}-{d}-{e}")
}

/// Now, as `metav1.Time` writes it: UTC, seconds.
pub(super) fn now() -> String {
    timestamp(jiff::Timestamp::now())
}

/// A moment as `metav1.Time` writes it.
pub(super) fn timestamp(moment: jiff::Timestamp) -> String {
    moment.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn bad_name(resource: &Resource, name: &str) -> Option<&'static str> {
    const SUBDOMAIN: &str = concat!(
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must ",
        "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is ",
        "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
    );
    const LABEL: &str = concat!(
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and ",
        "end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is ",
        "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
    );
    const SERVICE: &str = concat!(
        "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic ",
        "character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for ",
        "validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
    );
    const SEGMENT: &str = "may not be '.' or '..', or contain '/' or '%'";
    if resource.group == "rbac.authorization.k8s.io" {
        let bad = name == "." || name == ".." || name.contains(['/', '%']);
        return bad.then_some(SEGMENT);
    }
    if resource.is("", "namespaces") {
        return (!label(name)).then_some(LABEL);
    }
    if resource.is("", "services") {
        let letter = name.starts_with(|char: char| char.is_ascii_lowercase());
        return (!(label(name) && letter)).then_some(SERVICE);
    }
    (!subdomain(name)).then_some(SUBDOMAIN)
}

/// RFC 1123 label.
fn label(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|&byte| legal(byte) || byte == b'-')
        && legal(bytes[0])
        && legal(bytes[bytes.len() - 1])
}

/// RFC 1123 subdomain.
fn subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(label)
}

/// `[prefix/]name` of labels, annotations and finalizers.
fn qualified(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => subdomain(prefix) && !name.is_empty() && label_value(name),
        None => !key.is_empty() && label_value(key),
    }
}

fn label_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    bytes.len() <= 63 && bytes.iter().all(inner) && edge(bytes.first()) && edge(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let pods = Resource::default();
        for name in ["a", "a.b", "0-a.b-1", &"a".repeat(63)] {
            assert_eq!(bad_name(&pods, name), None, "{name}");
        }
        for name in ["A", "-a", "a-", "a..b", "a_b", "a/b", &"a".repeat(64)] {
            assert!(bad_name(&pods, name).is_some(), "{name}");
        }
    }

    #[test]
    fn uids_are_version_4() {
        let uid = uid();
        assert_eq!(uid.len(), 36);
        assert_eq!(&uid[14..15], "4");
        assert!("89ab".contains(&uid[19..20]), "{uid}");
    }

    #[test]
    fn generated_names_keep_the_prefix_and_stay_names() {
        let name = generate_name("web-");
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert!(label(&generate_name(&"x".repeat(80))));
    }
}
