//! The mesh command.

use std::{io::Write, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};

/// A service mesh: mutual TLS, load balancing, retries and golden metrics with no configuration.
#[derive(Debug, Parser)]
#[command(name = "mesh", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run manifests as a mesh on this machine.
    Up(mesh::up::Args),
    /// End a mesh that runs on this machine.
    Down(mesh::down::Args),
    /// Look into a mesh that runs on this machine, and disturb it.
    Local(mesh::local_commands::Args),
    /// Run a built-in application as a mesh on this machine, and watch it live.
    Demo(mesh::demo::Args),
    /// Show success rate, requests per second and latency of workloads and services.
    Stat(mesh::stat::Args),
    /// Show who talks to whom, and how it is secured.
    Edges(mesh::edges::Args),
    /// Show single requests as they happen.
    Tap(mesh::tap::Args),
    /// Watch requests live: per source, destination, method and route.
    Top(mesh::top::Args),
    /// Put the control plane on a Kubernetes cluster.
    Install(mesh::install::InstallArgs),
    /// Bring the control plane of a cluster to this program's version, or change its options.
    Upgrade(mesh::install::UpgradeArgs),
    /// Take the control plane off a cluster.
    Uninstall(mesh::install::UninstallArgs),
    /// Check that a mesh works, and say what to do where it does not.
    Check(mesh::check::Args),
    /// Show the certificate of a pod.
    Identity(mesh::identity::Args),
    /// Look into one pod's proxy.
    #[command(subcommand)]
    Diagnostics(mesh::diagnostics::Command),
    /// Show the versions of this command, the controller and the proxies.
    Version(mesh::version::Args),
    /// Print a script that completes commands in a shell.
    Completion(mesh::completion::Args),
    /// Put proxies beside the pods of manifests.
    Inject(mesh::inject::InjectArgs),
    /// Take proxies away from the pods of manifests.
    Uninject(mesh::inject::UninjectArgs),
    /// One process of the demo's application.
    #[command(subcommand, hide = true)]
    DemoApp(mesh::demo::app::Role),
    /// The control plane.
    #[command(subcommand, hide = true)]
    Controller(mesh_controller::Command),
    /// The data-plane proxy.
    #[command(subcommand, hide = true)]
    Proxy(mesh_proxy::Command),
    /// One process of a mesh on this machine.
    #[command(subcommand, hide = true)]
    Sandbox(mesh::local::sandbox::Step),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Up(args) => mesh::up::run(args),
        Command::Down(args) => mesh::down::run(args),
        Command::Local(args) => mesh::local_commands::run(args),
        Command::Stat(args) => mesh::stat::run(args).map(|()| ExitCode::SUCCESS),
        Command::Edges(args) => mesh::edges::run(args).map(|()| ExitCode::SUCCESS),
        Command::Tap(args) => mesh::tap::run(args).map(|()| ExitCode::SUCCESS),
        Command::Top(args) => mesh::top::run(args).map(|()| ExitCode::SUCCESS),
        Command::Check(args) => mesh::check::run(args),
        Command::Identity(args) => mesh::identity::run(args).map(|()| ExitCode::SUCCESS),
        Command::Diagnostics(command) => {
            mesh::diagnostics::run(command).map(|()| ExitCode::SUCCESS)
        }
        Command::Version(args) => mesh::version::run(args).map(|()| ExitCode::SUCCESS),
        Command::Completion(args) => {
            mesh::completion::run(&args, &mut Cli::command()).map(|()| ExitCode::SUCCESS)
        }
        Command::Inject(args) => mesh::inject::inject(args).map(|()| ExitCode::SUCCESS),
        Command::Uninject(args) => mesh::inject::uninject(args).map(|()| ExitCode::SUCCESS),
        Command::Demo(args) => mesh::demo::run(args).map(|()| ExitCode::SUCCESS),
        Command::Install(args) => mesh::install::install(args).map(|()| ExitCode::SUCCESS),
        Command::Upgrade(args) => mesh::install::upgrade(args).map(|()| ExitCode::SUCCESS),
        Command::Uninstall(args) => mesh::install::uninstall(args).map(|()| ExitCode::SUCCESS),
        Command::DemoApp(role) => mesh::demo::app::run(role).map(|()| ExitCode::SUCCESS),
        Command::Controller(command) => mesh_controller::main(command).map(|()| ExitCode::SUCCESS),
        Command::Proxy(command) => mesh_proxy::main(command).map(|()| ExitCode::SUCCESS),
        Command::Sandbox(step) => mesh::local::sandbox::run(step),
    };
    match result {
        Ok(code) => code,
        // The reader, such as `head`, has what it wanted.
        Err(error) if mesh::output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Not eprintln!, which panics where nobody reads: the status is the answer then.
            let _ = writeln!(std::io::stderr(), "mesh: {error:#}");
            ExitCode::FAILURE
        }
    }
}
