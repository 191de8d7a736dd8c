//! Calling HTTP/1.1 services by name, over kept-alive connections.

use std::time::Duration;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};

const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of the shop's services. Cheap to clone.
#[derive(Clone)]
pub(super) struct Client {
    inner: legacy::Client<HttpConnector, Full<Bytes>>,
}

impl Client {
    pub(super) fn new() -> Self {
        Self {
            inner: legacy::Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// One request; the body of its response as text.
    ///
    /// # Errors
    /// No response within five seconds, or one that says failure.
    pub(super) async fn call(&self, method: Method, url: &str, body: String) -> Result<String> {
        let request = Request::builder()
            .method(method)
            .uri(url)
            .body(Full::new(Bytes::from(body)))?;
        let exchange = async {
            let response = self.inner.request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            Ok::<_, anyhow::Error>((status, String::from_utf8_lossy(&body).into_owned()))
        };
        let (status, text) = tokio::time::timeout(CALL_TIMEOUT, exchange)
            .await
            .map_err(|_| anyhow!("{url}: no answer within 5 s"))??;
        if status >= StatusCode::BAD_REQUEST {
            return Err(anyhow!("{url}: {status}: {text}"));
        }
        Ok(text)
    }

    /// A GET.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub(super) async fn read(&self, url: &str) -> Result<String> {
        self.call(Method::GET, url, String::new()).await
    }
}
