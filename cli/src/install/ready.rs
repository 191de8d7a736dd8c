//! Waiting until the controller serves, and saying what keeps it from it.

use std::{io::Write, time::Duration};

use anyhow::{Result, bail};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, api::ListParams};
use mesh_api::names;
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;

const PAUSE: Duration = Duration::from_millis(500);

/// Waits until all replicas of the controller are of this version of the Deployment and ready.
///
/// # Errors
/// They are not in time; the message says what the cluster says.
pub(super) async fn wait(
    cluster: &Cluster,
    patience: Duration,
    out: &mut impl Write,
) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client(), names::SYSTEM_NAMESPACE);
    let end = Instant::now() + patience;
    let mut said = String::new();
    loop {
        let deployment = cluster
            .ask(
                "read the controller's Deployment",
                deployments.get(names::CONTROLLER),
            )
            .await?;
        let progress = progress(&deployment);
        if progress.is_complete() {
            writeln!(out, "√ {}", progress.sentence())?;
            return Ok(());
        }
        let mut sentence = progress.sentence();
        if let Some(complaint) = complaint(&pods(cluster).await?) {
            sentence = format!("{sentence}; {complaint}");
        }
        if Instant::now() >= end {
            bail!(
                "The controller was not ready in {} s: {sentence}. Look at it with: kubectl describe pods -n {} ; \
                 kubectl logs -n {} deploy/{}",
                patience.as_secs(),
                names::SYSTEM_NAMESPACE,
                names::SYSTEM_NAMESPACE,
                names::CONTROLLER
            );
        }
        if sentence != said {
            writeln!(out, "… {sentence}")?;
            out.flush()?;
            said = sentence;
        }
        sleep(PAUSE).await;
    }
}

/// How far a rollout is.
#[derive(Debug, PartialEq, Eq)]
struct Progress {
    /// Whether the counts are of this version of the Deployment.
    observed: bool,
    wanted: i32,
    ready: i32,
    old: i32,
}

impl Progress {
    fn is_complete(&self) -> bool {
        self.observed && self.ready >= self.wanted && self.old == 0
    }

    fn sentence(&self) -> String {
        if !self.observed {
            return "the cluster has not looked at the controller's Deployment yet".into();
        }
        let mut sentence = format!("{} of {} controllers ready", self.ready, self.wanted);
        if self.old > 0 {
            sentence.push_str(&format!(", {} of the version before still there", self.old));
        }
        sentence
    }
}

/// As `kubectl rollout status` decides it.
fn progress(deployment: &Deployment) -> Progress {
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = deployment.spec.replicas.unwrap_or(1);
    let updated = status.updated_replicas.unwrap_or(0);
    let available = status.available_replicas.unwrap_or(0);
    Progress {
        observed: status.observed_generation >= deployment.metadata.generation,
        wanted,
        ready: updated.min(available),
        old: status.replicas.unwrap_or(0) - updated,
    }
}

async fn pods(cluster: &Cluster) -> Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(cluster.client(), names::SYSTEM_NAMESPACE);
    let params = ListParams::default().labels(&format!("{}=controller", names::LABEL_COMPONENT));
    let what = format!("list pods in {}", names::SYSTEM_NAMESPACE);
    Ok(cluster.ask(&what, api.list(&params)).await?.items)
}

/// The first thing that keeps a pod from being ready, in the cluster's words.
fn complaint(pods: &[Pod]) -> Option<String> {
    pods.iter().find_map(|pod| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let status = pod.status.as_ref()?;
        let unscheduled = status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
        if let Some(condition) = unscheduled {
            let why = condition.message.as_deref().unwrap_or("no reason given");
            return Some(format!("no node takes {name}: {why}"));
        }
        let container = status.container_statuses.iter().flatten().next()?;
        let state = container.state.as_ref()?;
        let (reason, message) = match (&state.waiting, &state.terminated) {
            (Some(waiting), _) => (&waiting.reason, &waiting.message),
            (_, Some(ended)) => (&ended.reason, &ended.message),
            _ => return None,
        };
        let reason = reason.as_deref().unwrap_or("waiting");
        // Every pod is in these states for a moment.
        if ["ContainerCreating", "PodInitializing"].contains(&reason) {
            return None;
        }
        Some(match message.as_deref() {
            Some(message) => format!("{name}: {reason}: {message}"),
            None => format!("{name}: {reason}"),
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(status: serde_json::Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "mesh-controller", "generation": 2},
            "spec": {"replicas": 3, "selector": {}, "template": {}},
            "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_rollout_is_complete_when_all_of_the_new_and_none_of_the_old_are_there() {
        for (status, complete, sentence) in [
            (json!({}), false, "has not looked"),
            (
                json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}),
                false,
                "has not looked",
            ),
            (
                json!({"observedGeneration": 2, "replicas": 4, "updatedReplicas": 1, "availableReplicas": 3}),
                false,
                "1 of 3 controllers ready, 3 of the version before still there",
            ),
            (
                json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 2}),
                false,
                "2 of 3 controllers ready",
            ),
            (
                json!({"observedGeneration": 2, "replicas": 4, "updatedReplicas": 3, "availableReplicas": 4}),
                false,
                "3 of 3 controllers ready, 1 of the version before",
            ),
            (
                json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3, "availableReplicas": 3}),
                true,
                "3 of 3 controllers ready",
            ),
        ] {
            let progress = progress(&deployment(status.clone()));
            assert_eq!(progress.is_complete(), complete, "{status}");
            let got = progress.sentence();
            assert!(got.contains(sentence), "{status}: {got}");
        }
    }

    #[test]
    fn a_pod_says_what_it_waits_for() {
        let pod = |status| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "c-1"}, "status": status})).unwrap()
        };
        let container = |state| {
            json!({"containerStatuses": [{
                "name": "mesh-controller", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state,
            }]})
        };
        for (status, expected) in [
            (json!({}), None),
            (
                container(json!({"waiting": {"reason": "ContainerCreating"}})),
                None,
            ),
            (container(json!({"running": {}})), None),
            (
                container(json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}})),
                Some("c-1: ErrImagePull: not found"),
            ),
            (
                container(json!({"terminated": {"reason": "Error", "exitCode": 1}})),
                Some("c-1: Error"),
            ),
            (
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]}),
                Some("no node takes c-1: 0/1 nodes are available"),
            ),
        ] {
            assert_eq!(complaint(&[pod(status)]).as_deref(), expected);
        }
    }
}
