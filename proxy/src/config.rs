//! What a proxy is told at start: flags and environment in, types that cannot hold nonsense out.

use std::num::{NonZeroU16, NonZeroUsize, ParseIntError};
use std::path::PathBuf;
use std::time::Duration;

use mesh_api::{SpiffeId, SpiffeIdError, names};

/// Flags of `mesh proxy run`; each has an environment variable `MESH_…` too.
#[derive(clap::Args, Clone, Debug)]
pub struct RunArgs {
    /// Where the controller serves identity, discovery and telemetry; a name is resolved anew for each
    /// connection. Without it the proxy discovers nothing and passes everything through.
    #[arg(long, env = "MESH_CONTROLLER_ADDRESS", value_name = "HOST:PORT")]
    pub controller_address: Option<String>,
    /// File with the service-account token to show to the controller.
    #[arg(long, env = "MESH_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// PEM file with the roots by which the controller is known at the first contact.
    #[arg(long, env = "MESH_TRUST_BUNDLE_FILE", value_name = "FILE")]
    pub trust_bundle_file: Option<PathBuf>,
    /// The mesh's SPIFFE trust domain.
    #[arg(long, env = "MESH_TRUST_DOMAIN", default_value = names::TRUST_DOMAIN)]
    pub trust_domain: String,
    /// Namespace of this pod.
    #[arg(long, env = "MESH_NAMESPACE")]
    pub namespace: String,
    /// Name of this pod.
    #[arg(long, env = "MESH_POD")]
    pub pod: String,
    /// Port where redirected connections from the pod's own apps arrive.
    #[arg(long, env = "MESH_OUTBOUND_PORT", default_value_t = port(names::OUTBOUND_PORT))]
    pub outbound_port: NonZeroU16,
    /// Port where redirected connections to the pod arrive.
    #[arg(long, env = "MESH_INBOUND_PORT", default_value_t = port(names::INBOUND_PORT))]
    pub inbound_port: NonZeroU16,
    /// Port of /live, /ready, /metrics and /config.
    #[arg(long, env = "MESH_ADMIN_PORT", default_value_t = port(names::ADMIN_PORT))]
    pub admin_port: NonZeroU16,
    /// Folder (on a tmpfs) for what a restarted proxy starts from: key, certificate, last known state.
    #[arg(long, env = "MESH_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Threads that carry traffic.
    #[arg(long, env = "MESH_WORKERS", default_value = "1")]
    pub workers: NonZeroUsize,
    /// Socket mark of the proxy's own connections, by which the redirection knows them.
    #[arg(long, env = "MESH_MARK", value_name = "MARK", value_parser = parse_mark)]
    pub mark: Option<u32>,
    /// Log level of the proxy's own code, or a filter such as "warn,mesh_proxy::tls=debug,h2=info".
    #[arg(
        long,
        env = "MESH_LOG_LEVEL",
        default_value = "info",
        value_name = "LEVEL"
    )]
    pub log_level: String,
    /// Format of the log.
    #[arg(long, env = "MESH_LOG_FORMAT", default_value = "plain")]
    pub log_format: LogFormat,
    /// One line per request on standard output.
    #[arg(long, env = "MESH_ACCESS_LOG", default_value = "off")]
    pub access_log: AccessLog,
    /// How long requests in flight may take after SIGTERM, for example "120s".
    #[arg(long, env = "MESH_DRAIN_TIMEOUT", default_value = "120s", value_parser = parse_duration)]
    pub drain_timeout: Duration,
}

/// Format of the log.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Plain,
    /// One JSON object per line.
    Json,
}

/// Whether requests are logged.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// No.
    Off,
    /// One JSON object per request.
    Json,
}

/// The configuration of a running proxy.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where outbound connections arrive.
    pub outbound_port: u16,
    /// Where inbound connections arrive.
    pub inbound_port: u16,
    /// Where the admin server listens.
    pub admin_port: u16,
    /// Data threads.
    pub workers: NonZeroUsize,
    /// SO_MARK of the proxy's own connections.
    pub mark: Option<u32>,
    /// This pod's namespace.
    pub namespace: String,
    /// This pod's name.
    pub pod: String,
    /// For example "cluster.local".
    pub trust_domain: String,
    /// None: nothing is discovered, everything passes through.
    pub controller: Option<Controller>,
    /// Where credentials and the last known state are kept.
    pub state_dir: Option<PathBuf>,
    /// How long a drain may take.
    pub drain_timeout: Duration,
    /// Whether requests are logged.
    pub access_log: AccessLog,
    /// Initial log filter.
    pub log_level: String,
    /// Format of the log.
    pub log_format: LogFormat,
}

/// How the controller is reached and known.
#[derive(Clone, Debug)]
pub struct Controller {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Who it must be.
    pub identity: SpiffeId,
    /// Holds the service-account token.
    pub token_file: PathBuf,
    /// PEM roots for the first contact.
    pub trust_bundle_file: PathBuf,
}

/// The flags don't make a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not "host:port".
    #[error("--controller-address {0:?} is not HOST:PORT, for example 10.244.0.1:8443")]
    ControllerAddress(String),
    /// A flag that a controller needs.
    #[error("--controller-address needs --{0} too")]
    Missing(&'static str),
    /// A flag that only a controller needs: nothing would be encrypted, though somebody meant it to be.
    #[error(
        "--{0} needs --controller-address too: without a controller there are no certificates, and all passes in clear"
    )]
    WithoutController(&'static str),
    /// Not a trust domain.
    #[error("--trust-domain {domain:?} can't be part of an identity")]
    TrustDomain {
        /// As given.
        domain: String,
        /// Why.
        source: SpiffeIdError,
    },
    /// Two listeners on one port.
    #[error("--outbound-port, --inbound-port and --admin-port must differ (got {0}, {1} and {2})")]
    SamePort(u16, u16, u16),
}

impl TryFrom<RunArgs> for Config {
    type Error = ConfigError;

    fn try_from(args: RunArgs) -> Result<Self, ConfigError> {
        let (outbound, inbound, admin) = (
            args.outbound_port.get(),
            args.inbound_port.get(),
            args.admin_port.get(),
        );
        if outbound == inbound || outbound == admin || inbound == admin {
            return Err(ConfigError::SamePort(outbound, inbound, admin));
        }
        let identity = SpiffeId::new(
            &args.trust_domain,
            names::SYSTEM_NAMESPACE,
            names::CONTROLLER_SERVICE_ACCOUNT,
        )
        .map_err(|source| ConfigError::TrustDomain {
            domain: args.trust_domain.clone(),
            source,
        })?;
        let controller = match args.controller_address {
            None if args.token_file.is_some() => {
                return Err(ConfigError::WithoutController("token-file"));
            }
            None if args.trust_bundle_file.is_some() => {
                return Err(ConfigError::WithoutController("trust-bundle-file"));
            }
            None => None,
            Some(address) => {
                let (host, port) = split_host_port(&address)
                    .ok_or_else(|| ConfigError::ControllerAddress(address.clone()))?;
                Some(Controller {
                    host,
                    port,
                    identity,
                    token_file: args.token_file.ok_or(ConfigError::Missing("token-file"))?,
                    trust_bundle_file: args
                        .trust_bundle_file
                        .ok_or(ConfigError::Missing("trust-bundle-file"))?,
                })
            }
        };
        Ok(Self {
            outbound_port: outbound,
            inbound_port: inbound,
            admin_port: admin,
            workers: args.workers,
            mark: args.mark,
            namespace: args.namespace,
            pod: args.pod,
            trust_domain: args.trust_domain,
            controller,
            state_dir: args.state_dir,
            drain_timeout: args.drain_timeout,
            access_log: args.access_log,
            log_level: args.log_level,
            log_format: args.log_format,
        })
    }
}

/// "10.0.0.1:8443", "[::1]:8443" or "controller.mesh-system.svc:8443".
fn split_host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

pub(crate) fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap_or(NonZeroU16::MIN)
}

/// Decimal or 0x…
pub(crate) fn parse_mark(text: &str) -> Result<u32, ParseIntError> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    }
}

/// "120s", "500ms", "2m" or "1h".
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("expected a number and ms, s, m or h, for example 120s".to_owned()),
    };
    let number: u64 = number
        .parse()
        .map_err(|error: ParseIntError| error.to_string())?;
    number
        .checked_mul(factor_ms)
        .map(Duration::from_millis)
        .ok_or_else(|| "too long".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        run: RunArgs,
    }

    fn parse(args: &[&str]) -> Result<Config, ConfigError> {
        let mut all = vec!["run", "--namespace", "shop", "--pod", "web-1"];
        all.extend(args);
        Cli::parse_from(all).run.try_into()
    }

    #[test]
    fn defaults() {
        let config = parse(&[]).unwrap();
        assert_eq!(
            (config.outbound_port, config.inbound_port, config.admin_port),
            (4140, 4143, 4191)
        );
        assert!(config.controller.is_none());
        assert_eq!(config.drain_timeout, Duration::from_secs(120));
    }

    #[test]
    fn controller_needs_its_files() {
        let missing = parse(&["--controller-address", "10.244.0.1:8443"]);
        assert!(
            matches!(missing, Err(ConfigError::Missing("token-file"))),
            "{missing:?}"
        );
        let config = parse(&[
            "--controller-address",
            "[fd00::1]:8443",
            "--token-file=t",
            "--trust-bundle-file=b",
            "--mark=0x10",
        ])
        .unwrap();
        let controller = config.controller.unwrap();
        assert_eq!(
            (controller.host.as_str(), controller.port),
            ("fd00::1", 8443)
        );
        assert_eq!(
            controller.identity.as_str(),
            "spiffe://cluster.local/ns/mesh-system/sa/mesh-controller"
        );
        assert_eq!(config.mark, Some(16));
    }

    #[test]
    fn files_for_a_controller_need_one() {
        for flag in ["token-file", "trust-bundle-file"] {
            let alone = parse(&[&format!("--{flag}=f")]);
            assert!(
                matches!(alone, Err(ConfigError::WithoutController(named)) if named == flag),
                "{alone:?}"
            );
        }
    }

    #[test]
    fn rejects_nonsense() {
        for address in [
            "10.0.0.1",
            ":8443",
            "::1:8443",
            "host:0",
            "host:99999",
            "[::1:8443",
        ] {
            assert!(split_host_port(address).is_none(), "{address}");
        }
        for duration in ["", "10", "s", "1d", "99999999999999999999s"] {
            assert!(parse_duration(duration).is_err(), "{duration}");
        }
        assert!(matches!(
            parse(&["--admin-port", "4140"]),
            Err(ConfigError::SamePort(..))
        ));
    }
}
