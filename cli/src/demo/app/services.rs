//! The HTTP services behind the shop's pages: catalog, cart and payments.

use std::time::Duration;

use anyhow::Result;
use http::{Method, StatusCode};

use super::{
    HTTP_PORT, STORE_PORT,
    lines::StoreClient,
    serve::{self, Answer},
};

/// Number of products.
pub(super) const PRODUCTS: u32 = 12;

/// Lists products and tells about one.
///
/// # Errors
/// Its port is taken.
pub(super) async fn catalog(delay: Duration) -> Result<()> {
    serve::http(HTTP_PORT, move |method, path, _| async move {
        tokio::time::sleep(delay).await;
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        match (method, parts.as_slice()) {
            (Method::GET, ["products"]) => {
                let names: Vec<String> = (1..=PRODUCTS).map(|id| format!("product {id}")).collect();
                (StatusCode::OK, names.join("\n"))
            }
            (Method::GET, ["products", id]) => match id.parse::<u32>() {
                Ok(id) if (1..=PRODUCTS).contains(&id) => (StatusCode::OK, format!("product {id}")),
                _ => not_found(),
            },
            _ => not_found(),
        }
    })
    .await
}

/// Keeps carts in the store.
///
/// # Errors
/// Its port is taken.
pub(super) async fn cart() -> Result<()> {
    let store = StoreClient::new(format!("store:{STORE_PORT}"));
    serve::http(HTTP_PORT, move |method, path, body| {
        let store = store.clone();
        async move {
            let parts: Vec<&str> = path.split('/').skip(1).collect();
            let command = match (method, parts.as_slice()) {
                (Method::GET, ["carts", user]) => format!("LIST {user}"),
                (Method::POST, ["carts", user, "items"]) => {
                    format!("ADD {user} {}", String::from_utf8_lossy(&body))
                }
                (Method::DELETE, ["carts", user]) => format!("CLEAR {user}"),
                _ => return not_found(),
            };
            match store.ask(&command).await {
                Ok(answer) => (StatusCode::OK, answer),
                Err(error) => (StatusCode::BAD_GATEWAY, format!("store: {error:#}")),
            }
        }
    })
    .await
}

/// Charges cards; `fail` is the share of charges that fail.
///
/// # Errors
/// Its port is taken.
pub(super) async fn payments(fail: f64) -> Result<()> {
    serve::http(HTTP_PORT, move |method, path, _| async move {
        // A bank takes its time.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(5..20))).await;
        match (method, path.as_str()) {
            (Method::POST, "/charges") if fastrand::f64() < fail => {
                (StatusCode::SERVICE_UNAVAILABLE, "the bank is closed".into())
            }
            (Method::POST, "/charges") => (StatusCode::CREATED, "charged".into()),
            _ => not_found(),
        }
    })
    .await
}

fn not_found() -> Answer {
    (StatusCode::NOT_FOUND, "there is no such page".into())
}
