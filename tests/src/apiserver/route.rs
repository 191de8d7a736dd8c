//! From a request to the function that answers it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use super::{
    delete, discovery, portforward, read,
    request::{Path, Query, parse_path},
    respond::{self, Body, Form},
    review,
    state::{Api, Call, User},
    status::Status,
    subresource, token, watch,
    write::{self, Patch},
};

/// `--max-request-bytes` of etcd, doubled as the API server does.
const LARGEST_BODY: usize = 3 * 1024 * 1024;

/// Answers a request; all refusals are answers too.
pub(super) async fn answer(
    api: Arc<Api>,
    certified: Option<User>,
    request: Request<Incoming>,
) -> Response<Body> {
    match handle(api, certified, request).await {
        Ok(response) => response,
        Err(status) => respond::refuse(&status),
    }
}

async fn handle(
    api: Arc<Api>,
    certified: Option<User>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let path = request.uri().path().to_owned();
    let query = Query::parse(request.uri().query());
    if let Some(response) = discovery::public(&path) {
        return Ok(response);
    }
    let user = authenticate(&api, certified, request.headers())?;
    let found = parse_path(&path, &api.lock().table)?;
    let Path::Resource(target) = found else {
        return discovery::answer(&api, &path, request.headers());
    };
    let manager = manager(&query, request.headers());
    let call = Call {
        target,
        query,
        user,
        manager,
    };
    if call.target.subresource == "portforward" {
        return portforward::answer(&api, &call, request);
    }
    resource(&api, call, request).await
}

async fn resource(
    api: &Arc<Api>,
    call: Call,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let (head, body) = request.into_parts();
    let form = Form::accepted(&head.headers)?;
    let target = &call.target;
    let main = target.subresource.is_empty();
    let named = target.name.is_some();
    if review::is_review(&target.resource) {
        if head.method != Method::POST || named {
            return Err(Status::method_not_allowed());
        }
        let body = object(&head.headers, body).await?;
        return Ok(respond::json(
            StatusCode::CREATED,
            &review::answer(api, &call, body)?,
        ));
    }
    match (head.method, named) {
        (Method::GET, _) if main && (!named || call.query.flag("watch")) => {
            if call.query.flag("watch") {
                Ok(respond::lines(watch::watch(api.clone(), call, form)?))
            } else {
                Ok(respond::json(
                    StatusCode::OK,
                    &read::list(api, &call, form)?,
                ))
            }
        }
        (Method::GET, true) if target.subresource == "log" => Err(portforward::no_log(api, &call)),
        (Method::GET, true) if matches!(target.subresource.as_str(), "" | "status" | "scale") => {
            let object = read::get(api, &call, form)?;
            Ok(respond::json(
                StatusCode::OK,
                &subresource::shown(&call, &object),
            ))
        }
        (Method::POST, false) => {
            let body = object(&head.headers, body).await?;
            let object = write::create(api, &call, body).await?;
            Ok(respond::json(StatusCode::CREATED, &form.of(&object)))
        }
        (Method::POST, true) => {
            let body = object(&head.headers, body).await?;
            let done = match target.subresource.as_str() {
                "token" => token::request(api, &call, &body)?,
                "binding" => subresource::bind(api, &call, &body)?,
                "eviction" => {
                    let options = delete::Options::read(&call, &body["deleteOptions"])?;
                    delete::delete(api, &call, &options).await?;
                    subresource::success(StatusCode::CREATED)
                }
                _ => return Err(Status::method_not_allowed()),
            };
            Ok(respond::json(StatusCode::CREATED, &done))
        }
        (Method::PUT, true) => {
            let body = object(&head.headers, body).await?;
            let (code, object) = write::replace(api, &call, body).await?;
            Ok(respond::json(code, &form.of(&object)))
        }
        (Method::PATCH, true) => {
            let media = head.headers.get(header::CONTENT_TYPE);
            let media = media
                .and_then(|media| media.to_str().ok())
                .unwrap_or_default();
            let kind = Patch::of(media, &target.resource)?;
            let body = parse(&whole(body).await?)?;
            let (code, object) = write::patch(api, &call, kind, body).await?;
            Ok(respond::json(code, &form.of(&object)))
        }
        (Method::DELETE, true) if main => {
            let body = options(&whole(body).await?)?;
            let options = delete::Options::read(&call, &body)?;
            let object = delete::delete(api, &call, &options).await?;
            Ok(respond::json(StatusCode::OK, &object))
        }
        (Method::DELETE, false) => {
            let body = options(&whole(body).await?)?;
            let options = delete::Options::read(&call, &body)?;
            let list = delete::delete_collection(api, &call, &options).await?;
            Ok(respond::json(StatusCode::OK, &list))
        }
        _ => Err(Status::method_not_allowed()),
    }
}

/// Who asks: by bearer token, or by client certificate.
fn authenticate(api: &Api, certified: Option<User>, headers: &HeaderMap) -> Result<User, Status> {
    if let Some(user) = certified {
        return Ok(user);
    }
    let authorization = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
    match token {
        Some(token) => {
            let audiences = [token::ISSUER.to_owned()];
            let found = token::authenticate(api, token.trim(), &audiences);
            found
                .map(|(user, _)| user)
                .map_err(|_| Status::unauthorized())
        }
        None => Err(Status::unauthorized()),
    }
}

/// Who owns the fields that a request sets.
fn manager(query: &Query, headers: &HeaderMap) -> String {
    if let Some(manager) = query.find("fieldManager") {
        return manager.to_owned();
    }
    let agent = headers
        .get(header::USER_AGENT)
        .and_then(|agent| agent.to_str().ok());
    let name = agent
        .unwrap_or("unknown")
        .split('/')
        .next()
        .unwrap_or_default();
    name.chars()
        .filter(|char| !char.is_control())
        .take(128)
        .collect()
}

/// A body that must be an object.
async fn object(headers: &HeaderMap, body: Incoming) -> Result<Value, Status> {
    let media = headers
        .get(header::CONTENT_TYPE)
        .and_then(|media| media.to_str().ok());
    let media = media
        .and_then(|media| media.split(';').next())
        .unwrap_or_default()
        .trim();
    if !matches!(media, "" | "application/json" | "application/yaml") {
        return Err(Status::unsupported_media_type(
            "application/json, application/yaml",
        ));
    }
    parse(&whole(body).await?)
}

/// `DeleteOptions`, or null for an empty body.
fn options(body: &Bytes) -> Result<Value, Status> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    parse(body)
}

async fn whole(body: Incoming) -> Result<Bytes, Status> {
    let whole = Limited::new(body, LARGEST_BODY).collect().await;
    let whole = whole.map_err(|why| Status::bad_request(format!("can't read the body: {why}")))?;
    Ok(whole.to_bytes())
}

/// JSON, or YAML where it is none.
fn parse(body: &Bytes) -> Result<Value, Status> {
    let why = match serde_json::from_slice::<Value>(body) {
        Ok(value) => return Ok(value),
        Err(why) => why,
    };
    let text = std::str::from_utf8(body).ok();
    let yaml = text.and_then(|text| serde_saphyr::from_str::<Value>(text).ok());
    let refused = || Status::bad_request(format!("error decoding the body: {why}"));
    yaml.filter(Value::is_object).ok_or_else(refused)
}
