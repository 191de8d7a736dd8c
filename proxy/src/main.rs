//! `mesh-proxy run` and `mesh-proxy init`.

use clap::Parser;

/// The data-plane proxy of mesh.
#[derive(Parser)]
#[command(name = "mesh-proxy", version)]
struct Cli {
    #[command(subcommand)]
    command: mesh_proxy::Command,
}

fn main() -> anyhow::Result<()> {
    mesh_proxy::main(Cli::parse().command)
}
