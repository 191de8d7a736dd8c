//! What a check says: one line, and what follows from it.

use serde::Serialize;

use super::codes::Code;

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Which check.
    pub code: &'static Code,
    /// How it went.
    pub outcome: Outcome,
    /// What was found, as in "v1.36.0"; empty if there is nothing to say.
    pub detail: String,
}

/// How a check went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// √
    Well,
    /// ‼: works, but should be looked at.
    Warning(Advice),
    /// ×: does not work.
    Failure(Advice),
}

/// What is wrong, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// One sentence.
    pub cause: String,
    /// One sentence.
    pub fix: String,
}

impl Line {
    /// All is well.
    pub fn well(code: &'static Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            outcome: Outcome::Well,
            detail: detail.into(),
        }
    }

    /// Something should be looked at.
    pub fn warning(code: &'static Code, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            code,
            outcome: Outcome::Warning(Advice {
                cause: cause.into(),
                fix: fix.into(),
            }),
            detail: String::new(),
        }
    }

    /// Something does not work.
    pub fn failure(code: &'static Code, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            code,
            outcome: Outcome::Failure(Advice {
                cause: cause.into(),
                fix: fix.into(),
            }),
            detail: String::new(),
        }
    }

    /// Whether it fails the whole check.
    pub fn is_failure(&self) -> bool {
        matches!(self.outcome, Outcome::Failure(_))
    }

    /// What is wrong, if anything is.
    pub fn advice(&self) -> Option<&Advice> {
        match &self.outcome {
            Outcome::Well => None,
            Outcome::Warning(advice) | Outcome::Failure(advice) => Some(advice),
        }
    }
}

/// A few names, and how many more there are.
pub(super) fn few(names: &[String]) -> String {
    const SHOWN: usize = 3;
    match names.len() {
        0..=SHOWN => names.join(", "),
        all => format!("{} and {} more", names[..SHOWN].join(", "), all - SHOWN),
    }
}

/// "1 pod", "3 pods".
pub(super) fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}
