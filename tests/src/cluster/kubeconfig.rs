//! Kubeconfig files, as JSON, which is YAML too.

use std::net::SocketAddr;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::pki::Leaf;

/// A kubeconfig for a server on loopback and the holder of a client certificate.
pub(super) fn render(address: SocketAddr, authority: &str, user: &Leaf) -> String {
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{
            "name": "test",
            "cluster": {
                "server": format!("https://{address}"),
                "certificate-authority-data": STANDARD.encode(authority),
            },
        }],
        "users": [{
            "name": "test",
            "user": {
                "client-certificate-data": STANDARD.encode(&user.certificate),
                "client-key-data": STANDARD.encode(&user.key),
            },
        }],
        "contexts": [{
            "name": "test",
            "context": { "cluster": "test", "user": "test", "namespace": "default" },
        }],
    });
    format!("{kubeconfig:#}\n")
}

/// The same for the holder of a token.
pub(super) fn with_token(kubeconfig: &str, token: &str) -> String {
    let mut kubeconfig: Value = serde_json::from_str(kubeconfig).expect("a kubeconfig of ours");
    kubeconfig["users"][0]["user"] = json!({ "token": token });
    format!("{kubeconfig:#}\n")
}
