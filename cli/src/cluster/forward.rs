//! Byte streams to a port of a pod, through the API server and the kubelet: `pods/portforward`.
//!
//! The port is dialled on the pod's loopback interface. A right to `get` and (since Kubernetes 1.35) `create`
//! `pods/portforward` is needed.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, anyhow};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::io::DuplexStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{Cluster, TIMEOUT};

/// Why the far end of a forwarded port failed, if it said so.
#[derive(Clone, Debug, Default)]
pub struct Complaint(Arc<Mutex<Option<String>>>);

impl Complaint {
    /// The kubelet's words, such as "connection refused".
    pub fn text(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn hear(&self, words: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(words);
    }
}

impl Cluster {
    /// A stream to a port of a pod, and why it ended, once it has.
    ///
    /// # Errors
    /// No right to forward, or no such pod, or the cluster can't be reached.
    pub async fn forward(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> Result<(DuplexStream, Complaint)> {
        let pods: Api<Pod> = Api::namespaced(self.client(), namespace);
        let what = format!("forward ports of pods (pods/portforward) in the namespace {namespace}");
        let mut forwarder = self.ask(&what, pods.portforward(pod, &[port])).await?;
        let stream = forwarder
            .take_stream(port)
            .ok_or_else(|| anyhow!("port {port} was not forwarded"))?;
        let complaint = Complaint::default();
        if let Some(error) = forwarder.take_error(port) {
            let complaint = complaint.clone();
            tokio::spawn(async move {
                if let Some(words) = error.await {
                    complaint.hear(words.trim().to_owned());
                }
            });
        }
        Ok((stream, complaint))
    }

    /// A gRPC channel to a port of a pod; it forwards anew where the stream has ended.
    ///
    /// # Errors
    /// As [`Cluster::forward`].
    pub(super) async fn channel(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
    ) -> Result<(Channel, Complaint)> {
        // The first stream is opened here, so that its failure is heard as it is.
        let (stream, complaint) = self.forward(namespace, pod, port).await?;
        let first = Arc::new(Mutex::new(Some(stream)));
        let (cluster, namespace, pod) = (self.clone(), namespace.to_owned(), pod.to_owned());
        let heard = complaint.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let ready = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (cluster, namespace, pod) = (cluster.clone(), namespace.clone(), pod.clone());
            let heard = heard.clone();
            async move {
                if let Some(stream) = ready {
                    return Ok(TokioIo::new(stream));
                }
                match cluster.forward(&namespace, &pod, port).await {
                    Ok((stream, _)) => Ok(TokioIo::new(stream)),
                    Err(error) => {
                        heard.hear(format!("{error:#}"));
                        Err(std::io::Error::other(error))
                    }
                }
            }
        });
        let channel = Endpoint::from_static("http://mesh.cluster")
            .connect_timeout(TIMEOUT)
            // A tap may be silent for hours; a node that is gone must not look so.
            .http2_keep_alive_interval(TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_with_connector(connector)
            .await
            .map_err(|error| {
                anyhow!(
                    "port {port} does not answer: {}",
                    complaint.text().unwrap_or_else(|| error.to_string())
                )
            })?;
        Ok((channel, complaint))
    }
}
