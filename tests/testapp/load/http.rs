//! HTTP/1.1 on one keep-alive connection.

use std::{error::Error, rc::Rc, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::{Outcome, Plan};

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn worker(plan: Rc<Plan>, url: Uri, post: bool) {
    let mut connection = None;
    while let Some(due) = plan.next().await {
        let id = format!("{}-{}", std::process::id(), due.number);
        let sent = send(&mut connection, &url, post.then_some(id.as_str()));
        let outcome = match timeout(PATIENCE, sent).await {
            Ok(Ok((status, headers))) => judge(status, &headers),
            Ok(Err(error)) => Outcome::Failed {
                replica: None,
                cause: format!("{error:#}"),
            },
            Err(_) => Outcome::Failed {
                replica: None,
                cause: "no answer in 10 s".to_owned(),
            },
        };
        if matches!(&outcome, Outcome::Failed { replica: None, .. }) {
            connection = None;
        }
        plan.done(&due, outcome);
    }
}

fn judge(status: StatusCode, headers: &HeaderMap) -> Outcome {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let replica = text("x-replica");
    match (status.is_success(), replica) {
        (true, Some(replica)) => Outcome::Ok { replica },
        (_, replica) => Outcome::Failed {
            replica,
            cause: format!(
                "{} {}",
                status.as_u16(),
                text("mesh-error").unwrap_or_default()
            ),
        },
    }
}

/// One request; like every client, it opens a new connection where the old one was closed in between.
async fn send(
    connection: &mut Option<SendRequest<Full<Bytes>>>,
    url: &Uri,
    id: Option<&str>,
) -> Result<(StatusCode, HeaderMap)> {
    loop {
        let reused = connection.is_some();
        let mut sender = match connection.take() {
            Some(sender) => sender,
            None => connect(url).await?,
        };
        if let Err(error) = sender.ready().await {
            if reused {
                continue;
            }
            return Err(error).context("the new connection closed");
        }
        let response = match sender.try_send_request(request(url, id)?).await {
            Ok(response) => response,
            // It never left this process: the connection was closed while it was idle.
            Err(unsent) if reused && unsent.message().is_some() => continue,
            Err(unsent) => return Err(anyhow::anyhow!("{}", chain(unsent.error()))),
        };
        let (head, body) = response.into_parts();
        body.collect()
            .await
            .map_err(|error| anyhow::anyhow!("body: {}", chain(&error)))?;
        let closes = head
            .headers
            .get(header::CONNECTION)
            .is_some_and(|value| value == "close");
        if !closes {
            *connection = Some(sender);
        }
        return Ok((head.status, head.headers));
    }
}

async fn connect(url: &Uri) -> Result<SendRequest<Full<Bytes>>> {
    let (host, port) = (url.host().unwrap_or_default(), url.port_u16().unwrap_or(80));
    let stream = TcpStream::connect((host, port)).await.context("connect")?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}

fn request(url: &Uri, id: Option<&str>) -> Result<Request<Full<Bytes>>> {
    let authority = url.authority().context("a URL without a host")?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder()
        .uri(path)
        .header(header::HOST, authority.as_str());
    if let Some(id) = id {
        request = request.method(Method::POST).header("x-request-id", id);
    }
    let body = Bytes::copy_from_slice(id.unwrap_or_default().as_bytes());
    Ok(request.body(Full::new(body))?)
}

/// hyper's errors name their cause only as their source.
fn chain(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
