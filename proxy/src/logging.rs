//! The proxy's log on standard error, plain or JSON, with a level that can be changed while it runs.

use std::io::IsTerminal;

use mesh_api::log_filter::{self, LogFilterError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, filter::Targets, fmt, reload};

use crate::config::LogFormat;

/// The target of the proxy's own lines.
const PROGRAM: &str = "mesh_proxy";

/// What is logged now. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct LogLevel {
    filter: reload::Handle<Targets, Registry>,
}

/// The level can't be set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// It does not parse.
    #[error(transparent)]
    Filter(#[from] LogFilterError),
    /// Somebody else logs already.
    #[error("the log can't be started: {0}")]
    Start(String),
}

/// Logs from now on.
pub(crate) fn start(filter: &str, format: LogFormat) -> Result<LogLevel, LogError> {
    let (filter, handle) = reload::Layer::new(log_filter::parse(filter, PROGRAM)?);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Plain => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|error| LogError::Start(error.to_string()))?;
    Ok(LogLevel { filter: handle })
}

impl LogLevel {
    /// As it was set.
    pub(crate) fn current(&self) -> String {
        self.filter
            .with_current(ToString::to_string)
            .unwrap_or_default()
    }

    /// Applies from the next line on.
    pub(crate) fn set(&self, filter: &str) -> Result<(), LogError> {
        let parsed = log_filter::parse(filter, PROGRAM)?;
        self.filter
            .reload(parsed)
            .map_err(|error| LogError::Start(error.to_string()))
    }
}
