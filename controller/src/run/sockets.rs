//! The ports that the controller listens on.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

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

/// `[::]` takes clients of both families. Where the kernel has no IPv6, it means the addresses that there are.
async fn bind(address: SocketAddr, clients: &str) -> anyhow::Result<TcpListener> {
    let listener = match TcpListener::bind(address).await {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED => {
            let without_ipv6 = (Ipv4Addr::UNSPECIFIED, address.port());
            TcpListener::bind(without_ipv6).await.map_err(|_| error)
        }
        bound => bound,
    };
    listener.with_context(|| format!("listening on {address} for {clients}"))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn clients_of_both_families_are_served() {
        let listener = bind("[::]:0".parse().unwrap(), "a test").await.unwrap();
        let at = listener.local_addr().unwrap();
        for client in ["127.0.0.1", "::1"] {
            if client == "::1" && at.is_ipv4() {
                continue;
            }
            let client: std::net::IpAddr = client.parse().unwrap();
            TcpStream::connect((client, at.port())).await.unwrap();
            listener.accept().await.unwrap();
        }
        assert!(bind(at, "a second one").await.is_err(), "the port is taken");
    }
}
