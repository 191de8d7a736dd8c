//! Calling a webhook: HTTPS, verified by the configuration's `caBundle`.

use std::{net::SocketAddr, sync::Arc, sync::PoisonError, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::apiserver::state::Api;

/// Where a webhook is and what it is called there.
struct Place {
    /// As errors write it.
    url: String,
    host: String,
    port: u16,
    path: String,
    /// Where the Service is served on this machine.
    address: Option<SocketAddr>,
}

/// Sends a review and gives the answer.
///
/// # Errors
/// A sentence about what went wrong on the way.
pub(super) async fn send(api: &Arc<Api>, hook: &Value, review: &Value) -> Result<Value, String> {
    let seconds = hook["timeoutSeconds"].as_u64().unwrap_or(10);
    let place = place(api, &hook["clientConfig"], seconds)?;
    let bundle = hook["clientConfig"]["caBundle"]
        .as_str()
        .unwrap_or_default();
    let exchange = exchange(&place, bundle, review.to_string());
    let outcome = tokio::time::timeout(Duration::from_secs(seconds), exchange).await;
    let outcome = outcome.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()));
    outcome.map_err(|why| format!("Post \"{}\": {why}", place.url))
}

fn place(api: &Api, config: &Value, seconds: u64) -> Result<Place, String> {
    let timeout = format!("timeout={seconds}s");
    if let Some(url) = config["url"].as_str() {
        let uri: Uri = url
            .parse()
            .map_err(|why| format!("{url:?} is no URL: {why}"))?;
        let host = uri.host().unwrap_or_default();
        let path = format!("{}?{timeout}", uri.path());
        return Ok(Place {
            url: format!("{url}?{timeout}"),
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(443),
            path,
            address: None,
        });
    }
    let service = &config["service"];
    let text = |field: &str| service[field].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text("namespace"), text("name"));
    let port = service["port"]
        .as_u64()
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or(443);
    let path = match text("path").as_str() {
        "" => format!("/?{timeout}"),
        path => format!("{path}?{timeout}"),
    };
    let host = format!("{name}.{namespace}.svc");
    let served = api
        .service_addresses
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let address = served.get(&(namespace, name.clone())).copied();
    if address.is_none() {
        return Err(format!("service \"{name}\" not found"));
    }
    Ok(Place {
        url: format!("https://{host}:{port}{path}"),
        host,
        port,
        path,
        address,
    })
}

async fn exchange(place: &Place, bundle: &str, body: String) -> Result<Value, String> {
    let text = |why: &dyn std::error::Error| why.to_string();
    let connected = match place.address {
        Some(address) => TcpStream::connect(address).await,
        None => TcpStream::connect((place.host.as_str(), place.port)).await,
    };
    let stream = connected.map_err(|why| format!("dial tcp: connect: {why}"))?;
    let name = ServerName::try_from(place.host.clone()).map_err(|why| text(&why))?;
    let stream = TlsConnector::from(Arc::new(tls(bundle)?))
        .connect(name, stream)
        .await;
    let stream = stream.map_err(|why| format!("tls: failed to verify certificate: x509: {why}"))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|why| text(&why))?;
    // It ends with the sender; what goes wrong shows in the answer.
    tokio::spawn(connection);
    let request = Request::post(&place.path)
        .header(header::HOST, format!("{}:{}", place.host, place.port))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json, */*")
        .header(header::USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(Bytes::from(body)))
        .map_err(|why| text(&why))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|why| text(&why))?;
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|why| text(&why))?
        .to_bytes();
    if !status.is_success() {
        return Err(format!("the server answered {status}"));
    }
    serde_json::from_slice(&body).map_err(|why| format!("can't read the answer: {why}"))
}

/// Trusts what `caBundle` holds and nothing else.
fn tls(bundle: &str) -> Result<ClientConfig, String> {
    let pem = STANDARD
        .decode(bundle)
        .map_err(|why| format!("caBundle is no base64: {why}"))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|why| format!("caBundle is no PEM: {why}"))?;
        roots
            .add(certificate)
            .map_err(|why| format!("caBundle: {why}"))?;
    }
    Ok(ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth())
}
