//! The command line.

use std::{
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum};
use mesh_api::names;

use crate::listen::Listen;

/// What the controller's binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the controller until it is told to stop.
    Run(RunArgs),
}

/// How the controller runs.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Where pods and services are read from
    #[arg(long, env = "MESH_SOURCE", value_enum, default_value_t = SourceKind::Directory)]
    pub source: SourceKind,

    /// Folder of objects and tokens (source `directory`)
    #[arg(long, env = "MESH_DIRECTORY", required_if_eq("source", "directory"))]
    pub directory: Option<PathBuf>,

    /// Folder in which the certificate authority is kept; it has to survive restarts (source `directory`)
    #[arg(long, env = "MESH_STATE_DIR", required_if_eq("source", "directory"))]
    pub state_dir: Option<PathBuf>,

    /// Namespace of the controller (source `kubernetes`)
    #[arg(long, env = "MESH_NAMESPACE", default_value = names::SYSTEM_NAMESPACE)]
    pub namespace: String,

    /// Name of the controller's own pod, by which one of several replicas is elected (source `kubernetes`)
    #[arg(long, env = "MESH_POD", required_if_eq("source", "kubernetes"))]
    pub pod: Option<String>,

    /// Address for the API server, which asks the injector (TLS; source `kubernetes`)
    #[arg(long, env = "MESH_WEBHOOK_LISTEN", default_value_t = SocketAddr::from((Ipv6Addr::UNSPECIFIED, names::WEBHOOK_PORT)))]
    pub webhook_listen: SocketAddr,

    /// File with the injector's settings, read again when it changes (source `kubernetes`)
    #[arg(long, env = "MESH_INJECT_SETTINGS")]
    pub inject_settings: Option<PathBuf>,

    /// Secret of type kubernetes.io/tls in the controller's namespace that holds a certificate authority of your
    /// own; it is not rotated by the controller, and picked up when it changes (source `kubernetes`)
    #[arg(long, env = "MESH_CA_SECRET", value_parser = ca_secret)]
    pub ca_secret: Option<String>,

    /// Address for proxies (TLS)
    #[arg(long, env = "MESH_LISTEN", default_value_t = SocketAddr::from((Ipv6Addr::UNSPECIFIED, names::CONTROLLER_PORT)))]
    pub listen: SocketAddr,

    /// Address for probes and metrics
    #[arg(long, env = "MESH_ADMIN_LISTEN", default_value_t = SocketAddr::from(([127, 0, 0, 1], names::CONTROLLER_ADMIN_PORT)))]
    pub admin_listen: SocketAddr,

    /// For the CLI: `fd:0` (a Unix socket as standard input), a loopback address, or the path of a Unix socket
    #[arg(long, env = "MESH_OBSERVE_LISTEN")]
    pub observe_listen: Option<Listen>,

    /// Trust domain of all identities
    #[arg(long, env = "MESH_TRUST_DOMAIN", default_value = names::TRUST_DOMAIN)]
    pub trust_domain: String,

    /// Life of proxies' certificates, such as 24h, 90m or 10s
    #[arg(long, env = "MESH_LEAF_LIFETIME", default_value = "24h", value_parser = lifetime)]
    pub leaf_lifetime: Duration,

    /// Life of the mesh's own root certificates: at least ten times that of proxies' certificates
    #[arg(long, env = "MESH_ROOT_LIFETIME", default_value = "365d", value_parser = root_lifetime)]
    pub root_lifetime: Duration,

    /// File in which the current trust bundle (PEM) is kept for proxies that start
    #[arg(long, env = "MESH_BUNDLE_FILE")]
    pub bundle_file: Option<PathBuf>,

    /// What is logged, such as `info` or `mesh_controller=debug`
    #[arg(long, env = "MESH_LOG_LEVEL", default_value = "info")]
    pub log_level: String,

    /// How it is logged
    #[arg(long, env = "MESH_LOG_FORMAT", value_enum, default_value_t = LogFormat::Plain)]
    pub log_format: LogFormat,
}

/// Where objects come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SourceKind {
    /// JSON files in a folder.
    Directory,
    /// The cluster that this process is in, or that KUBECONFIG names.
    Kubernetes,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Plain,
    /// One JSON object a line.
    Json,
}

impl RunArgs {
    /// What only all arguments together can show.
    ///
    /// # Errors
    /// In words, with the names of the arguments.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        // Overlap takes 30 % of a root's life, and more than two lives of a leaf: see `ca::rotation`.
        anyhow::ensure!(
            self.root_lifetime >= self.leaf_lifetime * 10,
            "--root-lifetime has to be at least ten times --leaf-lifetime: roots could not overlap"
        );
        Ok(())
    }
}

/// A life of at least 5 s: in less, a certificate can't be renewed in time.
fn lifetime(text: &str) -> Result<Duration, String> {
    const DAYS: u64 = 90;
    span(text, DAYS)
        .ok_or_else(|| format!("expected 5s to {DAYS}d: a number and one of s, m, h, d"))
}

fn root_lifetime(text: &str) -> Result<Duration, String> {
    const DAYS: u64 = 3650;
    span(text, DAYS)
        .ok_or_else(|| format!("expected 5s to {DAYS}d: a number and one of s, m, h, d"))
}

fn span(text: &str, most_days: u64) -> Option<Duration> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[number.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return None,
    };
    let seconds = number.parse::<u64>().ok()?.checked_mul(factor)?;
    (5..=most_days * 24 * 3600)
        .contains(&seconds)
        .then(|| Duration::from_secs(seconds))
}

fn ca_secret(name: &str) -> Result<String, String> {
    match name {
        "" => Err("expected the name of a Secret".into()),
        names::CA_SECRET => Err(format!(
            "{name} is where the controller keeps its state: give your Secret another name"
        )),
        _ => Ok(name.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes() {
        assert_eq!(lifetime("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(lifetime("24h"), Ok(Duration::from_secs(86_400)));
        for bad in [
            "",
            "s",
            "10",
            "1s",
            "91d",
            "10 s",
            "-10s",
            "99999999999999999999h",
            "10ü",
        ] {
            assert!(lifetime(bad).is_err(), "{bad}");
        }
        assert!(root_lifetime("3650d").is_ok());
        assert!(root_lifetime("3651d").is_err());
    }

    #[test]
    fn the_secret_of_the_controller_is_not_the_users() {
        assert!(ca_secret(names::CA_SECRET).is_err());
        assert_eq!(ca_secret("mine"), Ok("mine".into()));
    }
}
