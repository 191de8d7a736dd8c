//! The control plane of mesh: identity, discovery, and live statistics.
//!
//! Objects flow from the [`source`] into the [`index`]; proxies hear of them through `discovery`, get their
//! certificates from `identity` (signed by the [`ca`]) and send `telemetry`, from which [`observe`] answers the
//! CLI.

#![forbid(unsafe_code)]

// Probes and metrics.
mod admin;
// The certificate authority.
pub mod ca;
// The command line.
mod config;
// The controller's own certificate.
mod credentials;
// Pushes it to them.
pub mod discovery;
// Certificates for proxies.
mod identity;
// What they mean for proxies.
pub mod index;
// The port for the CLI.
mod listen;
// What the CLI asks.
pub mod observe;
// Puts it all together.
mod run;
// The port for proxies.
mod server;
// Objects and tokens come in.
pub mod source;
// What proxies measured comes in.
mod telemetry;

pub use config::{Command, LogFormat, RunArgs, SourceKind};
pub use listen::Listen;
pub use run::main;
