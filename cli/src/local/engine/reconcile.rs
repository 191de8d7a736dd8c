//! Which pods to start and which to end. Pure.

use std::collections::BTreeSet;

use crate::local::manifest::Kind;

/// What a workload wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Want<'a> {
    pub(super) kind: Kind,
    pub(super) replicas: u32,
    /// Pods of another revision are replaced.
    pub(super) revision: &'a str,
}

/// What there is of it.
#[derive(Clone, Debug)]
pub(super) struct Have<'a> {
    pub(super) name: &'a str,
    pub(super) revision: &'a str,
    /// Its number, where it has one.
    pub(super) ordinal: Option<u32>,
    pub(super) ready: bool,
    pub(super) terminating: bool,
    /// It has ended for good.
    pub(super) done: bool,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Start a pod, with this number if pods are numbered.
    Start(Option<u32>),
    /// End the pod of this name.
    End(String),
}

/// The changes that may be made now; more follow when pods have become ready or are gone.
pub(super) fn plan(want: &Want<'_>, have: &[Have<'_>]) -> Vec<Step> {
    match want.kind {
        Kind::StatefulSet => numbered(want, have),
        _ => replicated(want, have),
    }
}

/// At most one pod more than wanted, never fewer ready than there were (maxSurge 1, maxUnavailable 0).
fn replicated(want: &Want<'_>, have: &[Have<'_>]) -> Vec<Step> {
    let wanted = want.replicas as usize;
    let live: Vec<&Have<'_>> = have.iter().filter(|pod| !pod.terminating).collect();
    let (new, old): (Vec<&Have<'_>>, Vec<&Have<'_>>) =
        live.iter().partition(|pod| pod.revision == want.revision);
    let mut steps = Vec::new();

    // Scaled down: what is not ready goes first, then what is old.
    let surge = usize::from(!old.is_empty());
    let excess = live.len().saturating_sub(wanted + surge);
    let mut order: Vec<_> = live.clone();
    order.sort_by_key(|pod| (pod.ready, pod.revision == want.revision));
    steps.extend(
        order
            .iter()
            .take(excess)
            .map(|pod| Step::End(pod.name.to_owned())),
    );
    if excess > 0 {
        return steps;
    }

    let missing = wanted.saturating_sub(new.len());
    let room = (wanted + surge).saturating_sub(live.len());
    steps.extend((0..missing.min(room)).map(|_| Step::Start(None)));

    // An old pod that serves goes only when there are enough that serve without it; one that does not serve is
    // no loss.
    let ready = live.iter().filter(|pod| pod.ready).count();
    let mut spare = ready.saturating_sub(wanted);
    for pod in old {
        if !pod.ready {
            steps.push(Step::End(pod.name.to_owned()));
        } else if spare > 0 {
            spare -= 1;
            steps.push(Step::End(pod.name.to_owned()));
        }
    }
    steps
}

/// One after the other: started in order when the one before is ready, replaced from the last to the first.
fn numbered(want: &Want<'_>, have: &[Have<'_>]) -> Vec<Step> {
    let there: BTreeSet<u32> = have.iter().filter_map(|pod| pod.ordinal).collect();
    let live = || have.iter().filter(|pod| !pod.terminating);
    let extra = live().filter(|pod| pod.ordinal.is_none_or(|number| number >= want.replicas));
    let mut steps: Vec<Step> = extra.map(|pod| Step::End(pod.name.to_owned())).collect();
    for number in 0..want.replicas {
        if !there.contains(&number) {
            steps.push(Step::Start(Some(number)));
            return steps;
        }
        let ready = have
            .iter()
            .any(|pod| pod.ordinal == Some(number) && (pod.ready || pod.done));
        if !ready {
            // A pod that never gets ready is replaced when its template changes.
            let outdated =
                live().filter(|pod| pod.ordinal == Some(number) && pod.revision != want.revision);
            steps.extend(outdated.map(|pod| Step::End(pod.name.to_owned())));
            return steps;
        }
    }
    let outdated = live()
        .filter(|pod| {
            pod.revision != want.revision && pod.ordinal.is_some_and(|n| n < want.replicas)
        })
        .max_by_key(|pod| pod.ordinal);
    steps.extend(outdated.map(|pod| Step::End(pod.name.to_owned())));
    steps
}

#[cfg(test)]
mod tests;
