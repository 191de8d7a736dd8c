//! What holds for every workload, however it is written.

use proptest::{collection::vec, option, prelude::*};
use serde_json::{Map, Value, json};

use super::{labelled, removed, rendered};
use crate::inject::document::{Format, parse, render, split};

/// Words that YAML could take for something else are among them.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,5}",
        "[ -~]{0,9}",
        "[a \n\t:#-]{0,12}",
        Just("yes".to_owned()),
        Just("0644".to_owned()),
        Just("1e3".to_owned()),
        Just("null".to_owned()),
        Just("a: b # c".to_owned()),
        Just("line\n--- \nline\n".to_owned()),
    ]
}

fn map() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[a-z.]{1,4}", text(), 1..3).prop_map(|map| json!(map))
}

fn template() -> impl Strategy<Value = Value> {
    let container = (text(), option::of(map())).prop_map(|(name, env)| match env {
        Some(env) => json!({"name": name, "x": env}),
        None => json!({"name": name}),
    });
    let metadata = (option::of(map()), option::of(map()));
    (metadata, vec(container, 1..3)).prop_map(|((labels, annotations), containers)| {
        let fields = [("labels", labels), ("annotations", annotations)];
        let present = fields
            .into_iter()
            .filter_map(|(name, map)| Some((name.into(), map?)));
        let metadata: Map<String, Value> = present.collect();
        match metadata.is_empty() {
            true => json!({"spec": {"containers": containers}}),
            false => json!({"metadata": metadata, "spec": {"containers": containers}}),
        }
    })
}

fn workload() -> impl Strategy<Value = Value> {
    let kinds = prop_oneof![
        Just(("apps/v1", "Deployment")),
        Just(("apps/v1", "StatefulSet")),
        Just(("apps/v1", "DaemonSet")),
        Just(("apps/v1", "ReplicaSet")),
        Just(("batch/v1", "Job")),
        Just(("batch/v1", "CronJob")),
        Just(("v1", "ReplicationController")),
        Just(("v1", "Pod")),
        Just(("v1", "Service")),
    ];
    (kinds, template()).prop_map(|((version, kind), template)| {
        let head = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}});
        let mut object = head;
        match kind {
            "Pod" => {
                object["metadata"] = template["metadata"].clone();
                object["metadata"]["name"] = json!("a");
                object["spec"] = template["spec"].clone();
            }
            "CronJob" => object["spec"]["jobTemplate"]["spec"]["template"] = template,
            _ => object["spec"]["template"] = template,
        }
        object
    })
}

/// One document or several, in one of the ways in which they are written.
fn stream() -> impl Strategy<Value = String> {
    let writings = 0..4u8;
    (vec(workload(), 1..4), writings).prop_map(|(objects, writing)| match writing {
        0 => objects.iter().map(|object| object.to_string()).collect(),
        1 => serde_json::to_string_pretty(&json!({"kind": "List", "items": objects})).unwrap(),
        2 => render(Format::Yaml, &json!({"kind": "List", "items": objects})).unwrap(),
        _ => objects
            .iter()
            .map(|object| render(Format::Yaml, object).unwrap())
            .collect::<Vec<_>>()
            .join("---\n# more\n"),
    })
}

fn values(text: &str) -> Vec<Value> {
    split("test", text)
        .unwrap()
        .into_iter()
        .map(|document| document.value)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_label_comes_and_goes_byte_for_byte(text in stream()) {
        let with = labelled(&text);
        prop_assert_eq!(labelled(&with), with.clone());
        prop_assert_eq!(removed(&with), text);
    }

    #[test]
    fn a_rendered_proxy_comes_and_goes(text in stream()) {
        let with = rendered(&text);
        prop_assert_eq!(rendered(&with), with.clone());
        prop_assert_eq!(values(&removed(&with)), values(&text));
    }

    #[test]
    fn what_is_written_is_what_is_read(value in map()) {
        let text = render(Format::Yaml, &value).unwrap();
        prop_assert_eq!(parse(Format::Yaml, &text).unwrap(), value);
    }

    #[test]
    fn documents_are_the_whole_stream(text in "(--- ?[a-z]?\n|[a-z]: [0-9]\n|# x\n|\\.\\.\\.\n|\n){0,9}") {
        if let Ok(documents) = split("test", &text) {
            let whole: String = documents.iter().map(|document| document.text).collect();
            prop_assert_eq!(whole, text);
        }
    }

    #[test]
    fn any_text_is_judged(text: String) {
        if let Ok(documents) = split("test", &text) {
            for document in documents {
                document.tree();
            }
        }
    }
}
