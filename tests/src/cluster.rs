//! A Kubernetes API server for a test: the in-memory one, or a real `kube-apiserver`.
//!
//! With `KUBEBUILDER_ASSETS` set to a folder that holds `kube-apiserver` and `etcd`, a pair of them of its own is started
//! for each [`Cluster`]. Both kinds are bare API servers: no controller-manager, kubelet or scheduler
//! is there, so nobody makes pods of Deployments, nobody sets conditions, no namespace has a default service
//! account. A test writes such things through the API.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// A running API server; dropping it ends it and all that it has stored.
#[derive(Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
}

impl Cluster {
    /// Starts one. `None` where this machine can't run one; the reason is printed.
    pub fn start() -> Option<Self> {
        None
    }

    /// A kubeconfig file whose only context has all rights.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client with all rights, for the runtime in which this is called.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn client(&self) -> kube::Client {
        let options = kube::config::KubeConfigOptions::default();
        let kubeconfig = kube::config::Kubeconfig::read_from(&self.kubeconfig)
            .expect("the kubeconfig of this cluster");
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .expect("a usable kubeconfig");
        kube::Client::try_from(config).expect("a client")
    }

    /// Whether this is a real `kube-apiserver`.
    pub fn is_real(&self) -> bool {
        false
    }

    /// Lets `pods/portforward` of a pod reach sockets of this machine: `(port of the pod, where it is served)`.
    /// In memory only (a real API server forwards through a kubelet); `false` if this cluster can't.
    pub fn serve_pod_ports(
        &self,
        _namespace: &str,
        _pod: &str,
        _ports: impl IntoIterator<Item = (u16, SocketAddr)>,
    ) -> bool {
        false
    }
}
