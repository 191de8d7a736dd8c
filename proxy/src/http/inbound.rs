//! Requests to this pod's app, from proxies of the mesh and from callers without one.

use std::{rc::Rc, time::Instant};

use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header::HOST, request};
use hyper::body::Body;
use mesh_api::v1::Security;

use super::{
    answer::{Refusal, reject},
    body::ResponseBody,
    exchange::{Arrived, Exchange},
    forward::{Answer, Failed, Forward, TryError},
    headers::{self, Needs},
    incoming::Incoming,
    outbound::{explain, status_of},
    respond::{self, WayBack},
    server::{self, Client, Reset, Upstream},
    upload::Upload,
};
use crate::{
    connect,
    detect::HttpVersion,
    inbound::{App, Caller},
    io::Io,
    metrics::{PeerLabels, PeerMetrics, Undecided},
    worker::Worker,
};

/// Times that a stale connection of the app's may hand a request back.
const MAX_UNSENT: u32 = 3;

/// Serves one connection of a caller until it ends, and counts it.
pub async fn serve(worker: Rc<Worker>, io: Io, version: HttpVersion, caller: Caller, app: Rc<App>) {
    // A kubelet's gRPC probe begins as every gRPC client does: its request tells.
    let undecided = (version == HttpVersion::Http2 && caller.identity.is_none())
        .then(|| caller.metrics.undecided());
    let io = match &undecided {
        Some(undecided) => io.counted_once_decided(undecided.clone()),
        None => io.counted(caller.metrics.connection()),
    };
    let client_id = caller
        .identity
        .as_ref()
        .and_then(|identity| HeaderValue::from_str(identity.as_str()).ok());
    let inbound = Rc::new(Inbound {
        worker: worker.clone(),
        caller,
        undecided,
        client_id,
        app,
    });
    if version == HttpVersion::Http1 {
        // HTTP/2 has windows of its own, and pings.
        io.allow_pauses();
    }
    server::serve(io, version, &worker.drain, inbound).await;
}

struct Inbound {
    worker: Rc<Worker>,
    caller: Caller,
    /// Where a request tells who calls.
    undecided: Option<Rc<Undecided>>,
    /// The value of `mesh-client-id`; none for a caller that is not meshed.
    client_id: Option<HeaderValue>,
    app: Rc<App>,
}

/// A request that has been read.
struct Begun {
    arrived: Arrived,
    forward: Forward,
    metrics: Rc<PeerMetrics>,
    /// The version of this hop.
    spoken: Version,
}

impl Upstream for Inbound {
    fn forward(
        &self,
        client: &Rc<Client>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<ResponseBody>, Reset>> {
        // Not within the future: the request would have its place in it to the end.
        let mut begun = self.begin(request);
        async move {
            let answer = self.attempt(&mut begun.forward).await;
            let Begun {
                arrived,
                forward,
                metrics,
                spoken,
            } = begun;
            match answer {
                Ok(answer) => {
                    if let Some(upload) = &forward.upload {
                        upload.keep_no_more();
                    }
                    let way_back = WayBack {
                        client,
                        // The response travels back in the version of this hop.
                        needs: Needs {
                            version: spoken,
                            ..forward.needs
                        },
                    };
                    Ok(self.respond(way_back, arrived, metrics, answer, forward.upload))
                }
                Err(failed) => self.give_up(client, &arrived, &metrics, spoken, failed),
            }
        }
    }
}

impl Inbound {
    fn begin(&self, request: Request<Incoming>) -> Begun {
        let started = Instant::now();
        let (mut head, incoming) = request.into_parts();
        let body = !incoming.is_end_stream();
        let spoken = head.version;
        let metrics = self.counts_for(&head);
        let original = self.introduce(&mut head);
        let mut needs = headers::receive(&mut head, body);
        needs.version = original;
        let arrived = Arrived::new(
            &self.worker,
            &head,
            needs,
            Some(self.caller.address),
            started,
        );
        arrived.waits_for(&metrics, 0);
        Begun {
            arrived,
            forward: Forward::new(head, needs, incoming, body),
            metrics,
            spoken,
        }
    }

    /// Says who calls, and takes out what only proxies say to each other. Returns the version that the
    /// caller's app spoke.
    fn introduce(&self, head: &mut request::Parts) -> Version {
        let original = match self.client_id {
            Some(_) => headers::original_version(head),
            None => head.version,
        };
        headers::strip_mesh(&mut head.headers);
        if let Some(id) = &self.client_id {
            head.headers.insert(headers::CLIENT_ID, id.clone());
        }
        if head.version == Version::HTTP_2 && original != Version::HTTP_2 {
            to_origin_form(head);
        }
        original
    }

    /// For whom a request counts: a kubelet's gRPC probe is nobody's, as its HTTP probe is. As there, its own word decides
    /// that, and nothing else.
    fn counts_for(&self, head: &request::Parts) -> Rc<PeerMetrics> {
        let Some(undecided) = &self.undecided else {
            return self.caller.metrics.clone();
        };
        let metrics = match headers::is_probe(&head.headers) {
            true => self.worker.metrics.peer(PeerLabels {
                security: Security::Probe,
                ..self.caller.metrics.labels().clone()
            }),
            false => self.caller.metrics.clone(),
        };
        undecided.decide(&metrics);
        metrics
    }

    async fn attempt(&self, forward: &mut Forward) -> Result<Answer, Failed> {
        let began = Instant::now();
        let mut unsent = 0;
        loop {
            let dial = |_| connect::dial_app(&self.worker, self.app.address);
            let (wants, safe) = (forward.wants(false), forward.is_safe());
            let lease = self.app.pool.lease(wants, unsent > 0, safe, dial);
            let mut lease = lease.await.map_err(Failed::Dial)?;
            match forward.send(&mut lease, false, false).await {
                Ok((head, body)) => {
                    return Ok(Answer {
                        head,
                        body,
                        lease,
                        rtt: began.elapsed(),
                    });
                }
                Err(TryError::Unsent) if unsent < MAX_UNSENT => unsent += 1,
                Err(error) => return Err(Failed::Try(error)),
            }
        }
    }

    fn respond(
        &self,
        way_back: WayBack<'_>,
        arrived: Arrived,
        metrics: Rc<PeerMetrics>,
        mut answer: Answer,
        upload: Option<Rc<Upload>>,
    ) -> Response<ResponseBody> {
        if let Err(refusal) = respond::check(&mut answer.head, way_back.needs) {
            return self.refuse(&arrived, &metrics, &refusal);
        }
        let server = self.app.address;
        let exchange = Exchange {
            lease: Some(answer.lease),
            rtt: answer.rtt,
            upload,
            ..Exchange::new(arrived, metrics, server, &answer.head)
        };
        respond::pass_on(way_back, answer.head, answer.body, exchange)
    }

    fn give_up(
        &self,
        client: &Rc<Client>,
        arrived: &Arrived,
        metrics: &PeerMetrics,
        spoken: Version,
        failed: Failed,
    ) -> Result<Response<ResponseBody>, Reset> {
        let refusal = match failed {
            Failed::Dial(error) => Refusal::undelivered(status_of(&error), error.to_string()),
            Failed::Try(TryError::ClientLeft) => {
                return Ok(match client.refused() {
                    Some(rejection) => reject(rejection),
                    None => Refusal::new(StatusCode::BAD_REQUEST, "the request ended early")
                        .response(arrived.is_grpc()),
                });
            }
            Failed::Try(TryError::Reset(error)) if spoken == Version::HTTP_2 => {
                arrived.failed(metrics, None, 13, 0, "the app reset the stream");
                return Err(Reset(error));
            }
            Failed::Try(error) => Refusal {
                not_delivered: matches!(error, TryError::Unsent | TryError::Refused { .. }),
                ..explain(&error, self.app.address)
            },
        };
        Ok(self.refuse(arrived, metrics, &refusal))
    }

    fn refuse(
        &self,
        arrived: &Arrived,
        metrics: &PeerMetrics,
        refusal: &Refusal,
    ) -> Response<ResponseBody> {
        arrived.failed(
            metrics,
            Some(refusal.status),
            refusal.grpc_status(),
            0,
            &refusal.words,
        );
        let mut response = refusal.response(arrived.is_grpc());
        if refusal.not_delivered && self.client_id.is_some() {
            response
                .headers_mut()
                .insert(headers::NOT_DELIVERED, HeaderValue::from_static("true"));
        }
        response
    }
}

/// A request of HTTP/1.x that came over HTTP/2 has its authority in Host.
fn to_origin_form(head: &mut request::Parts) {
    let Some(authority) = head.uri.authority() else {
        return;
    };
    if !head.headers.contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        head.headers.insert(HOST, host);
    }
    if let Some(path) = head.uri.path_and_query().cloned() {
        head.uri = Uri::from(path);
    }
}
