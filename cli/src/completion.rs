//! `mesh completion`: scripts that let a shell complete commands and flags.

use anyhow::Result;
use clap_complete::{Shell, generate};

use crate::output::Output;

/// Arguments of `mesh completion`.
///
/// bash: `source <(mesh completion bash)`. zsh: `mesh completion zsh > "${fpath[1]}/_mesh"`.
/// fish: `mesh completion fish > ~/.config/fish/completions/mesh.fish`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

/// Prints the script of a shell for the whole command line, which is `command`.
///
/// # Errors
/// The output is closed or full.
pub fn run(args: &Args, command: &mut clap::Command) -> Result<()> {
    let shell = match args.shell.as_str() {
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        _ => Shell::Bash,
    };
    let mut script = Vec::new();
    generate(shell, command, "mesh", &mut script);
    Ok(Output::stdout().text(&String::from_utf8_lossy(&script))?)
}
