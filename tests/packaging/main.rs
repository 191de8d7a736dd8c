//! What people download: images packed by `install/image.sh`, and the command line by `install/install.sh`.
//!
//! Everything happens on this machine: the release is served on loopback.

mod image;
mod installer;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A script of `install/`, run by the system's own shell.
fn script(name: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg(folder().join(name));
    command
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../install")
}

/// What a script printed, which has to succeed.
fn succeeded(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    stdout
}

/// What a script said on standard error, which has to fail.
fn failed(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success(),
        "it succeeded: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    stderr
}
