//! What holds for every pod.

use k8s_openapi::api::core::v1::Pod;
use proptest::{collection::vec, option, prelude::*};
use serde_json::{Map, Value, json};

use super::{classic, injected, opted_in};
use crate::inject::{Injection, Reason, Settings, inject, opt_in, remarks, uninject};

fn map() -> impl Strategy<Value = Option<Value>> {
    let entries = proptest::collection::btree_map("[a-z]{1,3}", "[a-z ]{0,3}", 1..3);
    option::of(entries.prop_map(|entries| json!(entries)))
}

fn handler() -> impl Strategy<Value = Value> {
    prop_oneof![
        (1..9000u16).prop_map(|port| json!({"tcpSocket": {"port": port}})),
        Just(json!({"tcpSocket": {"port": "http"}, "periodSeconds": 5})),
        Just(json!({"tcpSocket": {"port": "http", "host": "elsewhere"}})),
        Just(json!({"httpGet": {"path": "/", "port": "http"}})),
        Just(json!({"grpc": {"port": 9000}, "timeoutSeconds": 2})),
        Just(json!({"exec": {"command": ["true"]}})),
    ]
}

fn container(name: &'static str) -> impl Strategy<Value = Value> {
    let ports = vec((1..4000u16, prop_oneof!["http", "[a-z]{1,4}"]), 0..3);
    let security = option::of(prop_oneof![
        (0..2000i64).prop_map(|user| json!({"runAsUser": user})),
        Just(json!({"privileged": true})),
    ]);
    let probes = (option::of(handler()), option::of(handler()));
    (0..100u8, ports, security, probes).prop_map(move |(number, ports, security, probes)| {
        let ports = ports
            .iter()
            .map(|(port, name)| json!({"containerPort": port, "name": name}));
        object([
            ("name", Some(json!(format!("{name}-{number}")))),
            ("image", Some(json!("image"))),
            ("ports", not_empty(ports.collect())),
            ("securityContext", security),
            ("readinessProbe", probes.0),
            ("livenessProbe", probes.1),
        ])
    })
}

/// Without empty maps and lists, which Kubernetes does not tell from absent ones.
fn pod() -> impl Strategy<Value = Value> {
    let containers = (vec(container("app"), 1..4), vec(container("setup"), 0..3));
    let volumes = vec("[a-z]{1,4}", 0..3);
    let flags = (any::<bool>(), option::of(1..100i64));
    (map(), map(), containers, volumes, flags).prop_map(
        |(labels, annotations, (containers, setup), volumes, (share, grace))| {
            let volumes = volumes
                .iter()
                .map(|name| json!({"name": name, "emptyDir": {}}));
            let metadata = object([("labels", labels), ("annotations", annotations)]);
            let spec = object([
                ("containers", Some(json!(containers))),
                ("initContainers", not_empty(setup)),
                ("volumes", not_empty(volumes.collect())),
                ("shareProcessNamespace", share.then_some(json!(true))),
                ("terminationGracePeriodSeconds", grace.map(Value::from)),
            ]);
            let metadata =
                Some(metadata).filter(|map| map.as_object().is_some_and(|m| !m.is_empty()));
            object([("metadata", metadata), ("spec", Some(spec))])
        },
    )
}

fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let present = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(present.collect::<Map<_, _>>())
}

fn not_empty(list: Vec<Value>) -> Option<Value> {
    (!list.is_empty()).then(|| json!(list))
}

proptest! {
    #[test]
    fn uninject_gives_the_original_back(pod in pod(), native: bool) {
        let settings = if native { Settings::default() } else { classic() };
        prop_assert_eq!(uninject(&injected(&pod, &settings)), pod.clone());
        let labelled = opt_in(&pod).unwrap();
        prop_assert_eq!(uninject(&labelled), pod.clone());
        prop_assert_eq!(uninject(&injected(&labelled, &settings)), pod);
    }

    #[test]
    fn injecting_twice_is_injecting_once(pod in pod(), native: bool) {
        let settings = if native { Settings::default() } else { classic() };
        let once = injected(&pod, &settings);
        for settings in [Settings::default(), classic()] {
            let twice = inject(&once, &opted_in(), &settings);
            prop_assert_eq!(twice, Ok(Injection::Skipped(Reason::AlreadyInjected)));
        }
        prop_assert_eq!(opt_in(&opt_in(&pod).unwrap()), opt_in(&pod));
    }

    #[test]
    fn kubernetes_has_a_field_for_all_of_it(pod in pod(), native: bool) {
        let settings = if native { Settings::default() } else { classic() };
        let mut injected = injected(&pod, &settings);
        injected["apiVersion"] = json!("v1");
        injected["kind"] = json!("Pod");
        let typed: Pod = serde_json::from_value(injected.clone()).unwrap();
        prop_assert_eq!(serde_json::to_value(typed).unwrap(), injected);
    }

    /// The pod's own containers are neither lost nor reordered, nor changed but for their TCP probes.
    #[test]
    fn what_the_pod_has_stays(pod in pod()) {
        let injected = injected(&pod, &Settings::default());
        let of = |pod: &Value, list: &str| pod["spec"][list].as_array().cloned().unwrap_or_default();
        let own = of(&injected, "initContainers").split_off(2);
        for (before, after) in [
            (of(&pod, "initContainers"), own),
            (of(&pod, "containers"), of(&injected, "containers")),
        ] {
            prop_assert_eq!(before.len(), after.len());
            for (before, after) in before.iter().zip(&after) {
                let fields = before.as_object().unwrap().iter();
                for (name, value) in fields.filter(|(name, _)| !name.ends_with("Probe")) {
                    prop_assert_eq!(&after[name], value);
                }
            }
        }
    }

    #[test]
    fn any_value_is_judged(text: String) {
        for value in [json!(text), json!({text.clone(): text}), json!({"spec": text})] {
            let _ = (inject(&value, &opted_in(), &Settings::default()), uninject(&value));
            remarks(&value, &opted_in());
        }
    }
}
