//! The kubelet's TCP probes of the app, asked of the proxy: a connection to the app's port would be accepted by
//! the proxy, whether the app is there or not.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use mesh_api::names;

use super::text;
use crate::control::dial_address;

/// The kubelet itself gives up before (`timeoutSeconds`).
const TIMEOUT: Duration = Duration::from_secs(10);

/// Tries the port that `path` names at `pod`, the address that was asked: what listens on the loopback interface
/// only is no more there for the kubelet than without a proxy.
pub(super) async fn tcp(path: &str, pod: IpAddr, mark: Option<u32>) -> Response<Full<Bytes>> {
    let port = path.strip_prefix(names::TCP_PROBE_PATH).unwrap_or_default();
    let Ok(port) = port.parse::<NonZeroU16>() else {
        let why = format!(
            "{port:?} is not a port; expected {}8080\n",
            names::TCP_PROBE_PATH
        );
        return text(StatusCode::BAD_REQUEST, why);
    };
    let address = SocketAddr::from((pod.to_canonical(), port.get()));
    let dialled = tokio::time::timeout(TIMEOUT, dial_address(address, mark)).await;
    match dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(_) => text(StatusCode::OK, format!("{address} accepts connections\n")),
        Err(error) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{address} does not accept connections: {error}\n"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[tokio::test]
    async fn tells_whether_the_app_listens() {
        let localhost = IpAddr::from(Ipv4Addr::LOCALHOST);
        let app = TcpListener::bind((localhost, 0)).unwrap();
        let path = format!("/probe/tcp/{}", app.local_addr().unwrap().port());
        let mapped = IpAddr::from(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
        assert_eq!(tcp(&path, mapped, None).await.status(), StatusCode::OK);
        drop(app);
        let gone = tcp(&path, localhost, None).await;
        assert_eq!(gone.status(), StatusCode::SERVICE_UNAVAILABLE);
        for path in [
            "/probe/tcp/",
            "/probe/tcp/0",
            "/probe/tcp/http",
            "/probe/tcp/1/2",
        ] {
            let answer = tcp(path, localhost, None).await;
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{path}");
        }
    }
}
