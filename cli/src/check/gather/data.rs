//! The data plane: namespaces, pods, and Services.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, ObjectList},
};
use mesh_api::{
    names::{
        ANNOTATION_OPAQUE_PORTS, ANNOTATION_PROXY, CONFIG_KEY, CONFIG_MAP, DEFAULT_OPAQUE_PORTS,
        LABEL_COMPONENT, LABEL_INJECT, PROXY_CONTAINER, SYSTEM_NAMESPACE, TRUST_CONFIG_MAP,
        TRUST_KEY,
    },
    v1::ProxyInfo,
};
use mesh_controller::inject::{Injection, NamespaceFacts, Reason, Settings, inject};
use mesh_proxy::init::PortRanges;
use serde::de::DeserializeOwned;

use super::{
    super::facts::{self, Data, Found, Proxy, Without},
    Asked, sentence,
};
use crate::cluster::Cluster;

/// Names of ports, as charts have them, of protocols in which the server speaks first or that are not HTTP.
const SERVER_FIRST: [&str; 8] = [
    "mysql", "mariadb", "postgres", "smtp", "redis", "mongo", "amqp", "nats",
];

pub(super) async fn facts(
    cluster: &Cluster,
    asked: Asked<'_>,
    proxies: Option<Vec<ProxyInfo>>,
) -> Data {
    let place = asked.namespace;
    let (namespaces, pods, services, bundles, settings) = tokio::join!(
        namespaces(cluster, place),
        list::<Pod>(cluster, place, "pods"),
        list::<Service>(cluster, place, "services"),
        list::<ConfigMap>(cluster, place, "configmaps"),
        settings(cluster)
    );
    let bundles: Found<HashMap<String, String>> = bundles.map(|all| {
        let bundles = all
            .into_iter()
            .filter(|map| map.name_any() == TRUST_CONFIG_MAP);
        let bundle = |map: ConfigMap| Some((map.namespace()?, map.data?.remove(TRUST_KEY)?));
        bundles.filter_map(bundle).collect()
    });
    let known: BTreeMap<String, NamespaceFacts> = namespaces
        .iter()
        .flatten()
        .map(|namespace| {
            let facts = NamespaceFacts {
                name: namespace.name_any(),
                labels: namespace.labels().clone(),
                annotations: namespace.annotations().clone(),
            };
            (facts.name.clone(), facts)
        })
        .collect();
    let mut data = Data {
        namespaces: namespaces.map(|all| all.iter().map(|ns| namespace(ns, &bundles)).collect()),
        pods: pods.map(|all| {
            let pods = all.iter().filter(|pod| !is_finished(pod));
            pods.filter_map(|found| pod(found, &known, &settings))
                .collect()
        }),
        bad_annotations: Vec::new(),
        proxies: proxies.map(|all| {
            let here = |proxy: &ProxyInfo| place.is_none_or(|place| proxy.namespace == place);
            all.into_iter().filter(here).collect()
        }),
        contradictions: Vec::new(),
        server_first: Vec::new(),
    };
    for found in services.iter().flatten() {
        service(found, &mut data);
    }
    data
}

async fn list<K>(cluster: &Cluster, namespace: Option<&str>, what: &str) -> Found<Vec<K>>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let (api, place): (Api<K>, String) = match namespace {
        Some(name) => (
            Api::namespaced(cluster.client(), name),
            format!(" in {name}"),
        ),
        None => (Api::all(cluster.client()), String::new()),
    };
    let params = match what {
        "configmaps" => ListParams::default().fields(&format!("metadata.name={TRUST_CONFIG_MAP}")),
        _ => ListParams::default(),
    };
    let answer = cluster
        .ask(&format!("list {what}{place}"), api.list(&params))
        .await;
    answer
        .map(|list: ObjectList<K>| list.items)
        .map_err(sentence)
}

async fn namespaces(cluster: &Cluster, only: Option<&str>) -> Found<Vec<Namespace>> {
    let api: Api<Namespace> = Api::all(cluster.client());
    let answer = match only {
        Some(name) => {
            let what = format!("read the namespace {name}");
            cluster.ask(&what, api.get(name)).await.map(|one| vec![one])
        }
        None => {
            let params = ListParams::default();
            let list = cluster.ask("list namespaces", api.list(&params)).await;
            list.map(|list| list.items)
        }
    };
    answer.map_err(sentence)
}

/// The injector's; its defaults where they may not be read.
async fn settings(cluster: &Cluster) -> Settings {
    let api: Api<ConfigMap> = Api::namespaced(cluster.client(), SYSTEM_NAMESPACE);
    let found = cluster.ask("read mesh-config", api.get(CONFIG_MAP)).await;
    found
        .ok()
        .and_then(|map| serde_json::from_str(map.data?.get(CONFIG_KEY)?).ok())
        .unwrap_or_default()
}

fn namespace(namespace: &Namespace, bundles: &Found<HashMap<String, String>>) -> facts::Namespace {
    let name = namespace.name_any();
    facts::Namespace {
        opted_in: namespace
            .labels()
            .get(LABEL_INJECT)
            .is_some_and(|label| label == "enabled"),
        trust: bundles
            .as_ref()
            .map(|all| all.get(&name).cloned())
            .map_err(Clone::clone),
        name,
    }
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed")) || pod.metadata.deletion_timestamp.is_some()
}

/// A pod that has a proxy or was meant to have one.
fn pod(
    pod: &Pod,
    namespaces: &BTreeMap<String, NamespaceFacts>,
    settings: &Settings,
) -> Option<facts::Pod> {
    let namespace = pod.namespace().unwrap_or_default();
    let of_mesh = pod.labels().contains_key(LABEL_COMPONENT);
    if of_mesh || namespace == "kube-system" || namespace == SYSTEM_NAMESPACE {
        return None;
    }
    let proxy = if pod.annotations().contains_key(ANNOTATION_PROXY) {
        Ok(proxy(pod))
    } else {
        let unknown = NamespaceFacts {
            name: namespace.clone(),
            ..NamespaceFacts::default()
        };
        let value = serde_json::to_value(pod).ok()?;
        match inject(
            &value,
            namespaces.get(&namespace).unwrap_or(&unknown),
            settings,
        ) {
            Ok(Injection::Injected(_)) => Err(Without::Missed),
            Ok(Injection::Skipped(
                Reason::NotOptedIn
                | Reason::OptedOut
                | Reason::AlreadyInjected
                | Reason::ControlPlane,
            )) => return None,
            Ok(Injection::Skipped(reason)) => Err(Without::Impossible(reason.to_string())),
            Err(invalid) => Err(Without::Annotation(invalid.to_string())),
        }
    };
    Some(facts::Pod {
        name: pod.name_any(),
        namespace,
        proxy,
    })
}

fn proxy(pod: &Pod) -> Proxy {
    let spec = pod.spec.clone().unwrap_or_default();
    let native = spec
        .init_containers
        .iter()
        .flatten()
        .any(|container| container.name == PROXY_CONTAINER);
    let status = pod.status.clone().unwrap_or_default();
    let container = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten()
        .find(|container| container.name == PROXY_CONTAINER);
    let not_ready = match container {
        Some(container) if container.ready => None,
        Some(container) => {
            let waiting = container
                .state
                .as_ref()
                .and_then(|state| state.waiting.as_ref());
            let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
            Some(match reason {
                Some(reason) => format!("waits: {reason}"),
                None => "is not ready".into(),
            })
        }
        None => Some("has not started".into()),
    };
    Proxy { native, not_ready }
}

/// What a Service says of its ports.
fn service(service: &Service, data: &mut Data) {
    let name = format!(
        "{}/{}",
        service.namespace().unwrap_or_default(),
        service.name_any()
    );
    let annotation = service.annotations().get(ANNOTATION_OPAQUE_PORTS);
    let listed = match annotation.map(|text| text.parse::<PortRanges>()) {
        Some(Ok(ranges)) => Some(ranges),
        Some(Err(error)) => {
            data.bad_annotations.push(format!(
                "the Service {name}: {ANNOTATION_OPAQUE_PORTS}: {error}"
            ));
            None
        }
        None => None,
    };
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    for port in ports.into_iter().flatten() {
        let Ok(number) = u16::try_from(port.port) else {
            continue;
        };
        let app = port
            .app_protocol
            .as_deref()
            .unwrap_or_default()
            .to_lowercase();
        let says_http = [
            "http",
            "grpc",
            "h2c",
            "kubernetes.io/h2c",
            "kubernetes.io/ws",
        ];
        let opaque = DEFAULT_OPAQUE_PORTS.contains(&number);
        let is_listed = listed.as_ref().is_some_and(|ranges| {
            ranges
                .iter()
                .any(|range| (range.first()..=range.last()).contains(&number))
        });
        if opaque && says_http.contains(&app.as_str()) {
            data.contradictions.push(format!("{name}:{number}"));
        }
        let label = port.name.as_deref().unwrap_or_default().to_lowercase();
        let by_name = SERVER_FIRST.iter().find(|word| label.contains(**word));
        if let (Some(word), false, false, "") = (by_name, opaque, is_listed, app.as_str()) {
            data.server_first.push(format!("{name}:{number} ({word})"));
        }
    }
}
