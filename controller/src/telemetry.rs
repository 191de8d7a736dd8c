//! The Telemetry service: reports in, commands to tap out.

use std::{sync::Arc, time::Instant};

use futures_util::{Stream, stream};
use mesh_api::{
    SpiffeId,
    v1::{TelemetryCommand, TelemetryReport, telemetry_server::Telemetry},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::{observe::Observatory, server::client};

/// Feeds the observatory.
pub(crate) struct TelemetryService {
    pub(crate) observatory: Arc<Observatory>,
    pub(crate) stop: CancellationToken,
}

#[tonic::async_trait]
impl Telemetry for TelemetryService {
    type ReportStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<TelemetryCommand, Status>> + Send>>;

    async fn report(
        &self,
        request: Request<Streaming<TelemetryReport>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let id = client(&request)?;
        // Commands exist from the first report on, which says whose they are; the answer's head does not wait.
        let (begun, commands) = oneshot::channel();
        let (observatory, stop) = (Arc::clone(&self.observatory), self.stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                end = read(request.into_inner(), &id, &observatory, begun) => {
                    if let Err(status) = end {
                        tracing::info!(%id, code = ?status.code(), reason = status.message(), "telemetry stream ended");
                    }
                }
                () = stop.cancelled() => {}
            }
        });
        Ok(Response::new(Box::pin(stream::unfold(
            Commands::Expected(commands),
            Commands::next,
        ))))
    }
}

/// Takes reports until the proxy ends.
async fn read(
    mut reports: Streaming<TelemetryReport>,
    id: &SpiffeId,
    observatory: &Observatory,
    begun: oneshot::Sender<mpsc::Receiver<TelemetryCommand>>,
) -> Result<(), Status> {
    let Some(first) = reports.message().await? else {
        return Ok(());
    };
    let (reporting, commands) = observatory.begin(id, &first)?;
    if begun.send(commands).is_err() {
        return Ok(());
    }
    let mut next = Some(first);
    while let Some(report) = next {
        observatory.report(&reporting, id, report, Instant::now());
        next = reports.message().await?;
    }
    Ok(())
}

/// The proxy's commands; they end when the reading end does.
enum Commands {
    Expected(oneshot::Receiver<mpsc::Receiver<TelemetryCommand>>),
    Running(mpsc::Receiver<TelemetryCommand>),
}

impl Commands {
    async fn next(self) -> Option<(Result<TelemetryCommand, Status>, Self)> {
        let mut commands = match self {
            Self::Expected(begun) => begun.await.ok()?,
            Self::Running(commands) => commands,
        };
        Some((Ok(commands.recv().await?), Self::Running(commands)))
    }
}
