//! The command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

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

    /// Folder in which the certificate authority is kept; it has to survive restarts
    #[arg(long, env = "MESH_STATE_DIR")]
    pub state_dir: PathBuf,

    /// Address for proxies (TLS)
    #[arg(long, env = "MESH_LISTEN", default_value_t = SocketAddr::from(([0, 0, 0, 0], names::CONTROLLER_PORT)))]
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

/// A life of at least 5 s: in less, a certificate can't be renewed in time.
fn lifetime(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[number.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err("expected a number and one of s, m, h, d".into()),
    };
    let seconds = number.parse::<u64>().map_err(|error| error.to_string())?;
    let seconds = seconds
        .checked_mul(factor)
        .filter(|seconds| (5..=90 * 24 * 3600).contains(seconds));
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "expected 5s to 90d".into())
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
    }
}
