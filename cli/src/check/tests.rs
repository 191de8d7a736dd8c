//! Facts in, lines out: no cluster is needed to know what would be said of it.

use jiff::{SignedDuration, Timestamp};
use mesh_api::v1::{InventoryResponse, ProxyInfo};

use super::{
    codes,
    facts::{
        Cluster, Control, Data, Facts, Lease, Namespace, Pod, Proxy, Replica, Right, Root, Webhook,
        Without,
    },
    judge,
    line::{Line, Outcome},
    report,
};
use crate::client::Inventory;

fn now() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn later(hours: i64) -> Timestamp {
    now() + SignedDuration::from_hours(hours)
}

fn right(verb: &str, resource: &str, allowed: bool, needed: bool) -> Right {
    Right {
        verb: verb.into(),
        resource: resource.into(),
        namespace: "mesh-system".into(),
        allowed,
        needed,
    }
}

fn proxy(pod: &str, version: &str, hours: i64) -> ProxyInfo {
    ProxyInfo {
        namespace: "shop".into(),
        pod: pod.into(),
        version: version.into(),
        certificate_expires: later(hours).as_second() as u64,
        ..ProxyInfo::default()
    }
}

fn pod(name: &str, proxy: Result<Proxy, Without>) -> Pod {
    Pod {
        namespace: "shop".into(),
        name: name.into(),
        proxy,
    }
}

fn native() -> Proxy {
    Proxy {
        native: true,
        not_ready: None,
    }
}

/// A cluster on which all is well.
fn healthy() -> Facts {
    let replica = |pod: &str| Replica {
        pod: pod.into(),
        version: Some(Ok("0.1.0".into())),
        webhook: Some(Ok(())),
        ..Replica::default()
    };
    let namespace = |name: &str, opted_in| Namespace {
        name: name.into(),
        opted_in,
        trust: Ok(opted_in.then(|| "PEM\n".into())),
    };
    Facts {
        now: now(),
        client_version: "0.1.0".into(),
        cluster: Cluster {
            context: "kind".into(),
            version: Ok(("v1.36.0".into(), Some(now()))),
            rights: Ok(vec![right("list", "pods", true, true)]),
            gateway_api: Ok(vec!["v1".into()]),
        },
        control: Some(Control {
            deployment: Ok(Some((2, 2))),
            replicas: vec![replica("mesh-controller-a"), replica("mesh-controller-b")],
            lease: Ok(Some(Lease {
                holder: "mesh-controller-a".into(),
                renewed: Some(now()),
                duration_s: 15,
            })),
            webhook: Ok(Some(Webhook {
                ca_bundle: "PEM".into(),
                roots: vec![Root {
                    not_before: later(-24),
                    not_after: later(24 * 300),
                }],
                failure_policy: "Ignore".into(),
            })),
            dry_run: Some(Ok(true)),
        }),
        data: Some(Data {
            namespaces: Ok(vec![namespace("shop", true), namespace("default", false)]),
            pods: Ok(vec![pod("web-1", Ok(native())), pod("web-2", Ok(native()))]),
            bad_annotations: Vec::new(),
            proxies: Some(vec![
                proxy("web-1", "0.1.0", 20),
                proxy("web-2", "0.1.0", 20),
            ]),
            contradictions: Vec::new(),
            server_first: Vec::new(),
        }),
    }
}

fn said(facts: &Facts) -> String {
    report::text(&judge::all(facts), false)
}

/// The codes that are not well, failures with an exclamation mark.
fn bad(facts: &Facts) -> String {
    let lines = judge::all(facts);
    let bad = lines.iter().filter_map(|line| match line.outcome {
        Outcome::Well => None,
        Outcome::Warning(_) => Some(line.code.code.to_owned()),
        Outcome::Failure(_) => Some(format!("{}!", line.code.code)),
    });
    bad.collect::<Vec<_>>().join(" ")
}

fn control(change: impl FnOnce(&mut Control)) -> Facts {
    let mut facts = healthy();
    change(facts.control.as_mut().unwrap());
    facts
}

fn data(change: impl FnOnce(&mut Data)) -> Facts {
    let mut facts = healthy();
    change(facts.data.as_mut().unwrap());
    facts
}

#[test]
fn all_is_well() {
    insta::assert_snapshot!(said(&healthy()));
}

#[test]
fn a_cluster_that_is_not_there_is_all_there_is_to_say() {
    let mut facts = healthy();
    facts.cluster.version = Err("Can't reach the cluster of context \"kind\".".into());
    (facts.control, facts.data) = (None, None);
    insta::assert_snapshot!(said(&facts));
}

#[test]
fn much_is_wrong() {
    let mut facts = healthy();
    facts.cluster.version = Ok(("v1.28.3+k3s1".into(), Some(later(-1))));
    facts.cluster.rights = Ok(vec![
        right("list", "pods", true, true),
        right("get", "pods/portforward", false, true),
    ]);
    let control = facts.control.as_mut().unwrap();
    control.replicas[0].not_ready = Some("is Pending (ErrImagePull)".into());
    control.replicas[0].version = None;
    control.replicas[1].restarts = 4;
    control.replicas[1].version = Some(Ok("0.2.0".into()));
    control.replicas[1].webhook = Some(Err("its certificate is refused: expired".into()));
    control.dry_run = Some(Ok(false));
    let data = facts.data.as_mut().unwrap();
    data.pods = Ok(vec![
        pod("web-1", Err(Without::Missed)),
        pod(
            "node-agent",
            Err(Without::Impossible("it uses its node's network".into())),
        ),
        pod(
            "api-1",
            Err(Without::Annotation("\"x\" is not a port".into())),
        ),
        pod(
            "api-2",
            Ok(Proxy {
                native: false,
                not_ready: Some("waits: CrashLoopBackOff".into()),
            }),
        ),
    ]);
    data.proxies = Some(vec![
        proxy("web-2", "0.1.0", 1),
        proxy("web-3", "0.2.0", -1),
    ]);
    data.contradictions = vec!["shop/search:9300".into()];
    insta::assert_snapshot!(said(&facts));
}

#[test]
fn the_control_plane() {
    type Change = fn(&mut Control);
    let cases: [(Change, &str); 15] = [
        (
            |c| (c.deployment, c.replicas) = (Ok(None), Vec::new()),
            "C01!",
        ),
        (|c| c.deployment = Ok(None), "C01"),
        (|c| c.deployment = Ok(Some((3, 2))), "C02"),
        (
            |c| {
                c.replicas
                    .iter_mut()
                    .for_each(|r| r.not_ready = Some("is Pending".into()))
            },
            "C02!",
        ),
        (
            |c| c.replicas[0].version = Some(Err("no answer".into())),
            "C03",
        ),
        (
            |c| {
                c.replicas
                    .iter_mut()
                    .for_each(|r| r.version = Some(Err("no answer".into())))
            },
            "C03!",
        ),
        (
            |c| {
                c.replicas
                    .iter_mut()
                    .for_each(|r| r.version = Some(Ok("0.2.0".into())))
            },
            "C04 D02",
        ),
        (|c| c.lease = Ok(None), "C05"),
        (
            |c| c.lease.as_mut().unwrap().as_mut().unwrap().renewed = Some(later(-1)),
            "C05",
        ),
        (|c| c.replicas[1].restarts = 1, "C06"),
        (|c| c.webhook = Ok(None), "W01!"),
        (
            |c| c.webhook.as_mut().unwrap().as_mut().unwrap().roots[0].not_after = later(24),
            "A01",
        ),
        (
            |c| c.webhook.as_mut().unwrap().as_mut().unwrap().roots[0].not_after = later(-1),
            "A01!",
        ),
        (
            |c| c.dry_run = Some(Err("You have no right to create pods.".into())),
            "W04",
        ),
        (
            |c| c.dry_run = Some(Err("violates PodSecurity \"restricted:latest\"".into())),
            "W04!",
        ),
    ];
    for (change, expected) in cases {
        let facts = control(change);
        assert_eq!(bad(&facts), expected, "{}", said(&facts));
    }
    let empty = control(|c| c.webhook = Ok(Some(Webhook::default())));
    assert_eq!(bad(&empty), "A02! W02!");
}

#[test]
fn the_data_plane() {
    type Change = fn(&mut Data);
    let cases: [(Change, &str); 10] = [
        (
            |d| d.namespaces.as_mut().unwrap()[0].trust = Ok(Some("OLD".into())),
            "A02!",
        ),
        (
            |d| d.namespaces.as_mut().unwrap()[0].trust = Ok(None),
            "A02!",
        ),
        (
            |d| d.namespaces.as_mut().unwrap()[0].trust = Err("no right".into()),
            "A02",
        ),
        (
            |d| d.pods.as_mut().unwrap()[0].proxy = Err(Without::Missed),
            "D01",
        ),
        (
            |d| d.proxies.as_mut().unwrap()[0].version = "0.0.9".into(),
            "D02",
        ),
        (
            |d| d.proxies.as_mut().unwrap()[0].certificate_expires = 0,
            "D03!",
        ),
        (|d| drop(d.proxies.as_mut().unwrap().pop()), "D05"),
        (
            |d| {
                d.namespaces.as_mut().unwrap().push(Namespace {
                    name: "kube-system".into(),
                    opted_in: true,
                    trust: Ok(None),
                })
            },
            "D06",
        ),
        (
            |d| d.bad_annotations.push("the Service shop/web: x".into()),
            "D08!",
        ),
        (
            |d| d.pods = Err("You have no right to list pods.".into()),
            "D01",
        ),
    ];
    for (change, expected) in cases {
        let facts = data(change);
        assert_eq!(bad(&facts), expected, "{}", said(&facts));
    }
}

#[test]
fn old_and_odd_versions() {
    for (version, expected) in [
        ("v1.24.17", "K02! K03"),
        ("v1.28.0-eks-1", "K03"),
        ("v1.29.0", ""),
        ("v1.36+", ""),
        ("2.0", "K02"),
    ] {
        let mut facts = healthy();
        facts.cluster.version = Ok((version.into(), None));
        assert_eq!(bad(&facts), expected, "{version}");
    }
}

#[test]
fn rights_that_are_only_useful_do_not_fail() {
    let mut facts = healthy();
    facts.cluster.rights = Ok(vec![right("list", "namespaces", false, false)]);
    assert_eq!(bad(&facts), "K04");
    facts.cluster.rights = Err("SelfSubjectAccessReview is not served".into());
    assert_eq!(bad(&facts), "K04");
}

#[test]
fn programs_read_the_same() {
    let facts = control(|c| c.replicas[1].restarts = 1);
    let lines = judge::all(&facts);
    let json = serde_json::to_value(report::Report::of(&lines)).unwrap();
    assert_eq!(json["ok"], true);
    let checks = json["checks"].as_array().unwrap();
    assert_eq!(checks.len(), lines.len());
    let restarts = checks.iter().find(|check| check["code"] == "C06").unwrap();
    assert_eq!(restarts["result"], "warning");
    assert!(
        restarts["cause"]
            .as_str()
            .unwrap()
            .contains("mesh-controller-b")
    );
}

#[test]
fn a_mesh_on_this_machine() {
    let local = |ready, reason: &str| mesh_api::local::Pod {
        namespace: "shop".into(),
        name: "web-1".into(),
        phase: "Running".into(),
        ready,
        reason: reason.into(),
        ..mesh_api::local::Pod::default()
    };
    let mut facts = judge::machine::Facts {
        now: now(),
        name: "demo".into(),
        pods: Ok(vec![local(true, "")]),
        inventory: Ok(Inventory {
            replicas: vec![(String::new(), "0.1.0".into())],
            all: InventoryResponse {
                proxies: vec![proxy("web-1", "0.1.0", 20)],
                ..InventoryResponse::default()
            },
        }),
    };
    let lines = judge::machine::lines(&facts);
    assert!(
        !lines.iter().any(|line| line.advice().is_some()),
        "{lines:?}"
    );
    facts.pods = Ok(vec![local(false, "the app does not listen")]);
    facts.inventory = Err("no answer".into());
    let lines = judge::machine::lines(&facts);
    let failures: Vec<_> = lines
        .iter()
        .filter(|l| l.is_failure())
        .map(|l| l.code.code)
        .collect();
    assert_eq!(failures, ["M01", "M02"]);
}

#[test]
fn every_code_that_is_said_can_be_explained() {
    let lines: Vec<Line> = judge::all(&healthy());
    for line in lines {
        assert_eq!(codes::find(line.code.code), Some(line.code));
    }
}
