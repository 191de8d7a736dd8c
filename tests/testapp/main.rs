//! The servers and clients that the end-to-end tests run inside of the pods. Clients print one JSON document.

mod capture;
mod check;
mod foreign;
mod load;
mod malformed;
mod serve;
mod strain;

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
enum Command {
    /// Run servers until SIGTERM.
    Serve(serve::Args),
    /// Change the faults of the server in this pod.
    Faults(serve::faults::Args),
    /// Send requests at a fixed rate.
    Load(load::Args),
    /// Run a list of checks against a server.
    #[command(subcommand)]
    Check(check::Command),
    /// Send the table of malformed requests.
    Malformed(malformed::Args),
    /// Use up a proxy's memory.
    #[command(subcommand)]
    Strain(strain::Command),
    /// Count frames on all links that carry a marker in clear.
    Capture(capture::Args),
    /// Be a peer whose certificate is not to be trusted.
    #[command(subcommand)]
    Foreign(foreign::Command),
}

fn main() -> Result<()> {
    let command = Command::parse();
    // Best effort: the defaults of many systems are too low for ten thousand connections.
    strain::raise_open_files();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match command {
            Command::Serve(args) => serve::run(args).await,
            Command::Faults(args) => serve::faults::change(args).await,
            Command::Load(args) => print(&load::run(args).await?),
            Command::Check(command) => print(&check::run(command).await?),
            Command::Malformed(args) => print(&malformed::run(args).await?),
            Command::Strain(command) => print(&strain::run(command).await?),
            Command::Capture(args) => capture::run(args),
            Command::Foreign(command) => foreign::run(command).await,
        }
    })
}

fn print<T: serde::Serialize>(report: &T) -> Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}
