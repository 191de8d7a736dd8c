//! The proxy's log on standard error, plain or JSON, with a level that can be changed while it runs.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::LogFormat;

/// What is logged now. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct LogLevel {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// The filter can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// It does not parse.
    #[error(
        "{filter:?} is not a log level or filter ({reason}); examples: debug, or info,mesh_proxy::tls=debug"
    )]
    Filter {
        /// As given.
        filter: String,
        /// Why.
        reason: String,
    },
    /// Somebody else logs already.
    #[error("the log can't be started: {0}")]
    Start(String),
}

/// Logs from now on.
pub(crate) fn start(filter: &str, format: LogFormat) -> Result<LogLevel, LogError> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
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
        let parsed = parse(filter)?;
        self.filter
            .reload(parsed)
            .map_err(|error| LogError::Start(error.to_string()))
    }
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let refused = |reason: String| LogError::Filter {
        filter: filter.to_owned(),
        reason,
    };
    if filter.trim().is_empty() {
        return Err(refused("it is empty".to_owned()));
    }
    // A bare word that is no level would be taken for the name of a module, and silence everything.
    let is_level_or_directive =
        |part: &str| part.contains(['=', '[', ':']) || part.trim().parse::<LevelFilter>().is_ok();
    if !filter.split(',').all(is_level_or_directive) {
        return Err(refused(
            "the levels are off, error, warn, info, debug and trace".to_owned(),
        ));
    }
    // A bare level is the proxy's own: what its libraries say below "warn" is for their authors.
    let filter = match filter.trim().parse::<LevelFilter>() {
        Ok(level) => format!("{},mesh_proxy={level}", level.min(LevelFilter::WARN)),
        Err(_) => filter.trim().to_owned(),
    };
    EnvFilter::builder()
        .parse(filter)
        .map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for filter in [
            "info",
            "WARN",
            "off",
            "info,mesh_proxy::tls=debug",
            " debug\n",
        ] {
            assert!(parse(filter).is_ok(), "{filter}");
        }
        for filter in ["", "inof", "mesh_proxy=lots"] {
            assert!(parse(filter).is_err(), "{filter}");
        }
    }
}
