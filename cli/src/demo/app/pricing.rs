//! The gRPC service of the shop, and its client.

use std::{pin::Pin, time::Duration};

use anyhow::{Context, Result};
use futures_util::{Stream, StreamExt};
use hyper_util::service::TowerToHyperService;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint},
};

use super::{PRICING_PORT, serve};

#[allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications)]
mod v1 {
    tonic::include_proto!("shop.v1");
}

use v1::{
    Offer, Price, Product,
    pricing_client::PricingClient,
    pricing_server::{Pricing, PricingServer},
};

/// Prices that a watch tells before it ends.
const TICKS: usize = 16;
const TICK: Duration = Duration::from_millis(250);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves; `fail` is the share of quotes that fail with INTERNAL.
///
/// # Errors
/// Its port is taken.
pub(super) async fn run(fail: f64) -> Result<()> {
    let service = PricingServer::new(Prices { fail });
    serve::http_service(PRICING_PORT, TowerToHyperService::new(service)).await
}

struct Prices {
    fail: f64,
}

type PriceStream = Pin<Box<dyn Stream<Item = Result<Price, Status>> + Send>>;

#[tonic::async_trait]
impl Pricing for Prices {
    type WatchStream = PriceStream;
    type BargainStream = PriceStream;

    async fn quote(&self, request: Request<Product>) -> Result<Response<Price>, Status> {
        if fastrand::f64() < self.fail {
            return Err(Status::internal("the price list is torn"));
        }
        Ok(Response::new(price(request.into_inner().id)))
    }

    async fn watch(&self, request: Request<Product>) -> Result<Response<PriceStream>, Status> {
        let id = request.into_inner().id;
        let ticks = futures_util::stream::iter(0..TICKS).then(move |_| async move {
            tokio::time::sleep(TICK).await;
            Ok(price(id))
        });
        Ok(Response::new(Box::pin(ticks)))
    }

    async fn bargain(
        &self,
        request: Request<Streaming<Offer>>,
    ) -> Result<Response<PriceStream>, Status> {
        let answers = request.into_inner().map(|offer| {
            let offer = offer?;
            let asked = price(offer.id).cents;
            let cents = asked.midpoint(offer.cents.min(asked));
            Ok(Price {
                id: offer.id,
                cents,
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

fn price(id: u32) -> Price {
    let cents = 500 + id.saturating_mul(100).saturating_add(fastrand::u32(0..50));
    Price { id, cents }
}

/// A client of the prices. Cheap to clone.
#[derive(Clone)]
pub(super) struct Client {
    inner: PricingClient<Channel>,
}

impl Client {
    /// Connects at the first call.
    ///
    /// # Errors
    /// The server is not a URL.
    pub(super) fn new(server: String) -> Result<Self> {
        let endpoint = Endpoint::from_shared(server)?.timeout(CALL_TIMEOUT);
        Ok(Self {
            inner: PricingClient::new(endpoint.connect_lazy()),
        })
    }

    /// Unary: what a product costs, in cents.
    ///
    /// # Errors
    /// The status that the service answered, or that it did not.
    pub(super) async fn quote(&self, id: u32) -> Result<u32> {
        let response = self.inner.clone().quote(Product { id }).await?;
        Ok(response.into_inner().cents)
    }

    /// Server streaming: reads prices until the stream ends; the last one, in cents.
    ///
    /// # Errors
    /// The stream broke, or had no price.
    pub(super) async fn watch(&self, id: u32) -> Result<u32> {
        let mut prices = self.inner.clone().watch(Product { id }).await?.into_inner();
        let mut last = None;
        while let Some(price) = prices.message().await? {
            last = Some(price.cents);
        }
        last.context("no price before the end of the stream")
    }

    /// Bidirectional: three offers, each better than the price before; the last price, in cents.
    ///
    /// # Errors
    /// The stream broke, or had no price.
    pub(super) async fn bargain(&self, id: u32) -> Result<u32> {
        let (offers, receiver) = tokio::sync::mpsc::channel(1);
        let offered = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut cents = 100;
        offers.send(Offer { id, cents }).await?;
        let mut prices = self.inner.clone().bargain(offered).await?.into_inner();
        for _ in 0..2 {
            cents = next(&mut prices).await?;
            offers.send(Offer { id, cents }).await?;
        }
        let last = next(&mut prices).await?;
        drop(offers);
        while prices.message().await?.is_some() {}
        Ok(last)
    }
}

async fn next(prices: &mut Streaming<Price>) -> Result<u32> {
    let price = prices.message().await?.context("the stream ended early")?;
    Ok(price.cents)
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, sync::watch};

    use super::*;

    #[tokio::test]
    async fn every_kind_of_call_has_its_price() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let (_stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(PricingServer::new(Prices { fail: 0.0 }));
                tokio::spawn(serve::http_connection(stream, stopped.clone(), service));
            }
        });
        let client = Client::new(server).unwrap();
        assert!((700..750).contains(&client.quote(2).await.unwrap()));
        let bargain = client.bargain(2).await.unwrap();
        assert!((100..750).contains(&bargain), "{bargain} is no bargain");
    }
}
