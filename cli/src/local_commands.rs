//! `mesh local …`: looks into a mesh that runs on this machine, and disturbs it.

use std::process::ExitCode;

/// Which mesh, and what to do with it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The name that was given to `mesh up`.
    #[arg(long, default_value = "default", env = "MESH_NAME", global = true)]
    name: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the pods.
    Ps,
}

/// Does it.
///
/// # Errors
/// No such mesh runs, or it refuses.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("no mesh named {} runs ({:?})", args.name, args.command)
}
