//! The processes of a mesh on one machine: each is this program, started again as one of these steps.

use std::process::ExitCode;

/// One process.
#[derive(Debug, clap::Subcommand)]
pub enum Step {
    /// The first process of the sandbox.
    Enter,
}

/// Becomes the process.
///
/// # Errors
/// What can't be set up.
pub fn run(step: Step) -> anyhow::Result<ExitCode> {
    anyhow::bail!("{step:?} can't be run yet")
}
