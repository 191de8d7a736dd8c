//! The ports that the controller listens on.

use anyhow::Context;
use tokio::net::TcpListener;

use crate::{config::RunArgs, listen::Listener};

/// Sockets that listen; nothing is accepted yet.
pub(super) struct Sockets {
    pub(super) proxies: TcpListener,
    pub(super) probes: TcpListener,
    pub(super) observers: Option<Listener>,
    /// Only on a cluster.
    pub(super) webhook: Option<TcpListener>,
}

impl Sockets {
    pub(super) async fn bind(args: &RunArgs, webhook: bool) -> anyhow::Result<Self> {
        let observers = match &args.observe_listen {
            None => None,
            Some(place) => Some(
                Listener::bind(place)
                    .await
                    .with_context(|| format!("listening on {place} for the CLI"))?,
            ),
        };
        let webhook = match webhook {
            false => None,
            true => Some(bind(args.webhook_listen, "the API server").await?),
        };
        Ok(Self {
            proxies: bind(args.listen, "proxies").await?,
            probes: bind(args.admin_listen, "probes").await?,
            observers,
            webhook,
        })
    }
}

async fn bind(address: std::net::SocketAddr, clients: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("listening on {address} for {clients}"))
}
