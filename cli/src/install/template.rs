//! The part of Helm's template language that the chart in `install/chart` keeps to, so that one set of files
//! serves `mesh install` and Helm.
//!
//! In: a template's text and the chart's values. Out: text. What the part has: `{{ .Values.a.b | quote }}` with
//! the functions `quote`, `toJson` and `sha256sum`; `{{ if PATH }}`, `{{ if or PATH PATH }}`, `{{ else }}`,
//! `{{ end }}`; `{{- ` and ` -}}`, which eat white space. Anything else is an error, never passed through.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// A template that can't be rendered: it steps outside of the language, or names a value that isn't there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TemplateError {
    #[error("{{{{ has no }}}} after it")]
    Open,
    #[error("{{{{ {0} }}}} is not in the part of the template language that the chart keeps to")]
    Unknown(String),
    #[error("{{{{ {0} }}}} has no if before it")]
    Stray(String),
    #[error("an if has no end")]
    NoEnd,
    #[error("the values have no {0}")]
    NoValue(String),
    #[error("{0} is not text, a number or a boolean")]
    NotPlain(String),
}

/// Fills in a template. `values` is what the chart calls `.Values`.
pub(super) fn render(template: &str, values: &Value) -> Result<String, TemplateError> {
    let mut out = String::with_capacity(template.len());
    // One entry for each `if` that is open.
    let mut open: Vec<Branch> = Vec::new();
    for piece in pieces(template)? {
        let shown = open.iter().all(|branch| branch.shown);
        match piece {
            Piece::Text(text) if shown => out.push_str(text),
            Piece::Text(_) => {}
            Piece::Action("else") => {
                let branch = open.last_mut().filter(|branch| !branch.in_else);
                let branch = branch.ok_or_else(|| TemplateError::Stray("else".into()))?;
                *branch = Branch {
                    shown: !branch.shown,
                    in_else: true,
                };
            }
            Piece::Action("end") => {
                open.pop()
                    .ok_or_else(|| TemplateError::Stray("end".into()))?;
            }
            Piece::Action(action) => match action.strip_prefix("if ") {
                Some(condition) => open.push(Branch {
                    shown: holds(condition, values)?,
                    in_else: false,
                }),
                // Evaluated where it is not shown as well: an error must not hide in a branch.
                None => {
                    let text = evaluate(action, values)?;
                    if shown {
                        out.push_str(&text);
                    }
                }
            },
        }
    }
    if open.is_empty() {
        Ok(out)
    } else {
        Err(TemplateError::NoEnd)
    }
}

struct Branch {
    shown: bool,
    in_else: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Piece<'t> {
    Text(&'t str),
    Action(&'t str),
}

/// Cuts a template into text and actions, and eats the white space that `{{-` and `-}}` are beside.
fn pieces(template: &str) -> Result<Vec<Piece<'_>>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = template;
    let mut eat = false;
    loop {
        let (text, after) = match rest.split_once("{{") {
            Some((text, after)) => (text, Some(after)),
            None => (rest, None),
        };
        let text = if eat { text.trim_start() } else { text };
        let Some(after) = after else {
            pieces.push(Piece::Text(text));
            return Ok(pieces);
        };
        let (action, after) = after.split_once("}}").ok_or(TemplateError::Open)?;
        rest = after;
        // As in Go, the dash counts only with white space beside it: `{{-3}}` is a number.
        let (text, action) = match action.strip_prefix("- ") {
            Some(action) => (text.trim_end(), action),
            None => (text, action),
        };
        let action = action
            .strip_suffix(" -")
            .inspect(|_| eat = true)
            .unwrap_or_else(|| {
                eat = false;
                action
            });
        pieces.extend([Piece::Text(text), Piece::Action(action.trim())]);
    }
}

/// Whether a condition is true: a path, or `or` and paths.
fn holds(condition: &str, values: &Value) -> Result<bool, TemplateError> {
    let paths = condition.strip_prefix("or ").unwrap_or(condition);
    let mut any = false;
    for path in paths.split_whitespace() {
        any |= match look_up(path, values)? {
            Value::Null => false,
            Value::Bool(value) => *value,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
        };
    }
    Ok(any)
}

/// The text of a pipeline: a path, and functions after it.
fn evaluate(action: &str, values: &Value) -> Result<String, TemplateError> {
    let mut stages = action.split('|').map(str::trim);
    let path = stages.next().unwrap_or_default();
    let mut value = look_up(path, values)?.clone();
    for function in stages {
        value = Value::String(match function {
            "quote" => Value::String(plain(path, &value)?).to_string(),
            "toJson" => value.to_string(),
            "sha256sum" => {
                let digest = Sha256::digest(plain(path, &value)?);
                digest.iter().map(|byte| format!("{byte:02x}")).collect()
            }
            _ => return Err(TemplateError::Unknown(action.into())),
        });
    }
    plain(path, &value)
}

fn look_up<'v>(path: &str, values: &'v Value) -> Result<&'v Value, TemplateError> {
    let keys = path
        .strip_prefix(".Values.")
        .filter(|keys| !keys.contains(char::is_whitespace))
        .ok_or_else(|| TemplateError::Unknown(path.into()))?;
    keys.split('.')
        .try_fold(values, |value, key| value.get(key))
        .ok_or_else(|| TemplateError::NoValue(path.into()))
}

fn plain(path: &str, value: &Value) -> Result<String, TemplateError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        _ => Err(TemplateError::NotPlain(path.into())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(template: &str) -> Result<String, TemplateError> {
        let values = json!({
            "name": "a \"b\"", "yes": true, "no": false, "none": "", "three": 3,
            "map": {"b": "2", "a": {"c": 1}},
        });
        render(template, &values)
    }

    #[test]
    fn values_and_functions() {
        for (template, expected) in [
            ("plain", "plain"),
            ("<{{ .Values.three }}>", "<3>"),
            ("{{.Values.map.a.c}}{{ .Values.yes }}", "1true"),
            ("{{ .Values.name | quote }}", r#""a \"b\"""#),
            ("{{ .Values.three | quote }}", r#""3""#),
            // Keys in order, as Go's encoder writes them.
            ("{{ .Values.map | toJson }}", r#"{"a":{"c":1},"b":"2"}"#),
            (
                "{{ .Values.map | toJson | sha256sum }}",
                "ba4265f02883e5d007955ff7bd8e12de1798cfaf086cc6d2b40962516fb34cb1",
            ),
        ] {
            assert_eq!(filled(template).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn conditions() {
        for (template, expected) in [
            ("{{ if .Values.yes }}a{{ else }}b{{ end }}", "a"),
            ("{{ if .Values.no }}a{{ else }}b{{ end }}", "b"),
            ("{{ if .Values.none }}a{{ end }}-", "-"),
            ("{{ if or .Values.none .Values.three }}a{{ end }}", "a"),
            (
                "{{ if .Values.no }}{{ if .Values.yes }}a{{ else }}b{{ end }}{{ else }}c{{ end }}",
                "c",
            ),
        ] {
            assert_eq!(filled(template).unwrap(), expected, "{template}");
        }
    }

    #[test]
    fn dashes_eat_white_space() {
        assert_eq!(
            filled("a: 1\n  {{- if .Values.yes }}\n  b: 2\n  {{- end }}\nc: 3\n").unwrap(),
            "a: 1\n  b: 2\nc: 3\n"
        );
        assert_eq!(filled("a \n {{- .Values.three -}} \n b").unwrap(), "a3b");
        assert_eq!(
            filled("{{ .Values.three -}} {{ .Values.three }} b").unwrap(),
            "33 b"
        );
    }

    #[test]
    fn what_is_outside_of_the_language_is_an_error() {
        use TemplateError::*;
        for (template, expected) in [
            ("{{ .Values.a", Open),
            ("{{ .Release.Name }}", Unknown(".Release.Name".into())),
            ("{{ include \"x\" . }}", Unknown("include \"x\" .".into())),
            (
                "{{ .Values.name | upper }}",
                Unknown(".Values.name | upper".into()),
            ),
            ("{{ .Values.nmae }}", NoValue(".Values.nmae".into())),
            (
                "{{ if .Values.no }}{{ .Values.nmae }}{{ end }}",
                NoValue(".Values.nmae".into()),
            ),
            ("{{ .Values.map }}", NotPlain(".Values.map".into())),
            ("{{ end }}", Stray("end".into())),
            ("{{ else }}", Stray("else".into())),
            (
                "{{ if .Values.yes }}{{ else }}{{ else }}{{ end }}",
                Stray("else".into()),
            ),
            ("{{ if .Values.yes }}", NoEnd),
        ] {
            assert_eq!(filled(template), Err(expected), "{template}");
        }
    }
}
