//! `mesh down`: ends a mesh that runs on this machine.

use std::process::ExitCode;

use crate::{
    client::{LocalMesh, MeshArgs, block_on},
    local,
};

/// Which mesh to end.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    mesh: MeshArgs,
}

/// Ends the mesh and waits until it is gone.
///
/// # Errors
/// No such mesh runs, or it does not end.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mesh = LocalMesh::find(&args.mesh)?;
    block_on(local::stop(&mesh))?;
    println!("The mesh {} is gone.", mesh.name);
    Ok(ExitCode::SUCCESS)
}
