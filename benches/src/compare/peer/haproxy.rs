//! HAProxy in HTTP mode with mutual TLS between the two.

use super::{APP_PORT, Pair, Peer, ProxyProcess, certificates};

/// Both sides: one thread, keep-alive pools, retries on, as the mesh has them.
pub(super) fn peer() -> anyhow::Result<Peer> {
    let [ca, chain, key] = certificates()?;
    let common = "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode http\n  timeout connect 1s\n  \
                  timeout client 60s\n  timeout server 60s\n  http-reuse always\n  retries 1\n";
    let client = format!(
        "{common}frontend outbound\n  bind :4140 proto h1\n  default_backend peer\nfrontend outbound_h2\n  \
         bind :4141 proto h2\n  default_backend peer\nbackend peer\n  balance leastconn\n  server peer \
         {{server}}:{APP_PORT} ssl verify required ca-file {{dir}}/ca.pem crt {{dir}}/both.pem \
         sni str(peer.bench) verifyhost peer.bench\n"
    );
    let server = format!(
        "{common}frontend inbound\n  bind :4143 ssl crt {{dir}}/both.pem ca-file {{dir}}/ca.pem verify \
         required alpn h2,http/1.1\n  default_backend app\nbackend app\n  server app 127.0.0.1:{APP_PORT}\n"
    );
    let process = |file: &str| ProxyProcess {
        command: ["haproxy", "-db", "-f", file].map(str::to_owned).to_vec(),
        env: Default::default(),
    };
    Ok(Peer {
        name: "haproxy".into(),
        proxies: Some(Pair {
            client: process("{dir}/client.cfg"),
            server: process("{dir}/server.cfg"),
            outbound_port: 4140,
            inbound_port: 4143,
        }),
        files: [
            ("ca.pem".to_owned(), ca),
            ("both.pem".to_owned(), format!("{chain}{key}")),
            ("client.cfg".to_owned(), client),
            ("server.cfg".to_owned(), server),
        ]
        .into(),
        node: Vec::new(),
        target: None,
    })
}
