//! Envoy with HTTP/2 and mutual TLS between the two, as Istio's sidecars are configured.

use super::{APP_PORT, Pair, Peer, ProxyProcess, certificates};

/// Both sides: one worker thread, codec detection, least-request balancing, retries on, no access log.
pub(super) fn peer() -> anyhow::Result<Peer> {
    let [ca, chain, key] = certificates()?;
    let tls = "common_tls_context:\n            tls_params: {tls_minimum_protocol_version: TLSv1_3}\n            \
               alpn_protocols: [h2]\n            tls_certificates:\n            - certificate_chain: \
               {filename: \"{dir}/chain.pem\"}\n              private_key: {filename: \"{dir}/key.pem\"}\n            \
               validation_context:\n              trusted_ca: {filename: \"{dir}/ca.pem\"}\n";
    let client = document(
        4140,
        "",
        "least_request_lb",
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
        "round_robin",
        "127.0.0.1",
        "",
    );
    let process = |file: &str| ProxyProcess {
        command: [
            "envoy",
            "-c",
            file,
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "-l",
            "warn",
        ]
        .map(str::to_owned)
        .to_vec(),
        env: Default::default(),
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
            ("ca.pem".to_owned(), ca),
            ("chain.pem".to_owned(), chain),
            ("key.pem".to_owned(), key),
            ("client.yaml".to_owned(), client),
            ("server.yaml".to_owned(), server),
        ]
        .into(),
        node: Vec::new(),
        target: None,
    })
}

fn document(
    port: u16,
    listener_tls: &str,
    balancing: &str,
    address: &str,
    cluster: &str,
) -> String {
    let balancing = match balancing {
        "least_request_lb" => "LEAST_REQUEST",
        _ => "ROUND_ROBIN",
    };
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
    load_assignment:
      cluster_name: next
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {address}, port_value: {APP_PORT}}}}}}}
{cluster}"
    )
}
