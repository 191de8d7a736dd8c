//! An API server of pods and jobs, at the end of a client and without a socket.

use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

type Stream = stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>;

#[derive(Clone, Default)]
pub(super) struct Server(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    version: u64,
    pods: BTreeMap<String, Value>,
    jobs: Vec<Value>,
    /// What has happened to pods, for watches that go on from somewhere.
    log: Vec<(u64, Value)>,
    /// Watches from before this version are told that it is too old.
    oldest: u64,
    /// Says so as the response, not as an event.
    refuses_old: bool,
    watches: Vec<mpsc::UnboundedSender<Value>>,
    page: usize,
    down: bool,
    metadata_only: HashSet<String>,
}

pub(super) fn pod(name: &str, version: u64) -> Value {
    json!({
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"namespace": "shop", "name": name, "resourceVersion": version.to_string()},
        "spec": {"containers": []},
    })
}

impl Server {
    pub(super) fn new(pods: &[Value]) -> Self {
        let server = Self::default();
        server.set_page(1000);
        pods.iter().for_each(|pod| server.put_unseen(pod.clone()));
        server
    }

    pub(super) fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = server.answer(&request);
            async move { answer }
        });
        kube::Client::new(service, "default")
    }

    pub(super) fn set_page(&self, size: usize) {
        self.lock().page = size;
    }

    pub(super) async fn put(&self, pod: Value) {
        self.put_unseen(pod.clone());
        self.tell("MODIFIED", pod);
    }

    pub(super) async fn delete(&self, name: &str, version: u64) {
        self.delete_unseen(name);
        self.lock().version = version;
        self.tell("DELETED", pod(name, version));
    }

    /// No watch ever tells of it.
    pub(super) fn put_unseen(&self, pod: Value) {
        let mut state = self.lock();
        state.version = version(&pod);
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        state.pods.insert(name, pod);
    }

    pub(super) fn delete_unseen(&self, name: &str) {
        let mut state = self.lock();
        state.version += 1;
        state.pods.remove(name).unwrap();
    }

    pub(super) fn put_job(&self, job: Value) {
        self.lock().jobs.push(job);
    }

    /// Ends all watches.
    pub(super) async fn cut(&self) {
        self.lock().watches.clear();
    }

    /// Forgets what has happened; present watches hear nothing any more.
    pub(super) fn go_blind(&self, refuses_old: bool) {
        let mut state = self.lock();
        state.oldest = state.version + 2;
        state.refuses_old = refuses_old;
        state.log.clear();
        // Kept open, but nobody tells them anything.
        let silent = state.watches.clone();
        state.watches.clear();
        tokio::spawn(async move {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            drop(silent);
        });
    }

    pub(super) async fn stop(&self) {
        let mut state = self.lock();
        state.down = true;
        state.watches.clear();
    }

    pub(super) fn start(&self) {
        self.lock().down = false;
    }

    pub(super) fn asked_for_metadata(&self, plural: &str) -> bool {
        self.lock().metadata_only.contains(plural)
    }

    fn tell(&self, kind: &str, pod: Value) {
        let mut state = self.lock();
        let event = json!({"type": kind, "object": pod});
        state.log.push((version(&event["object"]), event.clone()));
        state
            .watches
            .retain(|watch| watch.send(event.clone()).is_ok());
    }

    fn answer(
        &self,
        request: &Request<Body>,
    ) -> Result<Response<StreamBody<Stream>>, std::io::Error> {
        let mut state = self.lock();
        if state.down {
            return Err(std::io::ErrorKind::ConnectionRefused.into());
        }
        let plural = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let accept = request.headers().get(header::ACCEPT);
        let accept = accept.map_or("", |accept| accept.to_str().unwrap());
        if accept.contains("as=PartialObjectMetadata") {
            state.metadata_only.insert(plural.clone());
        }
        let query: BTreeMap<&str, &str> = request
            .uri()
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        let is_pods = plural == "pods";
        if query.get("watch") == Some(&"true") {
            let from: u64 = query["resourceVersion"].parse().unwrap();
            return Ok(state.watch(is_pods, from));
        }
        let items: Vec<Value> = match &*plural {
            "pods" => state.pods.values().cloned().collect(),
            "jobs" => state.jobs.clone(),
            _ => Vec::new(),
        };
        let start: usize = query.get("continue").map_or(0, |at| at.parse().unwrap());
        let limit = query
            .get("limit")
            .map_or(usize::MAX, |limit| limit.parse().unwrap());
        let end = items.len().min(start + limit.min(state.page));
        let next = (end < items.len()).then(|| end.to_string());
        Ok(response(json!({
            "kind": "List", "apiVersion": "v1",
            "metadata": {"resourceVersion": state.version.to_string(), "continue": next},
            "items": items[start..end],
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    fn watch(&mut self, is_pods: bool, from: u64) -> Response<StreamBody<Stream>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        if is_pods && from + 1 < self.oldest {
            let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old resource version"});
            if self.refuses_old {
                let mut refused = response(gone);
                *refused.status_mut() = StatusCode::GONE;
                return refused;
            }
            sender
                .send(json!({"type": "ERROR", "object": gone}))
                .unwrap();
        } else {
            if is_pods {
                let missed = self.log.iter().filter(|(version, _)| *version > from);
                missed.for_each(|(_, event)| sender.send(event.clone()).unwrap());
            }
            // Others never hear of anything, but stay open.
            self.watches.push(sender);
        }
        let lines = stream::unfold((receiver, is_pods), |(mut receiver, is_pods)| async move {
            loop {
                let event: Value = receiver.recv().await?;
                if is_pods {
                    return Some((frame(&event), (receiver, is_pods)));
                }
            }
        });
        Response::new(StreamBody::new(lines.boxed()))
    }
}

fn response(body: Value) -> Response<StreamBody<Stream>> {
    Response::new(StreamBody::new(stream::iter([frame(&body)]).boxed()))
}

fn frame(line: &Value) -> Result<Frame<Bytes>, Infallible> {
    Ok(Frame::data(format!("{line}\n").into()))
}

fn version(pod: &Value) -> u64 {
    pod["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}
