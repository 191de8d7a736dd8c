//! `mesh.local.v1.Local`: what the CLI asks of the engine.

use std::{io, os::unix::net::UnixListener, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream::BoxStream};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use mesh_api::local::{
    DeletePodRequest, Done, DownRequest, ExecInput, ExecOutput, ListRequest, ListResponse, LogLine,
    LogsRequest, Pod, RestartRequest, ScaleRequest, SignalRequest, exec_input,
    local_server::{Local, LocalServer},
    signal_request,
};
use nix::{sys::signal::Signal, unistd::geteuid};
use tokio::{
    net::UnixStream,
    sync::{broadcast, mpsc, oneshot},
};
use tonic::{Request as Call, Response, Status, Streaming};

use super::{
    Engine, Event, PodRecord, WorkloadId, exec,
    logs::{Line, Logs},
    pod::Handle,
    process::Slot,
    proxy,
};
use crate::local::{
    manifest::{Kind, MOST_REPLICAS},
    network::NODE,
};

/// A question to the engine, with the place for its answer.
pub(super) enum Request {
    List(oneshot::Sender<ListResponse>),
    Scale(ScaleRequest, oneshot::Sender<Result<(), Status>>),
    Restart(RestartRequest, oneshot::Sender<Result<(), Status>>),
    DeletePod(DeletePodRequest, oneshot::Sender<Result<(), Status>>),
    /// A pod by its namespace and name.
    Find(String, oneshot::Sender<Result<Arc<Handle>, Status>>),
    Down(oneshot::Sender<()>),
}

impl Engine {
    /// Whether this is the end.
    pub(super) fn answer(&mut self, request: Request) -> bool {
        // A caller that no longer waits for its answer is no error.
        match request {
            Request::List(reply) => drop(reply.send(self.list())),
            Request::Scale(request, reply) => {
                let _ = reply.send(self.scale(&request));
            }
            Request::Restart(request, reply) => {
                let found = self.find_workload(&request.namespace, &request.name);
                let result = found.map(|id| {
                    *self.restarts.entry(id).or_default() += 1;
                });
                let _ = reply.send(result);
            }
            Request::DeletePod(request, reply) => {
                let key = (request.namespace, request.pod);
                let grace = Duration::from_secs(request.grace_s.into());
                let result = match self.delete(&key, Some(grace)) {
                    None => Err(unknown_pod(&format!("{}/{}", key.0, key.1))),
                    Some((handle, grace)) => {
                        // A crash is not announced; an orderly end is published first.
                        if !grace.is_zero() {
                            self.publish();
                        }
                        handle.stop.send_replace(Some(grace));
                        Ok(())
                    }
                };
                let _ = reply.send(result);
            }
            Request::Find(pod, reply) => {
                let key = pod
                    .split_once('/')
                    .map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
                let found = key.and_then(|key| Some(self.pods.get(&key)?.handle.clone()));
                let _ = reply.send(found.ok_or_else(|| unknown_pod(&pod)));
            }
            Request::Down(reply) => {
                let _ = reply.send(());
                return true;
            }
        }
        false
    }

    fn list(&self) -> ListResponse {
        let warnings = self
            .manifests
            .warnings
            .iter()
            .chain(&self.reload_error)
            .chain(&self.problems);
        ListResponse {
            pods: self.pods.values().map(listed).collect(),
            controller_address: format!("{NODE}:{}", mesh_api::names::CONTROLLER_PORT),
            ready: self.controller.running() && self.all_ready(),
            warnings: warnings.cloned().collect(),
            controller_running: self.controller.running(),
        }
    }

    /// Every workload has as many ready pods as it wants, all of the current revision.
    fn all_ready(&self) -> bool {
        self.manifests
            .workloads
            .iter()
            .all(|((kind, namespace, name), workload)| {
                let id = WorkloadId {
                    kind: *kind,
                    namespace: namespace.clone(),
                    name: name.clone(),
                };
                let revision = self.revision(&id, &workload.template);
                let pods: Vec<_> = self.pods_of(&id).collect();
                let current = pods
                    .iter()
                    .all(|pod| pod.revision == revision && pod.deleted.is_none());
                let ready = pods
                    .iter()
                    .filter(|pod| pod.state.ready || pod.done())
                    .count();
                current && ready == self.replicas(&id) as usize
            })
    }

    fn scale(&mut self, request: &ScaleRequest) -> Result<(), Status> {
        let id = self.find_workload(&request.namespace, &request.name)?;
        let ScaleRequest { name, replicas, .. } = request;
        if !matches!(id.kind, Kind::Deployment | Kind::StatefulSet) {
            return Err(Status::failed_precondition(format!(
                "{name} is a {}: only Deployments and StatefulSets can be scaled",
                id.kind.name()
            )));
        }
        if *replicas > MOST_REPLICAS {
            return Err(Status::invalid_argument(format!(
                "{replicas} replicas of {name} are too many for one machine: take up to {MOST_REPLICAS}"
            )));
        }
        self.scaled.insert(id, *replicas);
        Ok(())
    }

    fn find_workload(&self, namespace: &str, name: &str) -> Result<WorkloadId, Status> {
        // "deploy/web" and "web" are the same: a name is rarely used twice.
        let (kind, bare) = name
            .split_once('/')
            .map_or((None, name), |(kind, name)| (Some(kind), name));
        let mut found = self.manifests.workloads.keys().filter(|(known, ns, name)| {
            ns == namespace && name == bare && kind.is_none_or(|kind| known.is_called(kind))
        });
        match (found.next(), found.next()) {
            (Some((kind, namespace, name)), None) => Ok(WorkloadId {
                kind: *kind,
                namespace: namespace.clone(),
                name: name.clone(),
            }),
            (None, _) => {
                let known: Vec<_> = self
                    .manifests
                    .workloads
                    .keys()
                    .map(|(_, ns, name)| format!("{ns}/{name}"))
                    .collect();
                Err(Status::not_found(format!(
                    "there is no workload {namespace}/{name}; there are: {}",
                    known.join(", ")
                )))
            }
            _ => Err(Status::invalid_argument(format!(
                "several workloads in {namespace} are named {bare}: say which, as in deployment/{bare}"
            ))),
        }
    }
}

fn unknown_pod(pod: &str) -> Status {
    Status::not_found(format!("there is no pod {pod}; see `mesh local ps`"))
}

fn listed(pod: &PodRecord) -> Pod {
    let phase = if pod.deleted.is_some() {
        "Terminating"
    } else {
        pod.state.phase.name()
    };
    Pod {
        namespace: pod.workload.namespace.clone(),
        name: pod.name.clone(),
        workload_kind: pod.workload.kind.name().to_lowercase(),
        workload: pod.workload.name.clone(),
        ip: pod.network.ip.to_string(),
        ip6: pod.network.ip6.to_string(),
        meshed: pod.meshed,
        ready: pod.state.ready && pod.deleted.is_none(),
        phase: phase.into(),
        restarts: pod.state.restarts,
        reason: pod.state.reason.clone(),
    }
}

/// The service; its state is in the engine's loop.
struct Api {
    events: mpsc::UnboundedSender<Event>,
    logs: Arc<Logs>,
    controller: Arc<Slot>,
}

/// Serves calls on the socket until the runtime ends.
pub(super) fn serve(
    listener: UnixListener,
    events: mpsc::UnboundedSender<Event>,
    logs: Arc<Logs>,
    controller: Arc<Slot>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let service = LocalServer::new(Api {
        events,
        logs,
        controller,
    });
    tokio::spawn(async move {
        loop {
            // Abstract sockets have no permissions.
            if let Ok((stream, _)) = listener.accept().await
                && is_allowed(&stream)
            {
                let service = TowerToHyperService::new(service.clone());
                let connection = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        }
    });
    Ok(())
}

/// The same user. In a user namespace, all other users look like one that is nobody.
fn is_allowed(stream: &UnixStream) -> bool {
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == geteuid().as_raw())
}

impl Api {
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        let ending = || Status::unavailable("the mesh is ending");
        self.events
            .send(Event::Request(request(reply)))
            .map_err(|_| ending())?;
        answer.await.map_err(|_| ending())
    }

    async fn slot(&self, target: &signal_request::Target) -> Result<Arc<Slot>, Status> {
        let (pod, container) = match target {
            signal_request::Target::Controller(_) => return Ok(self.controller.clone()),
            signal_request::Target::Proxy(pod) => (pod.as_str(), proxy::NAME),
            signal_request::Target::Container(path) => path.rsplit_once('/').ok_or_else(|| {
                Status::invalid_argument("a container is named namespace/pod/container")
            })?,
        };
        let handle = self.ask(|reply| Request::Find(pod.into(), reply)).await??;
        let slot = handle.slots.get(container).cloned();
        slot.ok_or_else(|| {
            let known: Vec<_> = handle.slots.keys().cloned().collect();
            Status::not_found(format!(
                "{pod} has no container {container}; it has: {}",
                known.join(", ")
            ))
        })
    }
}

#[tonic::async_trait]
impl Local for Api {
    type ExecStream = BoxStream<'static, Result<ExecOutput, Status>>;
    type LogsStream = BoxStream<'static, Result<LogLine, Status>>;

    async fn list(&self, _: Call<ListRequest>) -> Result<Response<ListResponse>, Status> {
        self.ask(Request::List).await.map(Response::new)
    }

    async fn scale(&self, call: Call<ScaleRequest>) -> Result<Response<Done>, Status> {
        self.ask(|reply| Request::Scale(call.into_inner(), reply))
            .await??;
        Ok(Response::new(Done {}))
    }

    async fn restart(&self, call: Call<RestartRequest>) -> Result<Response<Done>, Status> {
        self.ask(|reply| Request::Restart(call.into_inner(), reply))
            .await??;
        Ok(Response::new(Done {}))
    }

    async fn delete_pod(&self, call: Call<DeletePodRequest>) -> Result<Response<Done>, Status> {
        self.ask(|reply| Request::DeletePod(call.into_inner(), reply))
            .await??;
        Ok(Response::new(Done {}))
    }

    async fn signal(&self, call: Call<SignalRequest>) -> Result<Response<Done>, Status> {
        let request = call.into_inner();
        let target = request
            .target
            .ok_or_else(|| Status::invalid_argument("no target"))?;
        let slot = self.slot(&target).await?;
        if request.resume {
            slot.hold(false);
            return Ok(Response::new(Done {}));
        }
        let signal = Signal::try_from(request.signal)
            .map_err(|_| Status::invalid_argument(format!("{} is not a signal", request.signal)))?;
        slot.hold(request.hold);
        slot.signal(signal).map_err(Status::failed_precondition)?;
        Ok(Response::new(Done {}))
    }

    async fn exec(
        &self,
        call: Call<Streaming<ExecInput>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let mut input = call.into_inner();
        let first = input.message().await?.and_then(|message| message.kind);
        let Some(exec_input::Kind::Start(start)) = first else {
            return Err(Status::invalid_argument(
                "the first message must say what to run",
            ));
        };
        if start.command.is_empty() {
            return Err(Status::invalid_argument("there is no command to run"));
        }
        let place = if start.pod.is_empty() {
            None
        } else {
            let handle = self
                .ask(|reply| Request::Find(start.pod.clone(), reply))
                .await??;
            let place = handle.place.get().cloned();
            let starting =
                || Status::failed_precondition(format!("{} is still starting", start.pod));
            Some(place.ok_or_else(starting)?)
        };
        Ok(Response::new(exec::run(place, start, input)?))
    }

    async fn logs(&self, call: Call<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let request = call.into_inner();
        let matches = matcher(&request.target);
        let tail = if request.tail == 0 {
            usize::MAX
        } else {
            request.tail as usize
        };
        let (kept, live) = self.logs.subscribe(&matches, tail);
        if kept.is_empty() && !request.follow {
            return Err(Status::not_found(format!(
                "{} has printed nothing; see `mesh local ps` for what runs",
                request.target
            )));
        }
        let kept = futures_util::stream::iter(kept);
        let stream: BoxStream<'static, _> = if request.follow {
            kept.chain(follow(live, matches)).map(wire).boxed()
        } else {
            kept.map(wire).boxed()
        };
        Ok(Response::new(stream))
    }

    async fn down(&self, _: Call<DownRequest>) -> Result<Response<Done>, Status> {
        self.ask(Request::Down).await?;
        Ok(Response::new(Done {}))
    }
}

/// "": everything; "controller"; "namespace/pod"; "namespace/pod/container".
fn matcher(target: &str) -> impl Fn(&str) -> bool + Send + Sync + 'static {
    let target = target.to_owned();
    move |source| {
        let rest = source.strip_prefix(target.as_str());
        target.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

fn follow(
    live: broadcast::Receiver<Line>,
    matches: impl Fn(&str) -> bool + Send + 'static,
) -> impl Stream<Item = Line> + Send {
    futures_util::stream::unfold((live, matches), |(mut live, matches)| async move {
        loop {
            match live.recv().await {
                Ok(line) if matches(&line.source) => return Some((line, (live, matches))),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(lines)) => {
                    let line = Line {
                        source: "mesh".into(),
                        text: format!("{lines} lines were left out: too many at once"),
                    };
                    return Some((line, (live, matches)));
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    })
}

fn wire(line: Line) -> Result<LogLine, Status> {
    Ok(LogLine {
        source: line.source,
        line: line.text,
    })
}
