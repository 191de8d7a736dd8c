//! How lines are told: to people, and to programs.

use std::fmt::Write;

use serde::Serialize;

use super::{
    codes::Code,
    line::{Line, Outcome},
};
use crate::output::Tone;

/// What `mesh check -o json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    /// No check fails.
    ok: bool,
    checks: Vec<Check<'a>>,
}

#[derive(Debug, Serialize)]
struct Check<'a> {
    code: &'static str,
    section: &'static str,
    title: &'static str,
    /// "ok", "warning" or "failure".
    result: &'static str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<&'a str>,
}

impl<'a> Report<'a> {
    pub(super) fn of(lines: &'a [Line]) -> Self {
        let check = |line: &'a Line| Check {
            code: line.code.code,
            section: line.code.section.title(),
            title: line.code.title,
            result: match line.outcome {
                Outcome::Well => "ok",
                Outcome::Warning(_) => "warning",
                Outcome::Failure(_) => "failure",
            },
            detail: &line.detail,
            cause: line.advice().map(|advice| advice.cause.as_str()),
            fix: line.advice().map(|advice| advice.fix.as_str()),
        };
        Self {
            ok: !lines.iter().any(Line::is_failure),
            checks: lines.iter().map(check).collect(),
        }
    }
}

/// Sections with a line for each check, and how it ended.
pub(super) fn text(lines: &[Line], color: bool) -> String {
    let mut text = String::new();
    let mut section = None;
    for line in lines {
        if section != Some(line.code.section) {
            if section.is_some() {
                text.push('\n');
            }
            section = Some(line.code.section);
            let title = Tone::Bold.paint(line.code.section.title(), color);
            let _ = writeln!(text, "{title}");
        }
        write_line(&mut text, line, color);
    }
    let failures = lines.iter().filter(|line| line.is_failure()).count();
    let warnings = lines.iter().filter(|line| line.advice().is_some()).count() - failures;
    let (tone, verdict) = match (failures, warnings) {
        (0, 0) => (Tone::Good, "√ all is well".to_owned()),
        (0, some) => (Tone::Warn, format!("‼ works; {some} to look at")),
        (some, _) => (
            Tone::Bad,
            format!("× {some} of {} checks failed", lines.len()),
        ),
    };
    let _ = writeln!(text, "\n{}", tone.paint(&verdict, color));
    text
}

/// What a spinner shows of a failure.
pub(super) fn reason(line: &Line) -> String {
    match line.advice() {
        Some(advice) => format!("{}: {}", line.code.title, advice.cause),
        None => line.code.title.to_owned(),
    }
}

/// What `--explain` prints.
pub(super) fn explanation(code: &Code) -> String {
    format!(
        "{}: {} ({})\n\n{}\n",
        code.code,
        code.title,
        code.section.title(),
        code.explanation
    )
}

fn write_line(text: &mut String, line: &Line, color: bool) {
    let code = Tone::Dim.paint(line.code.code, color);
    let title = line.code.title;
    let sign = match line.outcome {
        Outcome::Well => Tone::Good.paint("√", color),
        Outcome::Warning(_) => Tone::Warn.paint("‼", color),
        Outcome::Failure(_) => Tone::Bad.paint("×", color),
    };
    let detail = match line.detail.as_str() {
        "" => String::new(),
        detail => format!(": {detail}"),
    };
    // Writing into a string can't fail.
    let _ = writeln!(text, "{sign} {code} {title}{detail}");
    if let Some(advice) = line.advice() {
        let _ = writeln!(text, "      {}", advice.cause);
        let _ = writeln!(text, "      {}", advice.fix);
        let explain = format!("mesh check --explain {}", line.code.code);
        let _ = writeln!(text, "      {}", Tone::Dim.paint(&explain, color));
    }
}
