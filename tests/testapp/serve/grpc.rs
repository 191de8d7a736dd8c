//! The gRPC server.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Result;
use hyper::{body::Incoming, service::service_fn};
use mesh_tests::{
    echo::{
        Answer, Call, Chunk,
        echo_server::{Echo, EchoServer},
    },
    health::{
        HealthCheckRequest, HealthCheckResponse,
        health_check_response::ServingStatus,
        health_server::{Health, HealthServer},
    },
    pattern::{self, Digested},
};
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming, metadata::MetadataMap};
use tower::Service as _;

use super::{App, http};

pub(super) async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    stopped: watch::Receiver<bool>,
) -> Result<()> {
    let echo = EchoServer::new(Service { app });
    let health = HealthServer::new(Well);
    let service = service_fn(move |request: ::http::Request<Incoming>| {
        let (mut echo, mut health) = (echo.clone(), health.clone());
        async move {
            match request.uri().path().starts_with("/grpc.health.v1.Health/") {
                true => health.call(request).await,
                false => echo.call(request).await,
            }
        }
    });
    http::accept(listener, service, stopped).await
}

/// Knows of the whole server and of its one service.
struct Well;

#[tonic::async_trait]
impl Health for Well {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match request.into_inner().service.as_str() {
            "" | "mesh.testapp.Echo" => Ok(Response::new(HealthCheckResponse {
                status: ServingStatus::Serving.into(),
            })),
            other => Err(Status::not_found(format!("{other:?} is not served here"))),
        }
    }
}

struct Service {
    app: Arc<App>,
}

impl Service {
    fn answer(&self, metadata: &MetadataMap) -> Answer {
        let timeout = metadata.get("grpc-timeout");
        Answer {
            replica: self.app.replica.clone(),
            timeout: timeout.map_or_else(String::new, |v| v.to_str().unwrap_or("?").to_owned()),
            ..Answer::default()
        }
    }
}

/// Counts a call that ended without an answer.
struct Unanswered(Arc<App>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        App::count(&self.0.cancelled);
    }
}

#[tonic::async_trait]
impl Echo for Service {
    async fn unary(&self, request: Request<Call>) -> Result<Response<Answer>, Status> {
        App::count(&self.app.requests);
        let mut answer = self.answer(request.metadata());
        let sent = request.metadata().get_bin("test-bin").cloned();
        let call = request.into_inner();
        let faults = self.app.faults();
        let delay = Duration::from_millis(u64::from(call.delay_ms) + faults.delay_ms);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if faults.status != 0 {
            return Err(Status::unavailable("a fault that the test asked for"));
        }
        if call.status != 0 {
            let mut status = Status::new(Code::from(call.status as i32), call.note);
            status
                .metadata_mut()
                .insert("test-detail", "trailer".parse().unwrap());
            return Err(status);
        }
        answer.note = call.note;
        let mut response = Response::new(answer);
        if let Some(value) = sent {
            response.metadata_mut().insert_bin("test-bin", value);
        }
        Ok(response)
    }

    async fn upload(&self, request: Request<Streaming<Chunk>>) -> Result<Response<Answer>, Status> {
        let answer = self.answer(request.metadata());
        let mut chunks = request.into_inner();
        let mut digest = Digested::default();
        while let Some(chunk) = chunks.message().await? {
            digest.update(&chunk.data);
        }
        Ok(Response::new(Answer {
            count: digest.count,
            sha256: digest.finish(),
            ..answer
        }))
    }

    type DownloadStream = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

    async fn download(
        &self,
        request: Request<Call>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let pieces = pattern::pieces(request.into_inner().bytes);
        let chunks = tokio_stream::iter(pieces.map(|data| Ok(Chunk { data: data.into() })));
        Ok(Response::new(Box::pin(chunks)))
    }

    type ChatStream = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

    async fn chat(
        &self,
        request: Request<Streaming<Chunk>>,
    ) -> Result<Response<Self::ChatStream>, Status> {
        let chunks = request.into_inner();
        Ok(Response::new(Box::pin(chunks.take_while(Result::is_ok))))
    }

    async fn hang(&self, _: Request<Call>) -> Result<Response<Answer>, Status> {
        let _unanswered = Unanswered(Arc::clone(&self.app));
        std::future::pending().await
    }

    async fn cancelled(&self, request: Request<Call>) -> Result<Response<Answer>, Status> {
        let mut answer = self.answer(request.metadata());
        answer.count = self.app.cancelled.load(Ordering::Relaxed);
        Ok(Response::new(answer))
    }
}
