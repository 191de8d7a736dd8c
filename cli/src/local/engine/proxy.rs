//! A pod's proxy, as a container like others.

use std::{collections::BTreeMap, path::Path, time::Duration};

use mesh_api::names;
use tokio::time::sleep;

use super::{bundle_file, vars::Identity};
use crate::local::{
    config::Config,
    manifest::{Check, Container, Probe},
    network::NODE,
    sandbox::PROGRAM,
};

/// The container's name.
pub(super) const NAME: &str = "mesh-proxy";
/// The token's file in the pod's folder.
pub(super) const TOKEN: &str = "token";

/// The command that writes the redirection. The proxy is known by its mark: all share one user id.
pub(super) fn init(annotations: &BTreeMap<String, String>) -> Vec<String> {
    let skip = |annotation: &str| {
        let defaults = names::DEFAULT_SKIP_PORTS
            .map(|port| port.to_string())
            .join(",");
        annotations.get(annotation).cloned().unwrap_or(defaults)
    };
    strings([
        PROGRAM,
        "proxy",
        "init",
        "--exclude-mark",
        &format!("{:#x}", names::PROXY_MARK),
        "--skip-inbound-ports",
        &skip(names::ANNOTATION_SKIP_INBOUND_PORTS),
        "--skip-outbound-ports",
        &skip(names::ANNOTATION_SKIP_OUTBOUND_PORTS),
    ])
}

/// The command that runs it.
pub(super) fn run(
    config: &Config,
    pod: &Identity,
    dir: &Path,
    annotations: &BTreeMap<String, String>,
) -> Vec<String> {
    let level = annotations.get(names::ANNOTATION_LOG_LEVEL);
    let mut command = strings([
        PROGRAM,
        "proxy",
        "run",
        "--controller-address",
        &format!("{NODE}:{}", names::CONTROLLER_PORT),
        "--token-file",
        &dir.join(TOKEN).to_string_lossy(),
        "--trust-bundle-file",
        &bundle_file().to_string_lossy(),
        "--namespace",
        &pod.namespace,
        "--pod",
        &pod.name,
        "--state-dir",
        &dir.join("proxy").to_string_lossy(),
        "--mark",
        &format!("{:#x}", names::PROXY_MARK),
        "--log-level",
        level.unwrap_or(&config.log_level),
    ]);
    command.extend(config.proxy_args.clone());
    command
}

/// What the engine watches of it.
pub(super) fn container() -> Container {
    Container {
        name: NAME.into(),
        command: Vec::new(),
        env: Vec::new(),
        env_from: Vec::new(),
        dir: None,
        ports: Vec::new(),
        readiness: Some(Probe {
            check: Check::Http {
                port: names::ADMIN_PORT,
                tls: false,
                host: None,
                path: "/ready".into(),
                headers: Vec::new(),
            },
            initial_delay: Duration::ZERO,
            period: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            success_threshold: 1,
            failure_threshold: 3,
        }),
        liveness: None,
        startup: None,
        uid: None,
        gid: None,
        pre_stop: None,
        mounts: Vec::new(),
    }
}

/// The controller writes the trust bundle soon after its start; a proxy can't know the controller without it.
pub(super) async fn wait_for_bundle() {
    while !bundle_file().exists() {
        sleep(Duration::from_millis(20)).await;
    }
}

fn strings<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}
