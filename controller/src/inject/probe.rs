//! Probes that would always succeed with a proxy in front.
//!
//! HTTP, HTTPS and gRPC probes pass through the proxy, which answers with an error where the app does not. A TCP
//! probe only connects, and it is the proxy that accepts. So the proxy is asked to try the port:
//!
//! ```text
//! tcpSocket: {port: db}  ◄─►  httpGet: {path: /probe/tcp/5432?name=db, port: 4191}
//! ```

use mesh_api::names;
use serde_json::{Value, json};

const PROBES: [&str; 3] = ["startupProbe", "readinessProbe", "livenessProbe"];

/// Has the proxy try the ports of a container's TCP probes.
pub(super) fn to_admin_port(container: &mut Value) {
    for probe in PROBES {
        let Some(path) = path_of(container, &container[probe]["tcpSocket"]) else {
            continue;
        };
        if let Some(probe) = container[probe].as_object_mut() {
            probe.remove("tcpSocket");
            let get = json!({"path": path, "port": names::ADMIN_PORT});
            probe.insert("httpGet".into(), get);
        }
    }
}

/// Makes them TCP probes again.
pub(super) fn from_admin_port(container: &mut Value) {
    for probe in PROBES {
        let Some(port) = port_of(&container[probe]["httpGet"]) else {
            continue;
        };
        if let Some(probe) = container[probe].as_object_mut() {
            probe.remove("httpGet");
            probe.insert("tcpSocket".into(), json!({"port": port}));
        }
    }
}

/// `None` for what is not understood, and for a probe of another host, which the proxy is not in front of.
fn path_of(container: &Value, socket: &Value) -> Option<String> {
    if !socket["host"].is_null() {
        return None;
    }
    let prefix = names::TCP_PROBE_PATH;
    match &socket["port"] {
        Value::Number(port) => Some(format!("{prefix}{port}")),
        Value::String(name) => {
            let mut ports = container["ports"].as_array()?.iter();
            let port = ports.find(|port| port["name"] == **name)?;
            Some(format!(
                "{prefix}{}?name={name}",
                port["containerPort"].as_u64()?
            ))
        }
        _ => None,
    }
}

fn port_of(get: &Value) -> Option<Value> {
    if get["port"] != names::ADMIN_PORT {
        return None;
    }
    let rest = get["path"].as_str()?.strip_prefix(names::TCP_PROBE_PATH)?;
    match rest.split_once("?name=") {
        Some((_, name)) => Some(name.into()),
        None => Some(rest.parse::<u64>().ok()?.into()),
    }
}
