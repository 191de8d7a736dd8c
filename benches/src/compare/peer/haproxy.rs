//! HAProxy in HTTP mode with mutual TLS between the two.

use super::{APP_PORT, Pair, Peer, ProxyProcess, certificates::Certificates};

/// Both sides: one thread, keep-alive pools, retries on, as the mesh has them; HTTP/2 of a client is recognised by its
/// preface.
pub(super) fn peer() -> anyhow::Result<Peer> {
    let Certificates { root, chain, key } = Certificates::new()?;
    let common = "global\n  nbthread 1\n  maxconn 15000\n  no strict-limits\ndefaults\n  mode http\n  timeout connect 1s\n  \
                  timeout client 1h\n  timeout server 60s\n  http-reuse always\n  retries 1\n";
    let client = format!(
        "{common}frontend outbound\n  bind :4140\n  default_backend peer\nbackend peer\n  balance leastconn\n  \
         server peer {{server}}:{APP_PORT} ssl verify required ca-file {{dir}}/ca.pem crt {{dir}}/both.pem \
         sni str(peer.bench) verifyhost peer.bench\n"
    );
    let server = format!(
        "{common}frontend inbound\n  bind :4143 ssl crt {{dir}}/both.pem ca-file {{dir}}/ca.pem verify \
         required alpn h2,http/1.1\n  default_backend app\nbackend app\n  server app 127.0.0.1:{APP_PORT}\n"
    );
    Ok(Peer {
        name: "haproxy".into(),
        proxies: Some(Pair {
            client: ProxyProcess::new(["haproxy", "-db", "-f", "{dir}/client.cfg"]),
            server: ProxyProcess::new(["haproxy", "-db", "-f", "{dir}/server.cfg"]),
            outbound_port: 4140,
            inbound_port: 4143,
        }),
        files: [
            ("ca.pem".to_owned(), root),
            ("both.pem".to_owned(), format!("{chain}{key}")),
            ("client.cfg".to_owned(), client),
            ("server.cfg".to_owned(), server),
        ]
        .into(),
        node: Vec::new(),
        target: None,
        without: Vec::new(),
    })
}
