//! The shop's pages: each is put together from what the other services say.

use std::time::Duration;

use anyhow::{Context, Result};
use http::{Method, StatusCode};

use super::{
    HTTP_PORT, MAILER_PORT, PRICING_PORT,
    http::Client,
    lines, pricing,
    serve::{self, Answer},
    services::PRODUCTS,
};

/// Serves the pages.
///
/// # Errors
/// Its port is taken.
pub(super) async fn run() -> Result<()> {
    let shop = Shop {
        http: Client::new(),
        pricing: pricing::Client::new(format!("http://pricing:{PRICING_PORT}"))?,
    };
    let ticker = tokio::spawn(shop.clone().follow_prices());
    let served = serve::http(HTTP_PORT, move |method, path, body| {
        let shop = shop.clone();
        let body = String::from_utf8_lossy(&body).into_owned();
        async move { shop.page(method, &path, body).await }
    })
    .await;
    ticker.abort();
    served
}

#[derive(Clone)]
struct Shop {
    http: Client,
    pricing: pricing::Client,
}

impl Shop {
    async fn page(&self, method: Method, path: &str, body: String) -> Answer {
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let page = match (method, parts.as_slice()) {
            (Method::GET, [""]) => self.http.read("http://catalog/products").await,
            (Method::GET, ["products", id]) => self.product(id).await,
            (Method::POST, ["carts", user, "items"]) => {
                let url = format!("http://cart/carts/{user}/items");
                self.http.call(Method::POST, &url, body).await
            }
            (Method::POST, ["orders", user]) => self.order(user).await,
            _ => return (StatusCode::NOT_FOUND, "there is no such page".into()),
        };
        match page {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}")),
        }
    }

    async fn product(&self, id: &str) -> Result<String> {
        let number = id.parse().context("a product has a number")?;
        let url = format!("http://catalog/products/{id}");
        let (product, price) = tokio::join!(self.http.read(&url), self.pricing.quote(number));
        // A page without a price is better than no page.
        let price = price.map_or_else(|_| "on request".into(), |cents| format!("{cents} cents"));
        Ok(format!("{}: {price}", product?))
    }

    async fn order(&self, user: &str) -> Result<String> {
        let cart = format!("http://cart/carts/{user}");
        let items = self.http.read(&cart).await?;
        let cents = self.pricing.bargain(1).await?;
        let charge = format!("{user} {cents}");
        let charges = "http://payments/charges";
        self.http.call(Method::POST, charges, charge).await?;
        self.http.call(Method::DELETE, &cart, String::new()).await?;
        lines::send_mail(&format!("mailer:{MAILER_PORT}"), user).await?;
        Ok(format!("{user} ordered {items}"))
    }

    /// Reads a long gRPC stream now and then, as a page with moving prices would. Rarely, so that the
    /// seconds that it takes don't become the 99th percentile.
    async fn follow_prices(self) {
        loop {
            tokio::time::sleep(Duration::from_secs(fastrand::u64(5..35))).await;
            if let Err(error) = self.pricing.watch(fastrand::u32(1..=PRODUCTS)).await {
                eprintln!("web: watching prices: {error:#}");
            }
        }
    }
}
