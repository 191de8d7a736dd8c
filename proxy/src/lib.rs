//! The data-plane proxy: one beside every pod.
//!
//! The modules stand in the order of the data path; what serves it (identity, discovery, metrics, admin)
//! comes after.

#![forbid(unsafe_code)]

pub mod config;
mod run;

pub mod worker;

pub mod init;

pub mod listen;

pub mod detect;
pub mod quiet;

pub mod outbound;

pub mod inbound;

pub mod tls;

pub mod http;
mod route;

pub mod target;

pub mod connect;
pub mod io;

pub mod tcp;

pub mod drain;

pub mod balance;
pub mod discovery;
pub mod metrics;

pub mod control;
pub mod identity;
pub mod state_dir;

pub mod access_log;
mod admin;
mod linger;
mod logging;
pub mod memory;
pub mod repeats;
mod wait;

use config::RunArgs;
use init::InitArgs;
use linger::LingerArgs;
use wait::WaitArgs;

/// What the proxy's binary can do.
#[derive(clap::Subcommand, Clone, Debug)]
pub enum Command {
    /// Carries the traffic of one pod until SIGTERM.
    Run(RunArgs),
    /// Writes the redirection of one pod's network namespace, or removes it.
    Init(InitArgs),
    /// Waits until the proxy of this pod is ready.
    Wait(WaitArgs),
    /// Waits until the app of this pod has ended.
    Linger(LingerArgs),
}

/// Runs one command to its end. Call it before any async runtime exists.
///
/// # Errors
/// The configuration is wrong, or the kernel refused something that the proxy can't do without.
pub fn main(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Init(args) => Ok(init::run(&args)?),
        Command::Wait(args) => Ok(wait::run(&args)?),
        Command::Linger(args) => Ok(linger::run(&args)?),
    }
}
