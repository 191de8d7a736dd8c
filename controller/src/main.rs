//! The controller of mesh, as a program of its own.

use clap::Parser;

/// Identity, discovery, telemetry and live statistics of mesh
#[derive(Parser)]
#[command(name = "mesh-controller", version)]
struct Cli {
    #[command(subcommand)]
    command: mesh_controller::Command,
}

fn main() -> anyhow::Result<()> {
    mesh_controller::main(Cli::parse().command)
}
