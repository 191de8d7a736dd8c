//! One proxy from its start to its end.

use anyhow::Context;

use crate::config::{Config, RunArgs};

/// Runs the proxy until it has drained after SIGTERM.
pub(crate) fn run(args: RunArgs) -> anyhow::Result<()> {
    let _config = Config::try_from(args)?;
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok()
        .context("a TLS provider is installed already")
}
