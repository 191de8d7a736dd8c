//! The containers and volumes that an injected pod has more.
//!
//! Only `mesh-init` runs as root and has a capability: NET_ADMIN, for nftables over netlink. The proxy runs as a
//! user of its own, by which the redirection knows its connections, and needs nothing at all.

use mesh_api::names;
use serde_json::{Map, Value, json};

use super::{
    overrides::Overrides,
    settings::{Resources, Settings},
};

pub(super) const VOLUMES: [&str; 3] = [TOKEN, TRUST, STATE];
const TOKEN: &str = "mesh-token";
const TRUST: &str = "mesh-trust";
const STATE: &str = "mesh-state";
const TOKEN_DIR: &str = "/var/run/mesh/token";
const TRUST_DIR: &str = "/var/run/mesh/trust";
const STATE_DIR: &str = "/var/run/mesh/state";
/// In the volume and in the proxy's `--token-file`.
const TOKEN_FILE: &str = "token";
/// The kubelet renews the token when 80 % of this are over; the API server allows no less than 10 minutes.
const TOKEN_SECONDS: u32 = 3600;
/// The largest that a cache of what the controller told can be, and its next version beside it.
const STATE_SIZE: &str = "32Mi";
/// Of the admin port, for Prometheus' `PodMonitor`s.
const ADMIN_PORT: &str = "mesh-admin";
/// How long a proxy may wait for its first certificate before the kubelet starts it anew. The controller may be
/// starting as well.
const STARTUP_SECONDS: u32 = 120;

/// Writes the redirection, and ends.
pub(super) fn init(overrides: &Overrides, settings: &Settings) -> Value {
    json!({
        "name": names::INIT_CONTAINER,
        "image": settings.proxy_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": [names::PROXY_PROGRAM, "init"],
        "env": ports().into_iter().chain([
            variable("MESH_EXCLUDE_UID", &names::PROXY_UID.to_string()),
            variable("MESH_SKIP_INBOUND_PORTS", &overrides.skip_inbound_ports),
            variable("MESH_SKIP_OUTBOUND_PORTS", &overrides.skip_outbound_ports),
        ]).collect::<Vec<_>>(),
        // As the proxy's: a quota may ask for them, and the pod needs no more than for the proxy.
        "resources": resources(&overrides.resources),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

/// Carries the pod's traffic.
pub(super) fn proxy(overrides: &Overrides, settings: &Settings) -> Value {
    let mut container = json!({
        "name": names::PROXY_CONTAINER,
        "image": settings.proxy_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": [names::PROXY_PROGRAM, "run"],
        "env": environment(overrides, settings),
        "ports": [{"name": ADMIN_PORT, "containerPort": names::ADMIN_PORT, "protocol": "TCP"}],
        "startupProbe": probe("/ready", 1, STARTUP_SECONDS),
        "readinessProbe": probe("/ready", 2, 3),
        "livenessProbe": probe("/live", 10, 3),
        "resources": resources(&overrides.resources),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": names::PROXY_UID,
            "runAsNonRoot": true,
            "runAsUser": names::PROXY_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": TOKEN, "mountPath": TOKEN_DIR, "readOnly": true},
            {"name": TRUST, "mountPath": TRUST_DIR, "readOnly": true},
            {"name": STATE, "mountPath": STATE_DIR},
        ],
    });
    if overrides.native_sidecar {
        container["restartPolicy"] = "Always".into();
    } else {
        // What the kubelet does for a sidecar: started before the pod's own containers, stopped after them.
        let hook = |command: &str| json!({"exec": {"command": [names::PROXY_PROGRAM, command]}});
        container["lifecycle"] = json!({"postStart": hook("wait"), "preStop": hook("linger")});
    }
    container
}

/// What the proxy reads and keeps.
pub(super) fn volumes() -> Vec<Value> {
    let token = json!({
        "audience": names::TOKEN_AUDIENCE,
        "expirationSeconds": TOKEN_SECONDS,
        "path": TOKEN_FILE,
    });
    vec![
        json!({"name": TOKEN, "projected": {"sources": [{"serviceAccountToken": token}]}}),
        // Not optional: the kubelet tries again soon where it is not there yet, but fills in what was
        // optional only after a minute.
        json!({"name": TRUST, "configMap": {"name": names::TRUST_CONFIG_MAP}}),
        json!({"name": STATE, "emptyDir": {"medium": "Memory", "sizeLimit": STATE_SIZE}}),
    ]
}

fn environment(overrides: &Overrides, settings: &Settings) -> Vec<Value> {
    let of_pod = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut environment = ports().to_vec();
    environment.extend([
        variable("MESH_CONTROLLER_ADDRESS", &settings.controller()),
        variable("MESH_TOKEN_FILE", &format!("{TOKEN_DIR}/{TOKEN_FILE}")),
        variable(
            "MESH_TRUST_BUNDLE_FILE",
            &format!("{TRUST_DIR}/{}", names::TRUST_KEY),
        ),
        variable("MESH_TRUST_DOMAIN", &settings.trust_domain),
        of_pod("MESH_NAMESPACE", "metadata.namespace"),
        of_pod("MESH_POD", "metadata.name"),
        variable("MESH_STATE_DIR", &format!("{STATE_DIR}/proxy")),
        variable("MESH_LOG_LEVEL", &overrides.log_level),
        variable("MESH_LOG_FORMAT", &settings.log_format),
    ]);
    if overrides.access_log {
        environment.push(variable("MESH_ACCESS_LOG", "json"));
    }
    environment
}

/// Stated though they are the defaults: a Service named `mesh-admin` would have the kubelet set
/// `MESH_ADMIN_PORT=tcp://…` (enableServiceLinks).
fn ports() -> [Value; 3] {
    [
        ("MESH_OUTBOUND_PORT", names::OUTBOUND_PORT),
        ("MESH_INBOUND_PORT", names::INBOUND_PORT),
        ("MESH_ADMIN_PORT", names::ADMIN_PORT),
    ]
    .map(|(name, port)| variable(name, &port.to_string()))
}

fn variable(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value})
}

fn probe(path: &str, period: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": names::ADMIN_PORT},
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": 1,
    })
}

fn resources(resources: &Resources) -> Value {
    let map = |cpu: Option<&String>, memory: Option<&String>| {
        let both = [("cpu", cpu), ("memory", memory)];
        let set = both
            .into_iter()
            .filter_map(|(name, quantity)| Some((name, quantity?)));
        set.map(|(name, quantity)| (name.to_owned(), quantity.as_str().into()))
            .collect::<Map<_, Value>>()
    };
    let requests = map(
        Some(&resources.cpu_request),
        Some(&resources.memory_request),
    );
    let limits = map(
        resources.cpu_limit.as_ref(),
        resources.memory_limit.as_ref(),
    );
    if limits.is_empty() {
        json!({"requests": requests})
    } else {
        json!({"requests": requests, "limits": limits})
    }
}
