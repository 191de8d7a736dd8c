//! From `--context`, `--kubeconfig` and the environment to a configuration.

use std::{env, path::PathBuf};

use anyhow::{Result, anyhow, bail};
use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use super::ClusterArgs;

/// Whether the user has a kubeconfig, or this is a pod of a cluster.
pub fn is_configured() -> bool {
    files().iter().any(|file| file.exists()) || is_in_cluster()
}

/// The configuration, and the name of its context.
pub(super) async fn load(args: &ClusterArgs) -> Result<(Config, String)> {
    if !args.is_named() && !files().iter().any(|file| file.exists()) {
        if is_in_cluster() {
            let config = Config::incluster()
                .map_err(|error| anyhow!("This pod's service account can't be used: {error}"))?;
            return Ok((config, "in-cluster".into()));
        }
        bail!(
            "There is no kubeconfig: set KUBECONFIG, or say --kubeconfig FILE. For a mesh on this machine: mesh demo."
        );
    }
    let kubeconfig = match &args.kubeconfig {
        Some(file) => Kubeconfig::read_from(file),
        None => Kubeconfig::read(),
    };
    let kubeconfig = kubeconfig.map_err(|error| match error {
        KubeconfigError::ReadConfig(error, file) => {
            anyhow!("Can't read the kubeconfig {}: {error}", file.display())
        }
        error => anyhow!("The kubeconfig can't be used: {error}"),
    })?;
    let context = context(&kubeconfig, args.context.as_deref())?;
    let options = KubeConfigOptions {
        context: Some(context.clone()),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|error| {
            anyhow!("The context {context:?} of the kubeconfig can't be used: {error}")
        })?;
    Ok((config, context))
}

/// The context that is meant.
///
/// # Errors
/// None is, or there is no such context; the message names those that there are.
pub(super) fn context(kubeconfig: &Kubeconfig, wanted: Option<&str>) -> Result<String> {
    let names: Vec<&str> = kubeconfig
        .contexts
        .iter()
        .map(|context| context.name.as_str())
        .collect();
    let known = || match names.as_slice() {
        [] => "It has none.".to_owned(),
        names => format!("It has: {}.", names.join(", ")),
    };
    let current = kubeconfig
        .current_context
        .as_deref()
        .filter(|name| !name.is_empty());
    match wanted.or(current) {
        None => bail!(
            "The kubeconfig names no current context: say --context NAME, or kubectl config use-context NAME. {}",
            known()
        ),
        Some(name) if !names.contains(&name) => {
            bail!(
                "The kubeconfig has no context {name:?}: say another --context. {}",
                known()
            )
        }
        Some(name) => Ok(name.to_owned()),
    }
}

/// Where kubectl looks.
fn files() -> Vec<PathBuf> {
    match env::var_os("KUBECONFIG") {
        Some(list) if !list.is_empty() => env::split_paths(&list)
            .filter(|path| !path.as_os_str().is_empty())
            .collect(),
        _ => env::home_dir()
            .map(|home| home.join(".kube/config"))
            .into_iter()
            .collect(),
    }
}

/// The kubelet sets this in every pod.
fn is_in_cluster() -> bool {
    env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}
