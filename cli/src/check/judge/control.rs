//! The control plane, its certificates and its webhook.

use jiff::{SignedDuration, Timestamp};

use super::super::{
    codes::{A01, C01, C02, C03, C04, C05, C06, W01, W02, W03, W04},
    facts::{Control, Facts, Found, Lease, Replica, Root, Webhook},
    line::{Line, count, few},
};

/// The controller makes the next root a few lives of a leaf before the last one ends: long before this.
const ROOT_WARNING: SignedDuration = SignedDuration::from_hours(7 * 24);
const SEE_PODS: &str = "See why: kubectl -n mesh-system describe pods.";
const SEE_LOG: &str = "See its log: kubectl -n mesh-system logs deploy/mesh-controller.";
const INSTALL: &str = "Install it: mesh install | kubectl apply -f -";

pub(super) fn lines(facts: &Facts, control: &Control) -> Vec<Line> {
    let mut lines = Vec::new();
    match &control.deployment {
        Err(cause) => lines.push(Line::warning(C01, cause, "Ask for the right to read it.")),
        Ok(None) if control.replicas.is_empty() => {
            let cause = "There is no Deployment mesh-controller in the namespace mesh-system.";
            return vec![Line::failure(C01, cause, INSTALL)];
        }
        Ok(None) => lines.push(Line::warning(
            C01,
            "There are pods of a controller, but no Deployment mesh-controller.",
            INSTALL,
        )),
        Ok(Some(_)) => lines.push(Line::well(C01, "")),
    }
    lines.push(ready(control));
    lines.extend(restarts(&control.replicas));
    lines.extend(answers(&control.replicas));
    lines.extend(versions(facts, &control.replicas));
    lines.push(leader(facts.now, control));
    lines.extend(webhook(facts, control));
    lines
}

fn ready(control: &Control) -> Line {
    let replicas = &control.replicas;
    let not_ready: Vec<String> = replicas
        .iter()
        .filter_map(|replica| {
            let why = replica.not_ready.as_ref()?;
            Some(format!("{} {why}", replica.pod))
        })
        .collect();
    let ready = replicas.len() - not_ready.len();
    let wanted = match control.deployment {
        Ok(Some((wanted, _))) => usize::try_from(wanted).unwrap_or_default(),
        _ => replicas.len(),
    };
    if ready == 0 {
        let cause = match not_ready.first() {
            Some(why) => format!("No replica is ready: {why}."),
            None => "The controller has no pods.".into(),
        };
        Line::failure(C02, cause, SEE_PODS)
    } else if ready < wanted {
        let why = match not_ready.as_slice() {
            [] => String::new(),
            some => format!(": {}", few(some)),
        };
        Line::warning(
            C02,
            format!("{ready} of {wanted} replicas are ready{why}."),
            SEE_PODS,
        )
    } else {
        Line::well(C02, format!("{ready} of {wanted}"))
    }
}

fn restarts(replicas: &[Replica]) -> Option<Line> {
    if replicas.is_empty() {
        return None;
    }
    let restarted: Vec<String> = replicas
        .iter()
        .filter(|replica| replica.restarts > 0)
        .map(|replica| format!("{} ({} times)", replica.pod, replica.restarts))
        .collect();
    Some(match restarted.as_slice() {
        [] => Line::well(C06, ""),
        some => Line::warning(
            C06,
            format!("Replicas were started again: {}.", few(some)),
            "See why: kubectl -n mesh-system logs --previous POD.",
        ),
    })
}

fn answers(replicas: &[Replica]) -> Option<Line> {
    let asked: Vec<&Replica> = replicas.iter().filter(|r| r.version.is_some()).collect();
    let silent: Vec<String> = asked
        .iter()
        .filter_map(|replica| {
            let why = replica.version.as_ref()?.as_ref().err()?;
            Some(format!("{}: {}", replica.pod, why.trim_end_matches('.')))
        })
        .collect();
    if asked.is_empty() {
        return None;
    }
    Some(match silent.len() {
        0 => Line::well(C03, ""),
        all if all == asked.len() => Line::failure(C03, format!("{}.", few(&silent)), SEE_LOG),
        _ => Line::warning(C03, format!("{}.", few(&silent)), SEE_LOG),
    })
}

fn versions(facts: &Facts, replicas: &[Replica]) -> Option<Line> {
    let mut versions: Vec<&str> = replicas
        .iter()
        .filter_map(|replica| replica.version.as_ref()?.as_deref().ok())
        .collect();
    versions.sort_unstable();
    versions.dedup();
    let client = facts.client_version.as_str();
    Some(match versions.as_slice() {
        [] => return None,
        [same] if *same == client => Line::well(C04, client),
        [other] => Line::warning(
            C04,
            format!("This command is {client}, the controller {other}."),
            "Upgrade the older of both; for the controller: mesh upgrade | kubectl apply -f -",
        ),
        several => Line::warning(
            C04,
            format!("Replicas have different versions: {}.", several.join(", ")),
            "Wait for the upgrade to end: kubectl -n mesh-system rollout status deploy/mesh-controller.",
        ),
    })
}

fn leader(now: Timestamp, control: &Control) -> Line {
    let lease = match &control.lease {
        Ok(lease) => lease,
        Err(cause) => return Line::warning(C05, cause, "Ask for the right to read leases."),
    };
    let Some(Lease {
        holder,
        renewed: Some(renewed),
        duration_s,
    }) = lease
    else {
        return Line::warning(C05, "No replica holds the Lease mesh-controller.", SEE_LOG);
    };
    let age = now.as_second() - renewed.as_second();
    // The clocks are those of different machines.
    if age > i64::from(*duration_s) + 30 {
        Line::warning(
            C05,
            format!("{holder} has not renewed the Lease mesh-controller for {age} s."),
            SEE_LOG,
        )
    } else {
        Line::well(C05, holder)
    }
}

fn webhook(facts: &Facts, control: &Control) -> Vec<Line> {
    let webhook = match &control.webhook {
        Ok(Some(webhook)) => webhook,
        Ok(None) => {
            let cause =
                "There is no MutatingWebhookConfiguration mesh-webhook: no pod gets a proxy.";
            let fix = "Restore it: mesh install | kubectl apply -f -";
            return vec![Line::failure(W01, cause, fix)];
        }
        Err(cause) => return vec![Line::warning(W01, cause, "Ask for the right to read it.")],
    };
    let mut lines = vec![Line::well(
        W01,
        format!("failurePolicy {}", webhook.failure_policy),
    )];
    lines.push(bundle(webhook));
    if !webhook.roots.is_empty() {
        lines.push(roots(facts.now, &webhook.roots));
    }
    lines.extend(served(&control.replicas));
    lines.extend(control.dry_run.as_ref().map(injected));
    lines
}

fn bundle(webhook: &Webhook) -> Line {
    match (webhook.ca_bundle.is_empty(), webhook.roots.len()) {
        (true, _) => Line::failure(
            W02,
            "The webhook's caBundle is empty: the API server trusts no injector.",
            "The leading replica writes it within seconds; if it stays empty, see the controller's log.",
        ),
        (false, 0) => Line::failure(
            W02,
            "The webhook's caBundle holds no certificate that can be read.",
            "See who else writes to the MutatingWebhookConfiguration mesh-webhook.",
        ),
        (false, roots) => Line::well(W02, count(roots, "root")),
    }
}

fn roots(now: Timestamp, roots: &[Root]) -> Line {
    let valid = |root: &&Root| root.not_before <= now && now < root.not_after;
    let last = roots.iter().filter(valid).map(|root| root.not_after).max();
    let fix = "The leading replica makes a new root by itself: see C05, and the controller's log.";
    match last {
        None => Line::failure(A01, "No root certificate is valid now.", fix),
        Some(end) if end.duration_since(now) < ROOT_WARNING => Line::warning(
            A01,
            format!("The last root certificate ends at {}.", date(end)),
            fix,
        ),
        Some(end) => Line::well(A01, format!("until {}", date(end))),
    }
}

fn date(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

fn served(replicas: &[Replica]) -> Option<Line> {
    let tried: Vec<(&str, &Found<()>)> = replicas
        .iter()
        .filter_map(|replica| Some((replica.pod.as_str(), replica.webhook.as_ref()?)))
        .collect();
    let bad: Vec<String> = tried
        .iter()
        .filter_map(|(pod, outcome)| Some(format!("{pod}: {}", outcome.as_ref().err()?)))
        .collect();
    if tried.is_empty() {
        return None;
    }
    Some(match bad.as_slice() {
        [] => Line::well(W03, ""),
        some => Line::failure(W03, format!("{}.", few(some)), SEE_LOG),
    })
}

fn injected(outcome: &Found<bool>) -> Line {
    match outcome {
        Ok(true) => Line::well(W04, ""),
        Ok(false) => Line::failure(
            W04,
            "A pod that asked for a proxy came back without one: the API server does not reach the injector.",
            "Let the API server reach port 9443 of the pods in mesh-system; a firewall or a NetworkPolicy may be between.",
        ),
        // The same would happen to every pod.
        Err(cause) if cause.contains("PodSecurity") => Line::failure(
            W04,
            format!(
                "A namespace's Pod Security refuses injected pods: {}.",
                cause.trim_end_matches('.')
            ),
            "The init container needs NET_ADMIN: label the namespace pod-security.kubernetes.io/enforce=privileged.",
        ),
        Err(cause) => Line::warning(
            W04,
            format!("It could not be tried: {}.", cause.trim_end_matches('.')),
            "Try it with -n in a namespace where you may create pods.",
        ),
    }
}
