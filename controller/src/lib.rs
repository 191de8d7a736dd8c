//! The control plane of mesh: identity, discovery, and live statistics.
//!
//! Objects flow from the [`source`] into the [`index`]; proxies hear of them through `discovery`, get their
//! certificates from `identity` (signed by the [`ca`]) and send `telemetry`, from which [`observe`] answers the
//! CLI.

#![forbid(unsafe_code)]

// In the order in which an object reaches a proxy. Objects and tokens come in:
pub mod source;

// what they mean for proxies:
pub mod index;

// who is told:
pub mod discovery;

// The certificate authority, and certificates for proxies:
pub mod ca;
mod identity;

// On Kubernetes: proxies get beside pods, and one replica does what is to be done once.
mod duties;
mod webhook;

// What proxies measured comes in, and goes out to the CLI:
pub mod observe;
mod telemetry;

// Proxies beside pods:
pub mod inject;

// The ports for proxies, for the CLI, and for probes:
mod admin;
mod credentials;
mod listen;
mod server;

// The command line, and the process:
mod config;
mod run;

pub use config::{Command, LogFormat, RunArgs, SourceKind};
pub use listen::Listen;
pub use run::main;
