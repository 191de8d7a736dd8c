//! The controller's replicas: which pods they are, and connections to the Observe service of each.

use anyhow::{Result, bail};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, ResourceExt, api::ListParams};
use mesh_api::{
    names::{CONTROLLER, LABEL_COMPONENT, OBSERVE_PORT, SYSTEM_NAMESPACE},
    v1::observe_client::ObserveClient,
};
use tonic::transport::Channel;

use super::{Cluster, forward::Complaint};

/// What a right is missing for, in words.
const LIST: &str = "list pods in the namespace mesh-system";

/// The replicas that are ready, and why the others are not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controllers {
    /// Ready to answer.
    pub ready: Vec<Controller>,
    /// "mesh-controller-7d4 is Pending: Unschedulable".
    pub not_ready: Vec<String>,
}

/// A replica of the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    /// Its pod.
    pub pod: String,
    /// The tag of its image.
    pub version: Option<String>,
}

impl Cluster {
    /// The replicas of the controller.
    ///
    /// # Errors
    /// The mesh is not installed, none is ready, or they may not be looked for.
    pub async fn controllers(&self) -> Result<Controllers> {
        let pods: Api<Pod> = Api::namespaced(self.client(), SYSTEM_NAMESPACE);
        let params = ListParams::default().labels(&format!("{LABEL_COMPONENT}=controller"));
        let pods = self.ask(LIST, pods.list(&params)).await?.items;
        let controllers = Controllers::of(&pods);
        if !controllers.ready.is_empty() {
            return Ok(controllers);
        }
        if let [first, ..] = controllers.not_ready.as_slice() {
            bail!(
                "The controller is not ready: {first}. Wait for it with mesh check --wait 2m, or see: kubectl -n {SYSTEM_NAMESPACE} get pods"
            );
        }
        let deployments: Api<Deployment> = Api::namespaced(self.client(), SYSTEM_NAMESPACE);
        match deployments.get_opt(CONTROLLER).await {
            Ok(Some(_)) => bail!(
                "The controller has no pods: see kubectl -n {SYSTEM_NAMESPACE} describe deploy {CONTROLLER}"
            ),
            // Without the right to look it is not there either, as far as anybody can tell.
            _ => bail!(
                "No mesh is installed in the cluster of context {:?}: run mesh install | kubectl apply -f -",
                self.context()
            ),
        }
    }

    /// Connects to the Observe service of one replica.
    ///
    /// # Errors
    /// It may not be forwarded to, or is gone.
    pub async fn observe(
        &self,
        controller: &Controller,
    ) -> Result<(ObserveClient<Channel>, Complaint)> {
        let (channel, complaint) = self
            .channel(SYSTEM_NAMESPACE, &controller.pod, OBSERVE_PORT)
            .await?;
        Ok((ObserveClient::new(channel), complaint))
    }
}

impl Controllers {
    /// Sorts the controller's pods by whether they can answer.
    pub fn of(pods: &[Pod]) -> Self {
        let mut controllers = Self::default();
        for pod in pods {
            match unready(pod) {
                None => controllers.ready.push(Controller {
                    pod: pod.name_any(),
                    version: version(pod),
                }),
                Some(why) => controllers
                    .not_ready
                    .push(format!("{} {why}", pod.name_any())),
            }
        }
        controllers.ready.sort_by(|a, b| a.pod.cmp(&b.pod));
        controllers
    }
}

/// Why a pod can't be asked; `None` if it can.
fn unready(pod: &Pod) -> Option<String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Some("is ending".into());
    }
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let condition = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
    if condition("Ready").is_some_and(|ready| ready.status == "True") {
        return None;
    }
    // The most telling words: why a container does not start, then why the pod has no node.
    let waiting = status
        .container_statuses
        .iter()
        .flatten()
        .find_map(|container| {
            let waiting = container.state.as_ref()?.waiting.as_ref()?;
            Some(match &waiting.message {
                Some(message) => format!("{}: {message}", waiting.reason.as_deref()?),
                None => waiting.reason.clone()?,
            })
        });
    let unscheduled = || {
        let scheduled =
            condition("PodScheduled").filter(|scheduled| scheduled.status == "False")?;
        scheduled.message.clone().or(scheduled.reason.clone())
    };
    let phase = status.phase.unwrap_or_else(|| "Pending".into());
    Some(match waiting.or_else(unscheduled) {
        Some(why) => format!("is {phase} ({why})"),
        None => format!("is {phase} and not ready"),
    })
}

/// The tag of the controller's image, which is the version of the mesh that it belongs to.
fn version(pod: &Pod) -> Option<String> {
    let containers = &pod.spec.as_ref()?.containers;
    let controller = containers
        .iter()
        .find(|container| container.name == "controller" || container.name == CONTROLLER)
        .or(containers.first())?;
    let image = controller.image.as_deref()?.split('@').next()?;
    let (_, tag) = image.rsplit_once(':')?;
    // Of "registry:5000/name" without a tag, this is the port and the name.
    (!tag.contains('/')).then(|| tag.to_owned())
}
