//! All replicas of a mesh's controller, asked as one.
//!
//! On this machine there is one. On Kubernetes each proxy reports to one of several, so that every question goes to
//! all of them, and the answers are merged. A replica that does not answer is named on standard error; what
//! its proxies reported is missing then, but the rest is shown. Where all fail, the call fails.

use std::{
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use futures_util::{Stream, StreamExt, future::join_all, stream};
use mesh_api::v1::{
    EdgesRequest, EdgesResponse, EndpointsRequest, EndpointsResponse, InventoryRequest,
    InventoryResponse, StatRequest, StatResponse, TapEvent, TapRequest, TopRequest, TopResponse,
    observe_client::ObserveClient,
};
use tonic::{Code, Response, Status, transport::Channel};

use super::{CALL_TIMEOUT, MAX_MESSAGE, Mesh, explain, merge};
use crate::cluster::Complaint;

/// How often new replicas are looked for, while a view goes on.
const RELIST: Duration = Duration::from_secs(10);

/// Connections to every replica that is ready.
pub struct Replicas {
    mesh: Mesh,
    replicas: Vec<Replica>,
    listed: Instant,
    told: BTreeSet<String>,
}

/// What all replicas know, and which they are.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Name of a replica's pod, and its version; one without a name on this machine.
    pub replicas: Vec<(String, String)>,
    /// All that they know.
    pub all: InventoryResponse,
}

#[derive(Clone)]
struct Replica {
    /// The pod.
    name: String,
    client: ObserveClient<Channel>,
    /// What was said of its port, if it can't be reached.
    complaint: Complaint,
}

type Answer<A> = Result<Response<A>, Status>;

/// Events of a tap, from all replicas.
pub type Tap = Pin<Box<dyn Stream<Item = Result<TapEvent>> + Send>>;

impl Replicas {
    /// Connects to all that are ready.
    ///
    /// # Errors
    /// None is.
    pub(super) async fn connect(mesh: Mesh) -> Result<Self> {
        let mut replicas = Self {
            mesh,
            replicas: Vec::new(),
            listed: Instant::now(),
            told: BTreeSet::new(),
        };
        replicas.list().await?;
        Ok(replicas)
    }

    /// The figures of workloads and services.
    ///
    /// # Errors
    /// No replica answers, or knows such a resource.
    pub async fn stat(&mut self, request: StatRequest) -> Result<StatResponse> {
        let answers = self.ask(request, |mut client, request| async move {
            client.stat(request).await
        });
        answers.await.map(merge::stat)
    }

    /// Who talks to whom.
    ///
    /// # Errors
    /// As [`Replicas::stat`].
    pub async fn edges(&mut self, request: EdgesRequest) -> Result<EdgesResponse> {
        let answers = self.ask(request, |mut client, request| async move {
            client.edges(request).await
        });
        answers.await.map(merge::edges)
    }

    /// Requests by method and route.
    ///
    /// # Errors
    /// As [`Replicas::stat`].
    pub async fn top(&mut self, request: TopRequest) -> Result<TopResponse> {
        let answers = self.ask(request, |mut client, request| async move {
            client.top(request).await
        });
        answers.await.map(merge::top)
    }

    /// The endpoints of a service or workload, as each of its clients sees them.
    ///
    /// # Errors
    /// As [`Replicas::stat`].
    pub async fn endpoints(&mut self, request: EndpointsRequest) -> Result<EndpointsResponse> {
        let answers = self.ask(request, |mut client, request| async move {
            client.endpoints(request).await
        });
        answers.await.map(merge::endpoints)
    }

    /// Names and versions.
    ///
    /// # Errors
    /// No replica answers.
    pub async fn inventory(&mut self) -> Result<Inventory> {
        self.relist().await;
        let names: Vec<String> = self.replicas.iter().map(|r| r.name.clone()).collect();
        let answers = self.each(InventoryRequest {}, |mut client, request| async move {
            client.inventory(request).await
        });
        let answers = answers.await;
        let versions = names
            .into_iter()
            .zip(&answers)
            .filter_map(|(name, answer)| {
                Some((name, answer.as_ref().ok()?.controller_version.clone()))
            })
            .collect();
        Ok(Inventory {
            replicas: versions,
            all: merge::inventory(self.good(answers)?),
        })
    }

    /// Opens a tap at every replica, and at those that come. The stream ends with the last of them.
    ///
    /// # Errors
    /// No replica answers, or knows such a workload.
    pub async fn tap(mut self, request: TapRequest) -> Result<Tap> {
        let opened = self.ask(request.clone(), |mut client, request| async move {
            client.tap(request).await
        });
        let opened = stream::select_all(opened.await?.into_iter().map(events));
        let Mesh::Cluster(_) = self.mesh else {
            return Ok(Box::pin(opened));
        };
        let watched = stream::unfold(
            (self, request, opened),
            |(mut replicas, request, mut opened)| async move {
                loop {
                    let next = tokio::time::timeout(RELIST, opened.next()).await;
                    match next {
                        Ok(Some(event)) => return Some((event, (replicas, request, opened))),
                        // All replicas are gone; perhaps others came in their place.
                        Ok(None) => {
                            let come = replicas.come().await;
                            if come.is_empty() {
                                return None;
                            }
                            opened.extend(open(come, &request).await);
                            if opened.is_empty() {
                                return None;
                            }
                        }
                        Err(_) => {
                            let come = replicas.come().await;
                            opened.extend(open(come, &request).await);
                        }
                    }
                }
            },
        );
        Ok(Box::pin(watched))
    }

    /// Asks every replica; see the module.
    async fn ask<Q: Clone, A, F: Future<Output = Answer<A>>>(
        &mut self,
        request: Q,
        question: impl Fn(ObserveClient<Channel>, Q) -> F,
    ) -> Result<Vec<A>> {
        self.relist().await;
        let answers = self.each(request, question).await;
        self.good(answers)
    }

    async fn each<Q: Clone, A, F: Future<Output = Answer<A>>>(
        &self,
        request: Q,
        question: impl Fn(ObserveClient<Channel>, Q) -> F,
    ) -> Vec<Result<A, Status>> {
        join_all(self.replicas.iter().map(|replica| {
            let asked = question(replica.client.clone(), request.clone());
            in_time(asked)
        }))
        .await
    }

    /// The answers that are none of failure. That a resource is unknown to one replica, which no proxy has told of
    /// it, is no failure where another one knows it.
    fn good<A>(&mut self, answers: Vec<Result<A, Status>>) -> Result<Vec<A>> {
        let (mut good, mut unknown, mut failed) = (Vec::new(), None, Vec::new());
        for (replica, answer) in self.replicas.iter().zip(answers) {
            match answer {
                Ok(answer) => good.push(answer),
                Err(status) if is_of_the_question(&status) => unknown = Some(status),
                Err(status) => {
                    let error = self.failure(&status, &replica.complaint);
                    failed.push((replica.name.clone(), error));
                }
            }
        }
        if good.is_empty() {
            if let Some(status) = unknown {
                return Err(explain(&status));
            }
            return Err(match failed.into_iter().next() {
                Some((_, error)) => error,
                None => anyhow!("The mesh has no controller."),
            });
        }
        for (name, error) in failed {
            self.tell(&name, &format!("{error:#}"));
        }
        Ok(good)
    }

    fn failure(&self, status: &Status, complaint: &Complaint) -> anyhow::Error {
        match status.code() {
            Code::DeadlineExceeded => anyhow!(
                "The controller did not answer within {} s. Is it running? See: {}",
                CALL_TIMEOUT.as_secs(),
                self.mesh.logs()
            ),
            Code::Unavailable | Code::Unknown | Code::Internal => {
                match (complaint.text(), &self.mesh) {
                    (None, Mesh::Local(_)) => explain(status),
                    (complaint, mesh) => anyhow!(
                        "The controller does not answer: {}. See: {}",
                        complaint.unwrap_or_else(|| status.message().to_owned()),
                        mesh.logs()
                    ),
                }
            }
            _ => explain(status),
        }
    }

    fn tell(&mut self, name: &str, why: &str) {
        let words = format!("what proxies told the replica {name} is missing here: {why}");
        self.tell_once(name, &words);
    }

    /// Not each second.
    fn tell_once(&mut self, about: &str, words: &str) {
        if self.told.insert(about.to_owned()) {
            eprintln!("mesh: {words}");
        }
    }

    /// Looks for new replicas, every now and then.
    async fn relist(&mut self) {
        if self.listed.elapsed() >= RELIST && matches!(self.mesh, Mesh::Cluster(_)) {
            // The known ones may still answer while the API server does not.
            let _ = self.list().await;
        }
    }

    /// Looks for new replicas now, and names those that have come.
    async fn come(&mut self) -> Vec<Replica> {
        let known: BTreeSet<String> = self.replicas.iter().map(|r| r.name.clone()).collect();
        if self.list().await.is_err() {
            return Vec::new();
        }
        let come = self.replicas.iter().filter(|r| !known.contains(&r.name));
        come.cloned().collect()
    }

    async fn list(&mut self) -> Result<()> {
        self.listed = Instant::now();
        let cluster = match &self.mesh {
            Mesh::Local(mesh) => {
                let client = mesh.controller().await?;
                self.replicas = vec![Replica::new(String::new(), client, Complaint::default())];
                return Ok(());
            }
            Mesh::Cluster(cluster) => cluster.clone(),
        };
        let found = cluster.controllers().await?.ready;
        let mut versions = found.iter().filter_map(|pod| pod.version.as_deref());
        if let Some(skew) = versions.find_map(skew) {
            self.tell_once("version", &skew);
        }
        self.replicas
            .retain(|replica| found.iter().any(|pod| pod.pod == replica.name));
        let new = found
            .iter()
            .filter(|pod| self.replicas.iter().all(|r| r.name != pod.pod));
        let new: Vec<_> = new.collect();
        let connected = join_all(new.iter().map(|pod| cluster.observe(pod))).await;
        let mut failure = None;
        for (pod, connected) in new.into_iter().zip(connected) {
            match connected {
                Ok((client, complaint)) => {
                    self.replicas
                        .push(Replica::new(pod.pod.clone(), client, complaint));
                }
                Err(error) => {
                    failure = Some((pod.pod.clone(), error));
                }
            }
        }
        match failure {
            Some((_, error)) if self.replicas.is_empty() => Err(error),
            Some((name, error)) => {
                self.tell(&name, &format!("{error:#}"));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Replica {
    fn new(name: String, client: ObserveClient<Channel>, complaint: Complaint) -> Self {
        Self {
            name,
            client: client.max_decoding_message_size(MAX_MESSAGE),
            complaint,
        }
    }
}

/// What to say if a controller is of another version than this command. Tags such as "latest" say nothing.
fn skew(version: &str) -> Option<String> {
    let own = env!("CARGO_PKG_VERSION");
    let is_number = version.starts_with(|c: char| c.is_ascii_digit());
    (is_number && version != own).then(|| {
        format!(
            "this command is {own}, the controller {version}: figures may be incomplete. Upgrade the older one (mesh version)"
        )
    })
}

/// Taps at replicas that have come later; one that is gone again already tells nothing.
async fn open(replicas: Vec<Replica>, request: &TapRequest) -> Vec<Tap> {
    let opened = replicas.into_iter().map(|mut replica| {
        let request = request.clone();
        in_time(async move { replica.client.tap(request).await })
    });
    let opened = join_all(opened).await.into_iter().flatten();
    opened.map(events).collect()
}

/// A replica that ends takes its part of the tap with it; the others go on.
fn events(events: tonic::Streaming<TapEvent>) -> Tap {
    let until_it_ends = events.take_while(|event| {
        let is_over = event
            .as_ref()
            .is_err_and(|status| matches!(status.code(), Code::Unavailable | Code::Unknown));
        std::future::ready(!is_over)
    });
    Box::pin(until_it_ends.map(|event| event.map_err(|status| explain(&status))))
}

async fn in_time<A>(question: impl Future<Output = Answer<A>>) -> Result<A, Status> {
    match tokio::time::timeout(CALL_TIMEOUT, question).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer")),
    }
}

/// Whether the question itself was bad, so that no replica has a good answer.
fn is_of_the_question(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::NotFound | Code::InvalidArgument | Code::FailedPrecondition
    )
}

#[cfg(test)]
mod tests {
    use super::skew;

    #[test]
    fn only_versions_are_compared() {
        for same in [env!("CARGO_PKG_VERSION"), "latest", "main-3f2"] {
            assert_eq!(skew(same), None);
        }
        assert!(skew("99.0.1").is_some_and(|words| words.contains("the controller 99.0.1")));
    }
}
