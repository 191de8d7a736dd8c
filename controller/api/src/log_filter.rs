//! Which log lines a program of the mesh prints: a level, or levels of single modules in the syntax of `RUST_LOG`.
//!
//! Not `EnvFilter`, which filters by spans too, of which the mesh has none: it brings regular expressions, 350 KB of
//! program, and a panic where a blank stands before a letter outside of ASCII.

use tracing_subscriber::filter::{LevelFilter, Targets};

/// The filter can't be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{filter:?} is not a log level or filter ({reason}); examples: debug, or info,mesh_proxy::tls=debug"
)]
pub struct LogFilterError {
    filter: String,
    reason: String,
}

/// A bare level is the program's own: what its libraries say below "warn" is for their authors.
///
/// `program` is the crate whose lines they are: `mesh_proxy` or `mesh_controller`.
pub fn parse(filter: &str, program: &str) -> Result<Targets, LogFilterError> {
    let refused = |reason: String| LogFilterError {
        filter: filter.to_owned(),
        reason,
    };
    // The library takes no blanks, and nothing for "error".
    let directives: Vec<&str> = filter
        .split(',')
        .map(str::trim)
        .filter(|directive| !directive.is_empty())
        .collect();
    if directives.is_empty() {
        return Err(refused("it is empty".to_owned()));
    }
    // A bare word that is no level would be taken for the name of a module, and silence everything.
    let is_level_or_directive =
        |part: &&str| part.contains(['=', '[', ':']) || part.parse::<LevelFilter>().is_ok();
    if !directives.iter().all(is_level_or_directive) {
        return Err(refused(
            "the levels are off, error, warn, info, debug and trace".to_owned(),
        ));
    }
    if let Some(directive) = directives.iter().find(|part| part.ends_with('=')) {
        return Err(refused(format!("{directive:?} names no level")));
    }
    let directives = directives.join(",");
    let filter = match directives.parse::<LevelFilter>() {
        Ok(level) => format!("{},{program}={level}", level.min(LevelFilter::WARN)),
        Err(_) => directives,
    };
    filter
        .parse::<Targets>()
        .map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(filter: &str) -> Result<String, LogFilterError> {
        parse(filter, "mesh_proxy").map(|filter| filter.to_string())
    }

    #[test]
    fn filters() {
        for filter in [
            "info",
            "WARN",
            "off",
            "info,mesh_proxy::tls=debug",
            "warn, mesh_proxy::tls=trace",
            " debug\n",
            "info,",
        ] {
            assert!(parsed(filter).is_ok(), "{filter}");
        }
        for filter in [
            "",
            " ",
            ",",
            "inof",
            "loud",
            "info,mesh_proxy",
            "mesh_proxy=lots",
            "info,mesh_proxy=",
            " A᪠=",
        ] {
            assert!(parsed(filter).is_err(), "{filter}");
        }
    }

    #[test]
    fn a_bare_level_leaves_the_libraries_at_warn() {
        assert_eq!(parsed("debug").unwrap(), "mesh_proxy=debug,warn");
        assert_eq!(parsed("error").unwrap(), "mesh_proxy=error,error");
        assert_eq!(parsed(" debug,").unwrap(), "mesh_proxy=debug,warn");
    }

    #[test]
    fn a_blank_before_a_letter_outside_of_ascii_is_no_panic() {
        let _ = (parsed(" A᪠="), parsed("info, ᪠᪠[᪠]=᪠"));
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in "[ \\t,A᪠=\\[\\]{}:/\"a-z]{0,24}|\\PC*") {
            let _ = parsed(&text);
        }
    }
}
