//! Random histories end where a fresh start does; and a large mesh.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Instant};

use k8s_openapi::api::discovery::v1::{EndpointHints, ForNode, ForZone};
use proptest::prelude::*;

use super::*;

/// An object made from a few bytes: small sets of names and addresses, so that objects meet.
fn random_event(kind: u8, name: u8, bits: [u8; 6]) -> (ObjectKey, Event) {
    let ip = |b: u8| format!("10.0.0.{}", 1 + b % 4);
    let optional = |b: u8, ports: &str| {
        if b.is_multiple_of(3) {
            json!({"mesh.internal/opaque-ports": ports})
        } else {
            json!({})
        }
    };
    let name = format!("n{}", name % 4);
    let key = |kind, namespace: &str, name: &str| ObjectKey {
        kind,
        namespace: namespace.into(),
        name: name.into(),
    };
    let (key, event) = match kind % 5 {
        0 => (
            key(ObjectKind::Namespace, "", "shop"),
            namespace("shop", optional(bits[1], "80,8080")),
        ),
        1 => {
            let mut annotations = optional(bits[1], "8080");
            if bits[2].is_multiple_of(2) {
                annotations["mesh.internal/proxy"] = "true".into();
            }
            let mut event = pod(&name, &[&ip(bits[3])], annotations);
            if bits[4].is_multiple_of(2)
                && let Event::Applied(object) = &mut event
                && let Object::Pod(pod) = &mut **object
            {
                for owner in pod.metadata.owner_references.iter_mut().flatten() {
                    owner.kind = "ReplicaSet".into();
                    owner.name = format!("w-{}", bits[4] / 2 % 2);
                }
            }
            (key(ObjectKind::Pod, "shop", &name), event)
        }
        2 => {
            let mut port = json!({"name": "p", "port": 80 + bits[2] % 2});
            if bits[3].is_multiple_of(2) {
                port["appProtocol"] = "http".into();
            }
            let cluster_ip = if bits[4].is_multiple_of(4) {
                "None".into()
            } else {
                format!("10.96.0.{}", 1 + bits[4] % 2)
            };
            (
                key(ObjectKind::Service, "shop", "web"),
                service(&[&cluster_ip], port, optional(bits[1], "80")),
            )
        }
        3 => {
            let name = format!("w-{}", bits[1] % 2);
            let owner = json!({"apiVersion": "v1", "kind": "Rollout", "name": format!("r{}", bits[3] % 2), "uid": "1", "controller": true});
            let owners = if bits[2].is_multiple_of(3) {
                json!([])
            } else {
                json!([owner])
            };
            let metadata = json!({"namespace": "shop", "name": name, "ownerReferences": owners});
            (
                key(ObjectKind::ReplicaSet, "shop", &name),
                applied(json!({"kind": "ReplicaSet", "metadata": metadata})),
            )
        }
        _ => {
            let ready = |b: u8| json!({"ready": b % 3 == 1, "serving": !b.is_multiple_of(3), "terminating": b % 3 == 2});
            let (one, two) = (ip(bits[1]), ip(bits[2]));
            let (of_one, of_two) = (format!("n{}", bits[3] % 4), format!("n{}", bits[4] % 4));
            let mut event = slice(
                &name,
                json!({"name": "p", "port": 8080 + u16::from(bits[5] % 2)}),
                &[
                    (&one, &of_one, ready(bits[3])),
                    (&two, &of_two, ready(bits[4])),
                ],
            );
            if let Event::Applied(object) = &mut event
                && let Object::EndpointSlice(slice) = &mut **object
            {
                for endpoint in slice.endpoints.iter_mut().flatten() {
                    if bits[5].is_multiple_of(5) {
                        endpoint.target_ref = None;
                    }
                    if bits[5].is_multiple_of(3) {
                        let place = format!("z{}", bits[5] % 2);
                        endpoint.hints = Some(EndpointHints {
                            for_nodes: Some(vec![ForNode {
                                name: place.clone(),
                            }]),
                            for_zones: Some(vec![ForZone {
                                name: place.clone(),
                            }]),
                        });
                        endpoint.node_name = Some(place.clone());
                        endpoint.zone = Some(place);
                    }
                }
            }
            (key(ObjectKind::EndpointSlice, "shop", &name), event)
        }
    };
    if bits[0].is_multiple_of(4) {
        (key.clone(), Event::Deleted(key))
    } else {
        (key, event)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// After any sequence of changes, what watchers have been told is what a new index says; and the deltas
    /// lead there.
    #[test]
    fn incremental_is_fresh(events in prop::collection::vec((any::<u8>(), any::<u8>(), any::<[u8; 6]>()), 1..60)) {
        let addresses: Vec<SocketAddr> = (1..=4)
            .map(|n| Ipv4Addr::new(10, 0, 0, n))
            .chain((1..=2).map(|n| Ipv4Addr::new(10, 96, 0, n)))
            .flat_map(|ip| [80, 81, 8080, 8081].map(|port| SocketAddr::from((ip, port))))
            .collect();
        let pods: Vec<Name> = (0..4).map(|n| Name::new("shop", &format!("n{n}"))).collect();

        let mut index = Index::new("cluster.local");
        let mut told: HashMap<SocketAddr, Destination> =
            addresses.iter().map(|at| (*at, (*index.watch_destination(*at)).clone())).collect();
        let mut policies: HashMap<Name, v1::Inbound> =
            pods.iter().map(|pod| (pod.clone(), (*index.watch_inbound(pod)).clone())).collect();
        let mut objects = BTreeMap::new();

        for (kind, name, bits) in events {
            let (key, event) = random_event(kind, name, bits);
            match &event {
                Event::Deleted(_) => objects.remove(&key),
                _ => objects.insert(key, event.clone()),
            };
            let changes = index.apply(event);
            for change in changes.destinations {
                let mirror = told.get_mut(&change.after.address).unwrap();
                prop_assert_eq!(&*mirror, &*change.before);
                match &change.delta {
                    None => *mirror = (*change.after).clone(),
                    Some(delta) => {
                        for endpoint in &delta.upsert {
                            let at = SocketAddr::try_from(endpoint.address.as_ref().unwrap()).unwrap();
                            mirror.endpoints.insert(at, endpoint.clone());
                        }
                        delta.remove.iter().for_each(|at| { mirror.endpoints.remove(at); });
                        mirror.locality.clone_from(&change.after.locality);
                    }
                }
            }
            policies.extend(changes.inbounds.into_iter().map(|(pod, inbound)| (pod, (*inbound).clone())));
        }

        let mut fresh = Index::new("cluster.local");
        objects.into_values().for_each(|event| { fresh.apply(event); });
        for at in addresses {
            prop_assert_eq!(&told[&at], &*fresh.watch_destination(at));
        }
        for pod in pods {
            prop_assert_eq!(&policies[&pod], &*fresh.watch_inbound(&pod));
        }
    }
}

#[test]
fn one_change_in_a_large_mesh_touches_its_watchers_only() {
    const SERVICES: usize = 1000;
    const PODS: usize = 10;
    let mut index = Index::new("cluster.local");
    let start = Instant::now();
    let pod_ip = |service: usize, n: usize| {
        format!("10.{}.{}.{}", 100 + n, service / 250, 1 + service % 250)
    };
    let of_service = |service: usize, conditions: Value| {
        let endpoints: Vec<Value> = (0..PODS)
            .map(|n| {
                let conditions = if n == 0 { conditions.clone() } else { json!({}) };
                json!({"addresses": [pod_ip(service, n)], "conditions": conditions, "targetRef": {"kind": "Pod", "name": format!("s{service}-{n}")}})
            })
            .collect();
        applied(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"namespace": "shop", "name": format!("s{service}"), "labels": {"kubernetes.io/service-name": format!("s{service}")}},
            "ports": [{"name": "", "port": 8080}], "endpoints": endpoints,
        }))
    };
    let cluster_ip = |service: usize| format!("10.96.{}.{}", service / 250, 1 + service % 250);
    for service in 0..SERVICES {
        for n in 0..PODS {
            index.apply(meshed(&format!("s{service}-{n}"), &pod_ip(service, n)));
        }
        index.apply(applied(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": format!("s{service}")},
            "spec": {"clusterIP": cluster_ip(service), "ports": [{"port": 80}]},
        })));
        index.apply(of_service(service, json!({})));
        assert_eq!(
            index
                .watch_destination(at(&format!("{}:80", cluster_ip(service))))
                .endpoints
                .len(),
            PODS
        );
    }
    println!(
        "{SERVICES} services of {PODS} pods indexed and watched in {:?}",
        start.elapsed()
    );

    const CHANGES: u32 = 500;
    let events: Vec<Event> = (0..CHANGES as usize)
        .map(|n| of_service(n, json!({"ready": false})))
        .collect();
    let start = Instant::now();
    for event in events {
        let changes = index.apply(event);
        assert_eq!(changes.destinations.len(), 1);
        assert!(changes.inbounds.is_empty());
        let delta = changes.destinations[0].delta.as_ref().unwrap();
        assert_eq!((delta.upsert.len(), delta.remove.len()), (0, 1));
    }
    println!(
        "one endpoint's change takes {:?}",
        start.elapsed() / CHANGES
    );
}
