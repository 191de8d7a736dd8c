//! The traffic source: visitors who look around more than they buy.

use std::time::Duration;

use anyhow::Result;
use http::Method;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::MissedTickBehavior,
};

use super::{http::Client, services::PRODUCTS};

/// Visitors at the same time; beyond that the shop is too slow, and they stay away.
const MAX_VISITORS: usize = 200;

/// Visits the shop `rps` times a second until SIGTERM, however fast it answers.
///
/// # Errors
/// Signals can't be handled.
pub(super) async fn run(rps: f64) -> Result<()> {
    let mut sigterm = signal(SignalKind::terminate())?;
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / rps.clamp(0.1, 10_000.0)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let client = Client::new();
    let mut visits = JoinSet::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => if visits.len() < MAX_VISITORS {
                visits.spawn(visit(client.clone()));
            },
            // How a visit went is for the mesh to say.
            Some(_) = visits.join_next() => {}
            _ = sigterm.recv() => break,
        }
    }
    while visits.join_next().await.is_some() {}
    Ok(())
}

async fn visit(client: Client) -> Result<String> {
    let user = fastrand::u32(1..=20);
    let product = fastrand::u32(1..=PRODUCTS);
    match fastrand::u32(0..100) {
        0..30 => client.read("http://web/").await,
        30..75 => client.read(&format!("http://web/products/{product}")).await,
        75..90 => {
            let url = format!("http://web/carts/{user}/items");
            client.call(Method::POST, &url, product.to_string()).await
        }
        _ => {
            let url = format!("http://web/orders/{user}");
            client.call(Method::POST, &url, String::new()).await
        }
    }
}
