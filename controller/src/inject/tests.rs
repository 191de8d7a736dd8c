mod golden;
mod random;

use serde_json::json;

use super::*;

fn namespace(label: Option<&str>) -> NamespaceFacts {
    let label = label.map(|value| (names::LABEL_INJECT.to_owned(), value.to_owned()));
    NamespaceFacts {
        name: "shop".into(),
        labels: label.into_iter().collect(),
        ..NamespaceFacts::default()
    }
}

fn opted_in() -> NamespaceFacts {
    namespace(Some("enabled"))
}

/// A pod of one container, with these fields more.
fn pod(more: Value) -> Value {
    let mut pod = json!({"spec": {"containers": [{"name": "web", "image": "web:1"}]}});
    json_patch::merge(&mut pod, &more);
    pod
}

fn annotated(annotation: &str, value: &str) -> Value {
    pod(json!({"metadata": {"annotations": {annotation: value}}}))
}

fn injected(pod: &Value, settings: &Settings) -> Value {
    match inject(pod, &opted_in(), settings) {
        Ok(Injection::Injected(injected)) => injected,
        other => panic!("{other:?} of {pod}"),
    }
}

fn skipped(pod: &Value, namespace: &NamespaceFacts) -> Reason {
    match inject(pod, namespace, &Settings::default()) {
        Ok(Injection::Skipped(reason)) => reason,
        other => panic!("{other:?} of {pod}"),
    }
}

fn classic() -> Settings {
    Settings {
        native_sidecar: false,
        ..Settings::default()
    }
}

#[test]
fn the_pods_label_wins_over_its_namespaces() {
    let labelled = |value: &str| pod(json!({"metadata": {"labels": {names::LABEL_INJECT: value}}}));
    let settings = Settings::default();
    for (own, inherited, expected) in [
        (None, None, Some(Reason::NotOptedIn)),
        (None, Some("disabled"), Some(Reason::NotOptedIn)),
        (None, Some("enabled"), None),
        (Some("enabled"), None, None),
        (Some("enabled"), Some("disabled"), None),
        (Some("disabled"), Some("enabled"), Some(Reason::OptedOut)),
        (Some("maybe"), Some("enabled"), Some(Reason::NotOptedIn)),
    ] {
        let pod = own.map_or_else(|| pod(json!({})), labelled);
        let found = match inject(&pod, &namespace(inherited), &settings).unwrap() {
            Injection::Skipped(reason) => Some(reason),
            Injection::Injected(_) => None,
        };
        assert_eq!(found, expected, "{own:?} in {inherited:?}");
    }
}

#[test]
fn pods_that_can_have_no_proxy_are_skipped() {
    for (more, reason) in [
        (json!({"spec": {"hostNetwork": true}}), Reason::HostNetwork),
        (
            json!({"spec": {"os": {"name": "windows"}}}),
            Reason::Windows,
        ),
        (
            json!({"spec": {"nodeSelector": {"kubernetes.io/os": "windows"}}}),
            Reason::Windows,
        ),
        (
            json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}),
            Reason::StaticPod,
        ),
        (
            json!({"metadata": {"labels": {names::LABEL_COMPONENT: "controller"}}}),
            Reason::ControlPlane,
        ),
        (
            json!({"spec": {"initContainers": [{"name": "istio-proxy"}]}}),
            Reason::OtherMesh("istio-proxy".into()),
        ),
        (
            json!({"spec": {"containers": [{"name": "a", "ports": [{"containerPort": 4191}]}]}}),
            Reason::PortTaken {
                container: "a".into(),
                port: 4191,
            },
        ),
        (
            json!({"spec": {"securityContext": {"runAsUser": 2102}}}),
            Reason::UserTaken("web".into()),
        ),
        (
            json!({"spec": {"volumes": [{"name": "mesh-trust"}]}}),
            Reason::VolumeTaken("mesh-trust".into()),
        ),
    ] {
        assert_eq!(skipped(&pod(more), &opted_in()), reason);
    }
}

#[test]
fn a_container_with_a_user_of_its_own_may_be_in_a_pod_of_the_proxys() {
    let pod = json!({"spec": {
        "securityContext": {"runAsUser": 2102},
        "containers": [{"name": "web", "securityContext": {"runAsUser": 1000}}],
    }});
    injected(&pod, &Settings::default());
}

#[test]
fn a_job_needs_a_native_sidecar_to_complete() {
    let job = pod(json!({"spec": {"restartPolicy": "Never"}}));
    injected(&job, &Settings::default());
    assert_eq!(
        inject(&job, &opted_in(), &classic()),
        Ok(Injection::Skipped(Reason::NeverCompletes))
    );
}

#[test]
fn what_is_no_pod_is_refused() {
    for value in [
        json!(null),
        json!({}),
        json!({"spec": {"containers": []}}),
        pod(json!({"metadata": "web"})),
        pod(json!({"spec": {"volumes": {}}})),
    ] {
        let result = inject(&value, &opted_in(), &Settings::default());
        assert_eq!(result, Err(Invalid::NotAPod), "{value}");
        uninject(&value);
    }
}

#[test]
fn annotations_that_cannot_be_read_are_refused() {
    for (annotation, value) in [
        (names::ANNOTATION_SKIP_INBOUND_PORTS, "http"),
        (names::ANNOTATION_SKIP_OUTBOUND_PORTS, "0"),
        (names::ANNOTATION_OPAQUE_PORTS, "10-5"),
        (names::ANNOTATION_LOG_LEVEL, "loud"),
        (names::ANNOTATION_ACCESS_LOG, "yes"),
        (names::ANNOTATION_NATIVE_SIDECAR, "no"),
        (names::ANNOTATION_CPU_LIMIT, "much"),
        (names::ANNOTATION_MEMORY_REQUEST, ""),
    ] {
        let pod = annotated(annotation, value);
        let error = inject(&pod, &opted_in(), &Settings::default()).unwrap_err();
        assert!(error.to_string().contains(annotation), "{error}");
    }
}

#[test]
fn a_namespaces_annotations_are_below_the_pods() {
    let mut namespace = opted_in();
    let level = names::ANNOTATION_LOG_LEVEL.to_owned();
    namespace.annotations.insert(level, "debug".into());
    let settings = Settings::default();
    for (pod, expected) in [
        (pod(json!({})), "debug"),
        (annotated(names::ANNOTATION_LOG_LEVEL, "warn"), "warn"),
    ] {
        let Injection::Injected(injected) = inject(&pod, &namespace, &settings).unwrap() else {
            panic!("it is skipped");
        };
        let environment = injected["spec"]["initContainers"][1]["env"]
            .as_array()
            .unwrap();
        assert!(environment.contains(&json!({"name": "MESH_LOG_LEVEL", "value": expected})));
    }
}

#[test]
fn tcp_probes_ask_the_proxy() {
    let pod = json!({"spec": {"containers": [{
        "name": "db",
        "ports": [{"name": "sql", "containerPort": 5432}],
        "startupProbe": {"tcpSocket": {"port": 5432}, "periodSeconds": 3},
        "readinessProbe": {"tcpSocket": {"port": "sql"}},
        // Another machine, and a port without a number: neither is the proxy's to try.
        "livenessProbe": {"tcpSocket": {"port": 80, "host": "other"}},
    }, {"name": "x", "readinessProbe": {"tcpSocket": {"port": "unknown"}}}]}});
    let injected = injected(&pod, &Settings::default());
    let containers = &injected["spec"]["containers"];
    assert_eq!(
        containers[0]["startupProbe"],
        json!({"httpGet": {"path": "/probe/tcp/5432", "port": 4191}, "periodSeconds": 3})
    );
    assert_eq!(
        containers[0]["readinessProbe"]["httpGet"]["path"],
        "/probe/tcp/5432?name=sql"
    );
    assert_eq!(
        containers[0]["livenessProbe"],
        pod["spec"]["containers"][0]["livenessProbe"]
    );
    assert_eq!(containers[1], pod["spec"]["containers"][1]);
    assert_eq!(uninject(&injected), pod);
}

#[test]
fn logs_and_exec_mean_the_app_where_the_proxy_is_an_ordinary_container() {
    let plain = pod(json!({}));
    let with_proxy = injected(&plain, &classic());
    let default = "kubectl.kubernetes.io/default-container";
    assert_eq!(with_proxy["metadata"]["annotations"][default], "web");
    assert_eq!(
        with_proxy["spec"]["containers"][0]["name"],
        names::PROXY_CONTAINER
    );
    assert_eq!(uninject(&with_proxy), plain);
    let chosen = annotated(default, "other");
    assert_eq!(uninject(&injected(&chosen, &classic())), chosen);
}

#[test]
fn who_opted_out_stays_out() {
    let pod = pod(json!({"metadata": {"labels": {names::LABEL_INJECT: "disabled"}}}));
    assert_eq!(uninject(&pod), pod);
}

#[test]
fn remarks_name_what_surprises() {
    let guaranteed = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    let pod = json!({
        "metadata": {"annotations": {
            "mesh.internal/opaque-port": "1",
            names::LABEL_INJECT: "enabled",
        }},
        "spec": {"containers": [{
            "name": "dns",
            "ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53}],
            "resources": guaranteed,
        }]},
    });
    let mut namespace = opted_in();
    let level = "pod-security.kubernetes.io/enforce".to_owned();
    namespace.labels.insert(level, "baseline".into());
    assert_eq!(
        remarks(&pod, &namespace),
        [
            Remark::NotTcp("53/UDP of dns".into()),
            Remark::PodSecurity("baseline".into()),
            Remark::LabelAsAnnotation,
            Remark::UnknownAnnotation("mesh.internal/opaque-port".into()),
            Remark::Guaranteed,
        ]
    );
    assert_eq!(
        remarks(&annotated(names::ANNOTATION_LOG_LEVEL, "x"), &opted_in()),
        []
    );
}
