//! `mesh up`: runs manifests as a mesh on this machine.

use std::{path::PathBuf, process::ExitCode};

/// What to run, and how.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A file or folder with manifests; "-" is the standard input. May be given more than once.
    #[arg(short, long = "file", value_name = "FILE|DIR", required = true)]
    files: Vec<PathBuf>,
    /// The name of this mesh, if several run on one machine.
    #[arg(long, default_value = "default", env = "MESH_NAME")]
    name: String,
}

/// Starts the mesh, and ends it with Ctrl-C.
///
/// # Errors
/// The manifests can't be read, or the mesh does not start.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("{} can't run {:?} yet", args.name, args.files)
}
