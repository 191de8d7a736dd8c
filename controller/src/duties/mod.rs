//! What one of the replicas does for all of them on Kubernetes: the leader, elected by a Lease.
//!
//! In: the [`Census`] of namespaces and pods, the authority's bundle. Out: rotated roots, the ConfigMap with the
//! trust bundle in every namespace whose pods need it, the webhook's `caBundle`, and Events on pods that are
//! missing their proxy. What can fail: the API server; everything is tried again, for ever.

mod ca_bundle;
mod census;
mod lease;
mod missed;
mod trust;

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use mesh_api::names;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{inject::Settings, run::Parts};
pub(crate) use census::Census;

/// What a duty that has failed waits before it starts again.
const RESTART: Duration = Duration::from_secs(5);

/// What the leader needs.
pub(crate) struct Duties {
    parts: Parts,
    /// Of the controller.
    namespace: String,
    settings: watch::Receiver<Arc<Settings>>,
    /// 1 while this replica leads.
    leader: Gauge,
}

/// The labels of every object that the controller makes.
pub(crate) fn labels() -> BTreeMap<String, String> {
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    BTreeMap::from([
        label(names::LABEL_PART_OF, names::PART_OF),
        label(names::LABEL_COMPONENT, "controller"),
    ])
}

impl Duties {
    /// Registers the gauge `leader`.
    pub(crate) fn new(
        parts: Parts,
        namespace: &str,
        settings: watch::Receiver<Arc<Settings>>,
        registry: &mut Registry,
    ) -> Self {
        let leader = Gauge::default();
        registry.register(
            "leader",
            "1 where this replica rotates roots, keeps trust bundles and reports pods",
            leader.clone(),
        );
        Self {
            parts,
            namespace: namespace.into(),
            settings,
            leader,
        }
    }

    /// Stands for election until `stop`, and does the duties while elected. When it returns, the duties have
    /// ended and the Lease is free.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (elected, mut leading) = watch::channel(false);
        let over = CancellationToken::new();
        let lease: Api<Lease> = Api::namespaced(self.parts.client.clone(), &self.namespace);
        let campaign = lease::campaign(&lease, &self.parts.pod, elected, &over);
        let work = async {
            loop {
                tokio::select! {
                    Ok(_) = leading.wait_for(|leading| *leading) => {}
                    () = stop.cancelled() => break,
                }
                tracing::info!(pod = self.parts.pod, "leads");
                self.leader.set(1);
                tokio::select! {
                    () = Arc::clone(&self).perform() => {}
                    _ = leading.wait_for(|leading| !*leading) => tracing::warn!("does not lead any more"),
                    () = stop.cancelled() => break,
                }
                self.leader.set(0);
            }
            // Only now: somebody else may begin as soon as the Lease is free.
            over.cancel();
        };
        tokio::join!(campaign, work);
        self.leader.set(0);
    }

    async fn perform(self: Arc<Self>) {
        let run = |name, duty: fn(Arc<Self>) -> Duty| keep_doing(name, Arc::clone(&self), duty);
        tokio::join!(
            run("roots", |duties| Box::pin(async move {
                duties.parts.authority.keep().await
            })),
            run("trust bundles", |duties| Box::pin(async move {
                trust::keep(
                    &duties.parts.client,
                    duties.parts.authority.bundle(),
                    &duties.parts.census,
                )
                .await;
            })),
            run("webhook", |duties| Box::pin(async move {
                ca_bundle::keep(&duties.parts.client, duties.parts.authority.bundle()).await;
            })),
            run("missed pods", |duties| Box::pin(async move {
                missed::report(&duties).await
            })),
        );
    }
}

type Duty = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// In a task of its own: what one duty breaks on must not end the others, or the election.
async fn keep_doing(name: &str, duties: Arc<Duties>, duty: fn(Arc<Duties>) -> Duty) {
    loop {
        let result = AbortOnDropHandle::new(tokio::spawn(duty(Arc::clone(&duties)))).await;
        tracing::error!(duty = name, ?result, "a duty has ended; it starts again");
        tokio::time::sleep(RESTART).await;
    }
}
