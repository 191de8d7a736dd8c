//! Requests of this pod's own apps: each to the endpoint that answers fastest, once more where that is safe.

use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use http::{Request, Response, StatusCode, Version};
use hyper::body::Body;
use mesh_api::v1::Security;

use super::{
    answer::{Refusal, causes, reject},
    body::ResponseBody,
    exchange::{Arrived, Exchange},
    forward::{Answer, Failed, Forward, TryError},
    headers::{self, Needs},
    incoming::Incoming,
    pool::{PoolError, Protocol},
    respond::{self, WayBack},
    retry::{Attempt, Decision, Failure, decide},
    server::{self, Client, Reset, Upstream},
    upload::Upload,
};
use crate::{
    balance::{Backoff, Outcome},
    connect::{self, ConnectError},
    detect::HttpVersion,
    io::Io,
    metrics::{Cause, PeerMetrics, RetrySkipped},
    outbound::refused,
    route,
    target::{Picked, Target, Unavailable},
    tls::Alpn,
    worker::Worker,
};

/// How long a request waits for an endpoint (the design's default; Linkerd's failfast).
const READY_TIMEOUT: Duration = Duration::from_secs(3);
/// Picks before an endpoint that was tried is taken again.
const MAX_PICKS: usize = 4;

/// Serves one connection of an app until it ends.
pub async fn serve(
    worker: Rc<Worker>,
    io: Io,
    client: SocketAddr,
    version: HttpVersion,
    target: Rc<Target>,
) {
    let outbound = Rc::new(Outbound {
        client,
        worker: worker.clone(),
        target,
    });
    server::serve(io, version, &worker.drain, outbound).await;
}

struct Outbound {
    worker: Rc<Worker>,
    target: Rc<Target>,
    client: SocketAddr,
}

/// What became of a request so far.
#[derive(Default)]
struct History {
    /// Endpoints that failed it.
    failed: Vec<SocketAddr>,
    unreachable: u32,
    unsent: u32,
    retries: u32,
}

/// A request that has been read.
struct Begun<'a> {
    arrived: Arrived,
    forward: Forward,
    target: &'a Rc<Target>,
    history: History,
}

impl Upstream for Outbound {
    fn forward(
        &self,
        client: &Rc<Client>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<ResponseBody>, Reset>> {
        // Not within the future: the request would have its place in it to the end.
        let mut begun = self.begin(request);
        async move {
            let (picked, tried) = match self.try_endpoints(&mut begun).await {
                Ok(tried) => tried,
                Err(unavailable) => {
                    return Ok(self.unavailable(&begun.arrived, &begun.history, &unavailable));
                }
            };
            let Begun {
                arrived,
                forward,
                history,
                ..
            } = begun;
            let needs = forward.needs;
            match tried {
                Ok(answer) => {
                    if let Some(upload) = &forward.upload {
                        upload.keep_no_more();
                    }
                    let way_back = WayBack { client, needs };
                    let retries = history.retries;
                    Ok(self.respond(way_back, arrived, answer, picked, forward.upload, retries))
                }
                Err(failed) => self.give_up(client, &arrived, needs, picked, failed, &history),
            }
        }
    }
}

impl Outbound {
    fn begin(&self, request: Request<Incoming>) -> Begun<'_> {
        let started = Instant::now();
        let (mut head, incoming) = request.into_parts();
        let body = !incoming.is_end_stream();
        headers::strip_mesh(&mut head.headers);
        let needs = headers::receive(&mut head, body);
        let target = route::backend(&self.target, &head);
        let arrived = Arrived::new(&self.worker, &head, needs, Some(self.client), started);
        target.budget.borrow_mut().deposit(started);
        Begun {
            arrived,
            forward: Forward::new(head, needs, incoming, body),
            target,
            history: History::default(),
        }
    }

    /// Sends the request to one endpoint after the other, as the retry table allows; the last one, and how that went.
    async fn try_endpoints(
        &self,
        begun: &mut Begun<'_>,
    ) -> Result<(Picked, Result<Answer, Failed>), Unavailable> {
        let Begun {
            arrived,
            forward,
            target,
            history,
        } = begun;
        loop {
            let picked = self.pick(target, arrived, history).await?;
            let tried = self.attempt(&picked, forward, history).await;
            let failure = match &tried {
                Ok(answer) => failure_of(answer, &picked, forward.needs),
                Err(Failed::Dial(_)) => Some(Failure::Connect),
                Err(Failed::Try(error)) => error.failure(),
            };
            if let Some(failure) = failure
                && let Some(pause) =
                    self.retry_after(target, forward, arrived, history, &picked, failure)
            {
                // Before the pause, which is no fault of the endpoint.
                match tried {
                    Ok(answer) => picked.finish_after(Outcome::Failure, answer.rtt),
                    Err(failed) => picked.finish(outcome_of(&failed)),
                }
                wait(pause).await;
                continue;
            }
            return Ok((picked, tried));
        }
    }

    /// Chooses an endpoint that has not failed this request, if there is one; waits for one to appear.
    async fn pick(
        &self,
        target: &Rc<Target>,
        arrived: &Arrived,
        history: &History,
    ) -> Result<Picked, Unavailable> {
        let mut picked = match target.pick(history.failed.last().copied()) {
            Ok(picked) => picked,
            Err(_) => {
                arrived.waits_for(&self.nobody(), history.retries);
                target.ready(READY_TIMEOUT).await?;
                target.pick(history.failed.last().copied())?
            }
        };
        for _ in 0..MAX_PICKS {
            if !history.failed.contains(&picked.peer.endpoint.address) {
                break;
            }
            picked = target.pick(history.failed.last().copied())?;
        }
        arrived.waits_for(&picked.peer.metrics, history.retries);
        Ok(picked)
    }

    /// One try. The time it gives is from the sending to the response's head: with the handshake of a new
    /// connection in it, a new replica would count as slow for as long as that takes to be forgotten.
    async fn attempt(
        &self,
        picked: &Picked,
        forward: &mut Forward,
        history: &History,
    ) -> Result<Answer, Failed> {
        let peer = &picked.peer;
        let meshed = is_meshed(picked);
        let dial = |protocol| {
            let alpn = match protocol {
                Protocol::Http1 => Alpn::Http1,
                Protocol::Http2 => Alpn::Http2,
            };
            connect::dial(&self.worker, peer, alpn)
        };
        let wants = forward.wants(meshed);
        let fresh = history.unsent > 0;
        let mut lease = peer
            .pool
            .lease(wants, fresh, forward.is_safe(), dial)
            .await
            .map_err(Failed::Dial)?;
        let keep = history.retries == 0 && forward.worth_keeping();
        let sent = Instant::now();
        let (head, body) = forward
            .send(&mut lease, meshed, keep)
            .await
            .map_err(Failed::Try)?;
        Ok(Answer {
            head,
            body,
            lease,
            rtt: sent.elapsed(),
        })
    }

    /// Applies the retry table and the budget: after which pause to try again, if at all.
    fn retry_after(
        &self,
        target: &Target,
        forward: &Forward,
        arrived: &Arrived,
        history: &mut History,
        picked: &Picked,
        failure: Failure,
    ) -> Option<Duration> {
        if failure == Failure::Connect {
            history.unreachable += 1;
        }
        let decision = decide(
            &Attempt {
                method: arrived.method(),
                failure,
                retries: history.retries,
                unreachable: history.unreachable,
                endpoints: u32::try_from(target.endpoints()).unwrap_or(u32::MAX),
                can_replay: forward.can_replay(),
            },
            history.unsent,
        );
        match decision {
            Decision::GiveUp => None,
            Decision::BodyGone => {
                self.worker.metrics.retry_skipped(RetrySkipped::Body);
                None
            }
            Decision::AtOnce if failure == Failure::Unsent => {
                history.unsent += 1;
                Some(Duration::ZERO)
            }
            Decision::AtOnce => {
                history.failed.push(picked.peer.endpoint.address);
                Some(Duration::ZERO)
            }
            Decision::Later => {
                if !target.budget.borrow_mut().withdraw(Instant::now()) {
                    self.worker.metrics.retry_skipped(RetrySkipped::Budget);
                    return None;
                }
                let pause = Backoff::default().delay(history.retries, &mut fastrand::Rng::new());
                history.retries += 1;
                history.failed.push(picked.peer.endpoint.address);
                Some(pause)
            }
        }
    }

    fn respond(
        &self,
        way_back: WayBack<'_>,
        arrived: Arrived,
        mut answer: Answer,
        picked: Picked,
        upload: Option<Rc<Upload>>,
        retries: u32,
    ) -> Response<ResponseBody> {
        let metrics = picked.peer.metrics.clone();
        if let Err(refusal) = respond::check(&mut answer.head, way_back.needs) {
            return refuse(&arrived, &metrics, &refusal, retries);
        }
        let server = picked.peer.endpoint.address;
        let exchange = Exchange {
            picked: Some(picked),
            lease: Some(answer.lease),
            rtt: answer.rtt,
            upload,
            retries,
            ..Exchange::new(arrived, metrics, server, &answer.head)
        };
        respond::pass_on(way_back, answer.head, answer.body, exchange)
    }

    fn give_up(
        &self,
        client: &Rc<Client>,
        arrived: &Arrived,
        needs: Needs,
        picked: Picked,
        failed: Failed,
        history: &History,
    ) -> Result<Response<ResponseBody>, Reset> {
        let metrics = picked.peer.metrics.clone();
        let address = picked.peer.endpoint.address;
        picked.finish(outcome_of(&failed));
        let refusal = match failed {
            Failed::Dial(error) => Refusal::new(status_of(&error), error.to_string()),
            Failed::Try(TryError::ClientLeft) => {
                return Ok(match client.refused() {
                    Some(rejection) => reject(rejection),
                    None => Refusal::new(StatusCode::BAD_REQUEST, "the request ended early")
                        .response(needs.grpc),
                });
            }
            Failed::Try(TryError::Reset(error)) if needs.version == Version::HTTP_2 => {
                arrived.failed(
                    &metrics,
                    None,
                    13,
                    history.retries,
                    "the endpoint reset the stream",
                );
                return Err(Reset(error));
            }
            Failed::Try(error) => explain(&error, address),
        };
        Ok(refuse(arrived, &metrics, &refusal, history.retries))
    }

    /// What is counted where no endpoint is to blame; the service is.
    fn nobody(&self) -> Rc<PeerMetrics> {
        refused(&self.worker, Some(&self.target))
    }

    /// Answers a request for which there is no endpoint.
    fn unavailable(
        &self,
        arrived: &Arrived,
        history: &History,
        unavailable: &Unavailable,
    ) -> Response<ResponseBody> {
        let metrics = self.nobody();
        metrics.error(Cause::NoEndpoint);
        let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, unavailable.to_string());
        refuse(arrived, &metrics, &refusal, history.retries)
    }
}

/// Most retries are at once, and a timer would make a millisecond of nothing.
async fn wait(pause: Duration) {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
}

fn is_meshed(picked: &Picked) -> bool {
    picked.peer.security() == Security::Mtls
}

/// Whether a response says that the request may be sent elsewhere.
fn failure_of(answer: &Answer, picked: &Picked, needs: Needs) -> Option<Failure> {
    let head = &answer.head;
    if is_meshed(picked) && head.headers.contains_key(headers::NOT_DELIVERED) {
        return Some(Failure::Refused);
    }
    if needs.grpc && headers::grpc_status(&head.headers) == Some(14) && answer.is_end_stream() {
        return Some(Failure::GrpcUnavailable);
    }
    super::retry::is_gateway_error(head.status).then_some(Failure::Status(head.status))
}

/// What a failed try says about the endpoint.
fn outcome_of(failed: &Failed) -> Outcome {
    match failed {
        Failed::Dial(_)
        | Failed::Try(
            TryError::Reset(_)
            | TryError::Lost(_)
            | TryError::NoExtendedConnect
            | TryError::Refused { overloaded: true },
        ) => Outcome::Failure,
        // A connection that ends between two requests is in order.
        Failed::Try(TryError::Unsent | TryError::ClientLeft | TryError::Refused { .. }) => {
            Outcome::Cancelled
        }
    }
}

fn refuse(
    arrived: &Arrived,
    metrics: &PeerMetrics,
    refusal: &Refusal,
    retries: u32,
) -> Response<ResponseBody> {
    arrived.failed(
        metrics,
        Some(refusal.status),
        refusal.grpc_status(),
        retries,
        &refusal.words,
    );
    refusal.response(arrived.is_grpc())
}

/// 504 where time ran out, else 502.
pub(super) fn status_of(error: &PoolError) -> StatusCode {
    match error {
        PoolError::Dial(error) => match **error {
            ConnectError::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::BAD_GATEWAY,
        },
        PoolError::Handshake(_) => StatusCode::BAD_GATEWAY,
    }
}

/// The words for a try that failed.
pub(super) fn explain(error: &TryError, address: SocketAddr) -> Refusal {
    let words = match error {
        TryError::Unsent => format!("connections to {address} end before a request can be sent"),
        TryError::Refused { .. } => format!("{address} refused the request unseen"),
        TryError::Reset(error) | TryError::Lost(error) => {
            let causes = causes(error);
            format!("the connection to {address} ended before a response came: {causes}")
        }
        TryError::ClientLeft => "the request ended early".to_owned(),
        TryError::NoExtendedConnect => {
            return Refusal::new(
                StatusCode::NOT_IMPLEMENTED,
                format!("{address} does not take extended CONNECT"),
            );
        }
    };
    Refusal::new(StatusCode::BAD_GATEWAY, words)
}
