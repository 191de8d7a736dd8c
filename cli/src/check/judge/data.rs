//! The data plane: pods, their proxies, and what their namespaces say.

use std::collections::BTreeSet;

use jiff::Timestamp;
use mesh_api::{names::SYSTEM_NAMESPACE, v1::ProxyInfo};

use super::super::{
    codes::{A02, D01, D02, D03, D04, D05, D06, D07, D08, D09},
    facts::{Control, Data, Facts, Namespace, Pod, Without},
    line::{Line, count, few},
};

/// Namespaces whose pods are never injected.
const NEVER_INJECTED: [&str; 2] = ["kube-system", SYSTEM_NAMESPACE];
/// A leaf that is not renewed with this left has not been for hours, of its 24.
pub(super) const LEAF_WARNING_S: i64 = 2 * 3600;

pub(super) fn lines(facts: &Facts, data: &Data) -> Vec<Line> {
    let mut lines = Vec::new();
    match &data.namespaces {
        Ok(namespaces) => {
            lines.push(system_namespaces(namespaces));
            lines.extend(trust(facts.control.as_ref(), namespaces));
        }
        Err(cause) => lines.push(Line::warning(D06, cause, "Check one namespace with -n.")),
    }
    match &data.pods {
        Ok(pods) => lines.extend(pod_lines(data, pods)),
        Err(cause) => lines.push(Line::warning(D01, cause, "Check one namespace with -n.")),
    }
    if let Some(proxies) = &data.proxies {
        let controller = facts.control.as_ref().and_then(controller_version);
        lines.push(versions(proxies, controller.as_deref()));
        lines.push(certificates(proxies, facts.now));
        if let Ok(pods) = &data.pods {
            lines.push(reporting(pods, proxies));
        }
    }
    if data.contradictions.is_empty() {
        let detail = match data.server_first.as_slice() {
            [] => String::new(),
            hints => format!(
                "hint: {} could be listed in mesh.internal/opaque-ports",
                few(hints)
            ),
        };
        lines.push(Line::well(D09, detail));
    } else {
        lines.push(Line::warning(
            D09,
            format!(
                "Ports that are opaque by default say that they are HTTP: {}.",
                few(&data.contradictions)
            ),
            "Remove the appProtocol if they are not; else nothing is to be done.",
        ));
    }
    lines
}

fn pod_lines(data: &Data, pods: &[Pod]) -> Vec<Line> {
    let named = |pod: &Pod| format!("{}/{}", pod.namespace, pod.name);
    let missed: Vec<String> = pods
        .iter()
        .filter(|pod| pod.proxy.as_ref().err() == Some(&Without::Missed))
        .map(named)
        .collect();
    let mut unreadable = data.bad_annotations.clone();
    let (mut impossible, mut not_ready) = (Vec::new(), Vec::new());
    let (mut meshed, mut native) = (0, 0);
    for pod in pods {
        match &pod.proxy {
            Err(Without::Missed) => {}
            Err(Without::Impossible(why)) => impossible.push(format!("{}: {why}", named(pod))),
            Err(Without::Annotation(why)) => unreadable.push(format!("{}: {why}", named(pod))),
            Ok(proxy) => {
                meshed += 1;
                native += usize::from(proxy.native);
                if let Some(why) = &proxy.not_ready {
                    not_ready.push(format!("{} {why}", named(pod)));
                }
            }
        }
    }
    let sidecars = match meshed - native {
        0 => count(meshed, "pod"),
        classic => format!(
            "{}, {classic} of them with a classic container",
            count(meshed, "pod")
        ),
    };
    vec![
        match missed.as_slice() {
            [] => Line::well(D01, sidecars),
            some => Line::warning(
                D01,
                format!(
                    "{} without a proxy: {}.",
                    count(some.len(), "opted-in pod"),
                    few(some)
                ),
                "Replace them: kubectl -n NAMESPACE rollout restart deploy NAME.",
            ),
        },
        match not_ready.as_slice() {
            [] => Line::well(D04, ""),
            some => Line::failure(
                D04,
                format!("Proxies are not ready: {}.", few(some)),
                "See why: kubectl logs POD -c mesh-proxy.",
            ),
        },
        match impossible.as_slice() {
            [] => Line::well(D07, ""),
            some => Line::warning(
                D07,
                format!("{}.", few(some)),
                "Change that, or opt the pods out: mesh.internal/inject: disabled.",
            ),
        },
        match unreadable.as_slice() {
            [] => Line::well(D08, ""),
            some => Line::failure(
                D08,
                format!("{}.", few(some)),
                "Write ports as in 25,3306,9000-9010, and replace the pods.",
            ),
        },
    ]
}

fn system_namespaces(namespaces: &[Namespace]) -> Line {
    let opted: Vec<String> = namespaces
        .iter()
        .filter(|namespace| namespace.opted_in && NEVER_INJECTED.contains(&namespace.name.as_str()))
        .map(|namespace| namespace.name.clone())
        .collect();
    match opted.as_slice() {
        [] => Line::well(D06, ""),
        some => Line::warning(
            D06,
            format!(
                "The label mesh.internal/inject has no effect on {}.",
                few(some)
            ),
            "Remove it: kubectl label ns NAME mesh.internal/inject-",
        ),
    }
}

fn trust(control: Option<&Control>, namespaces: &[Namespace]) -> Option<Line> {
    let bundle = match control.map(|control| &control.webhook) {
        Some(Ok(Some(webhook))) => webhook.ca_bundle.trim(),
        _ => return None,
    };
    let (mut bad, mut unknown, mut good) = (Vec::new(), None, 0);
    let injected = namespaces
        .iter()
        .filter(|ns| ns.opted_in && !NEVER_INJECTED.contains(&ns.name.as_str()));
    for namespace in injected {
        match &namespace.trust {
            Ok(Some(found)) if found.trim() == bundle => good += 1,
            Ok(Some(_)) => bad.push(format!("{} (old)", namespace.name)),
            Ok(None) => bad.push(format!("{} (none)", namespace.name)),
            Err(cause) => unknown = Some(cause),
        }
    }
    Some(match (bad.as_slice(), unknown) {
        ([], None) => Line::well(A02, count(good, "namespace")),
        ([], Some(cause)) => Line::warning(A02, cause, "Ask for the right to read ConfigMaps."),
        (some, _) => Line::failure(
            A02,
            format!("The trust bundle is not the current one in: {}.", few(some)),
            "The leading replica writes it within seconds; if it stays so, see the controller's log.",
        ),
    })
}

/// The one version of all replicas that answer.
fn controller_version(control: &Control) -> Option<String> {
    let versions: BTreeSet<&String> = control
        .replicas
        .iter()
        .filter_map(|replica| replica.version.as_ref()?.as_ref().ok())
        .collect();
    match versions.len() {
        1 => versions.first().map(|version| (*version).clone()),
        _ => None,
    }
}

/// Also of a mesh on one machine.
pub(super) fn versions(proxies: &[ProxyInfo], controller: Option<&str>) -> Line {
    let Some(controller) = controller else {
        return Line::well(D02, "not compared: the controller's version is not known");
    };
    let other: Vec<String> = proxies
        .iter()
        .filter(|proxy| proxy.version != controller)
        .map(|proxy| format!("{}/{} ({})", proxy.namespace, proxy.pod, proxy.version))
        .collect();
    match other.as_slice() {
        [] => Line::well(D02, controller),
        some => Line::warning(
            D02,
            format!("The controller is {controller}, but not: {}.", few(some)),
            "Replace these pods when it suits: kubectl rollout restart.",
        ),
    }
}

/// Also of a mesh on one machine.
pub(super) fn certificates(proxies: &[ProxyInfo], now: Timestamp) -> Line {
    let (mut ended, mut ending) = (Vec::new(), Vec::new());
    for proxy in proxies {
        let left = i64::try_from(proxy.certificate_expires).unwrap_or(i64::MAX) - now.as_second();
        let pod = format!("{}/{}", proxy.namespace, proxy.pod);
        if proxy.certificate_expires == 0 {
            ended.push(format!("{pod} (none)"));
        } else if left <= 0 {
            ended.push(pod);
        } else if left < LEAF_WARNING_S {
            ending.push(format!("{pod} ({} min left)", left / 60));
        }
    }
    let fix = "See why it is not renewed: kubectl logs POD -c mesh-proxy.";
    match (ended.as_slice(), ending.as_slice()) {
        ([], []) => Line::well(D03, count(proxies.len(), "certificate")),
        ([], some) => Line::warning(
            D03,
            format!("Certificates are about to end: {}.", few(some)),
            fix,
        ),
        (some, _) => Line::failure(
            D03,
            format!("Without a valid certificate: {}.", few(some)),
            fix,
        ),
    }
}

fn reporting(pods: &[Pod], proxies: &[ProxyInfo]) -> Line {
    let known: BTreeSet<(&str, &str)> = proxies
        .iter()
        .map(|proxy| (proxy.namespace.as_str(), proxy.pod.as_str()))
        .collect();
    let ready = pods.iter().filter(|pod| {
        pod.proxy
            .as_ref()
            .is_ok_and(|proxy| proxy.not_ready.is_none())
    });
    let (told, silent): (Vec<&Pod>, Vec<&Pod>) =
        ready.partition(|pod| known.contains(&(pod.namespace.as_str(), pod.name.as_str())));
    let silent: Vec<String> = silent
        .iter()
        .map(|pod| format!("{}/{}", pod.namespace, pod.name))
        .collect();
    match silent.as_slice() {
        [] => Line::well(D05, format!("{} report", told.len())),
        some => Line::warning(
            D05,
            format!("Nothing was heard for 10 s of: {}.", few(some)),
            "See why: kubectl logs POD -c mesh-proxy; it has to reach mesh-controller.mesh-system.svc:8443.",
        ),
    }
}
