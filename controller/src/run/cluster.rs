//! What runs on a cluster only: the injector webhook, and the election of the replica with the duties.

use std::{sync::Arc, time::Duration};

use kube::Client;
use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::DRAIN;
use crate::{
    ca::Authority,
    config::RunArgs,
    credentials::Credentials,
    discovery::Hub,
    duties::{Census, Duties},
    webhook::{self, Admissions, Injector},
};

/// How long the webhook goes on accepting after SIGTERM: until all API servers have heard that this replica is
/// no endpoint of its Service any more. A pod whose review fails starts without a proxy.
const LINGER: Duration = Duration::from_secs(5);

/// How often the injector's settings are looked at. The kubelet itself takes up to a minute to update them.
const SETTINGS: Duration = Duration::from_secs(2);

/// What the cluster's side shares with the rest.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) client: Client,
    /// Name of the controller's own pod.
    pub(crate) pod: String,
    pub(crate) authority: Arc<Authority>,
    pub(crate) census: Arc<Census>,
    pub(crate) hub: Arc<Hub>,
}

pub(super) struct Cluster {
    credentials: Credentials,
    injector: Arc<Injector>,
    duties: Arc<Duties>,
    keep_settings: futures_util::future::BoxFuture<'static, ()>,
}

impl Cluster {
    pub(super) fn new(
        args: &RunArgs,
        parts: Parts,
        registry: &mut Registry,
    ) -> anyhow::Result<Self> {
        let path = args.inject_settings.clone();
        let (settings, keep_settings) = webhook::open_settings(path, &args.trust_domain, SETTINGS)?;
        let cluster_domain = settings.borrow().cluster_domain.clone();
        let authority = Arc::clone(&parts.authority);
        Ok(Self {
            credentials: Credentials::for_webhook(authority, &args.namespace, &cluster_domain)?,
            injector: Arc::new(Injector {
                census: Arc::clone(&parts.census),
                client: parts.client.clone(),
                settings: settings.clone(),
                admissions: Admissions::new(registry),
            }),
            duties: Arc::new(Duties::new(parts, &args.namespace, settings, registry)),
            keep_settings: Box::pin(keep_settings),
        })
    }

    /// Serves the webhook at once, stands for election when everything has been read: who knows only a part
    /// would take the rest for gone. Returns after `stop`, when the Lease is free and the webhook is idle.
    pub(super) async fn run(
        self,
        listener: TcpListener,
        mut synced: watch::Receiver<bool>,
        stop: CancellationToken,
    ) {
        let (connections, last) = (TaskTracker::new(), CancellationToken::new());
        let tls = self.credentials.config();
        let serve = webhook::serve(
            listener,
            tls,
            self.injector,
            last.clone(),
            connections.clone(),
        );
        tokio::spawn(self.credentials.keep());
        tokio::spawn(self.keep_settings);
        let lead = async {
            let read_all = tokio::select! {
                result = synced.wait_for(|synced| *synced) => result.is_ok(),
                () = stop.cancelled() => false,
            };
            if read_all {
                self.duties.run(stop.clone()).await;
            }
        };
        let end = async {
            stop.cancelled().await;
            sleep(LINGER).await;
            last.cancel();
        };
        tokio::join!(serve, lead, end);
        connections.close();
        let _ = timeout(DRAIN, connections.wait()).await;
    }
}
