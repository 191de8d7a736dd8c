//! What the controller gets each second, and what it asks for.
//!
//! One gRPC stream. A report is made only when the transport asks for the next message, so that while the
//! controller is away or slow nothing piles up: what happened waits in the series and is part of the next
//! report. A report that was handed over counts as sent; what was on the wire when a connection broke (at most
//! the last second) is lost rather than perhaps counted twice.

use std::{
    mem,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{Stream, stream};
use mesh_api::v1::{
    TelemetryCommand, TelemetryReport, Workload, telemetry_client::TelemetryClient,
    telemetry_command::Kind,
};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Status, transport::Channel};

use super::{Metrics, report, series::lock};

/// How often to report, and to try again.
#[derive(Clone, Copy)]
struct Pace {
    /// Time between reports.
    interval: Duration,
    /// Time between reports while somebody watches single requests.
    tap_interval: Duration,
    /// The wait before a new stream doubles from the first to the second, with jitter.
    min_wait: Duration,
    max_wait: Duration,
}

const PACE: Pace = Pace {
    interval: Duration::from_secs(1),
    tap_interval: Duration::from_millis(200),
    min_wait: Duration::from_millis(250),
    max_wait: Duration::from_secs(8),
};

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
/// `channel` should connect lazily and reconnect by itself.
pub async fn report(
    metrics: Arc<Metrics>,
    channel: Channel,
    reporter: impl Fn() -> Reporter + Send + Sync + 'static,
) {
    report_at(PACE, metrics, channel, Arc::new(reporter)).await;
}

async fn report_at(
    pace: Pace,
    metrics: Arc<Metrics>,
    channel: Channel,
    reporter: Arc<dyn Fn() -> Reporter + Send + Sync>,
) {
    let reports = Reports {
        pace,
        metrics,
        reporter,
        last: Arc::new(Mutex::new(Instant::now())),
    };
    let mut wait = pace.min_wait;
    loop {
        let began = Instant::now();
        let ended = converse(channel.clone(), reports.clone()).await;
        // Nobody is there to tell that they ended.
        reports.metrics.tap.stop_all();
        match ended {
            Ok(()) => {
                tracing::debug!("the controller ended the telemetry stream; connecting again")
            }
            Err(status) => {
                let (code, message) = (status.code(), status.message());
                tracing::debug!(?code, message, "telemetry is not reported; trying again");
            }
        }
        if began.elapsed() > pace.max_wait {
            wait = pace.min_wait;
        }
        sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        wait = (wait * 2).min(pace.max_wait);
    }
}

/// One stream, to its end.
async fn converse(channel: Channel, reports: Reports) -> Result<(), Status> {
    let metrics = reports.metrics.clone();
    let mut commands = TelemetryClient::new(channel)
        .report(reports.stream())
        .await?
        .into_inner();
    tracing::debug!("telemetry stream open");
    while let Some(TelemetryCommand { kind }) = commands.message().await? {
        match kind {
            Some(Kind::StartTap(start)) => metrics.tap.start(start),
            Some(Kind::StopTap(id)) => metrics.tap.stop(id),
            // From a newer controller.
            None => {}
        }
    }
    Ok(())
}

/// Where reports come from, over all streams.
#[derive(Clone)]
struct Reports {
    pace: Pace,
    metrics: Arc<Metrics>,
    reporter: Arc<dyn Fn() -> Reporter + Send + Sync>,
    /// When the last report was made.
    last: Arc<Mutex<Instant>>,
}

impl Reports {
    /// The reports of one stream, each made when it is asked for.
    fn stream(self) -> impl Stream<Item = TelemetryReport> + Send + 'static {
        stream::unfold(self, |this| async move {
            let Pace {
                interval,
                tap_interval,
                ..
            } = this.pace;
            let tapped = this.metrics.tap.active();
            let interval = if tapped { tap_interval } else { interval };
            let due = *lock(&this.last) + interval;
            sleep_until(due).await;
            let report = this.take(Instant::now());
            Some((report, this))
        })
    }

    fn take(&self, now: Instant) -> TelemetryReport {
        let window = now - mem::replace(&mut *lock(&self.last), now);
        report::take(&self.metrics, (self.reporter)(), window)
    }
}

#[cfg(test)]
mod tests;
