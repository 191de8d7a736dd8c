//! Manifests as text: which part of a stream is which object.
//!
//! A document keeps its source text, so that what is not touched comes out as it went in, byte for byte.

use anyhow::Context;
use serde_json::Value;

use super::tree::{self, Node};

/// One document of a stream, with the `---` in front of it.
#[derive(Debug)]
pub(super) struct Document<'a> {
    pub(super) text: &'a str,
    pub(super) format: Format,
    /// Null where there are only comments.
    pub(super) value: Value,
}

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Yaml,
}

/// Takes a stream apart. The documents' texts, one after the other, are the stream.
///
/// # Errors
/// It is neither YAML nor JSON.
pub(super) fn split<'a>(name: &str, stream: &'a str) -> anyhow::Result<Vec<Document<'a>>> {
    if stream.trim_start().starts_with(['{', '['])
        && let Some(documents) = split_json(stream)
    {
        return Ok(documents);
    }
    let documents = split_yaml(stream).into_iter().map(|(line, text)| {
        let value = parse(Format::Yaml, text)
            .with_context(|| format!("{name}: the document at line {line} is not valid YAML"))?;
        Ok(Document {
            text,
            format: Format::Yaml,
            value,
        })
    });
    documents.collect()
}

/// The value of one document.
pub(super) fn parse(format: Format, text: &str) -> anyhow::Result<Value> {
    if format == Format::Json {
        return Ok(serde_json::from_str(text)?);
    }
    // As kubectl reads it, which knows YAML 1.1: `defaultMode: 0644` is octal, `yes` is true.
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        strict_booleans: false,
        with_snippet: false,
        budget: None,
    };
    let mut values: Vec<Value> = serde_saphyr::from_multiple_with_options(text, options)?;
    Ok(values.pop().unwrap_or_default())
}

/// A value as a document of its own.
pub(super) fn render(format: Format, value: &Value) -> anyhow::Result<String> {
    match format {
        Format::Json => Ok(serde_json::to_string_pretty(value)? + "\n"),
        Format::Yaml => {
            // Scripts as lines, but long lines as they are.
            let options = serde_saphyr::ser_options! {
                prefer_block_scalars: true,
                folded_wrap_chars: usize::MAX,
            };
            Ok(serde_saphyr::to_string_with_options(value, options)?)
        }
    }
}

impl Document<'_> {
    /// Where what is in the text.
    pub(super) fn tree(&self) -> Option<Node> {
        match self.format {
            Format::Json => tree::of_json(self.text),
            Format::Yaml => tree::of_yaml(self.text),
        }
    }

    /// The document with another value: its separator and the comments above it stay, those within are lost.
    pub(super) fn with_value(&self, value: &Value) -> anyhow::Result<String> {
        let body = render(self.format, value)?;
        Ok(self.head().to_owned() + &body)
    }

    /// All that stands before the object, by whole lines.
    fn head(&self) -> &str {
        let mut end = 0;
        for line in self.text.split_inclusive('\n') {
            let content = line.trim_start_matches('\u{feff}').trim_end();
            let is_head =
                content.is_empty() || content.starts_with('#') || content.starts_with('%');
            if !is_head && content != "---" && !content.starts_with("--- #") {
                break;
            }
            end += line.len();
        }
        &self.text[..end]
    }
}

/// One or more JSON values with nothing but white space between; `None` for anything else, which may be YAML.
fn split_json(stream: &str) -> Option<Vec<Document<'_>>> {
    let mut values = serde_json::Deserializer::from_str(stream).into_iter::<Value>();
    let mut documents = Vec::new();
    let mut start = 0;
    while let Some(value) = values.next() {
        let value = value.ok()?;
        let end = values.byte_offset();
        documents.push((start..end, value));
        start = end;
    }
    // The white space at the end belongs to the last one.
    documents.last_mut()?.0.end = stream.len();
    let documents = documents.into_iter().map(|(span, value)| Document {
        text: &stream[span],
        format: Format::Json,
        value,
    });
    Some(documents.collect())
}

/// Where documents start, each with the number of its first line. A line that starts with `---` can't be
/// anything else (YAML 1.2, 9.1.2); directives (`%YAML 1.1`) stand in front of it.
fn split_yaml(stream: &str) -> Vec<(usize, &str)> {
    let mut starts = vec![(1, 0)];
    let mut offset = 0;
    // Whether directives may come, and whether one has.
    let (mut between, mut directives) = (true, false);
    for (line, text) in (1..).zip(stream.split_inclusive('\n')) {
        let is_marker = text
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        let is_directive = between && text.starts_with('%');
        if (is_marker || is_directive) && !directives && offset > 0 {
            starts.push((line, offset));
        }
        directives = !is_marker && (directives || is_directive);
        let says_nothing = text.trim().is_empty() || text.starts_with(['#', '%']);
        between = text.starts_with("...") || (between && says_nothing);
        offset += text.len();
    }
    let ends = starts.iter().skip(1).map(|(_, start)| *start);
    let ends = ends.chain([stream.len()]).collect::<Vec<_>>();
    let parts = starts.into_iter().zip(ends);
    parts
        .map(|((line, start), end)| (line, &stream[start..end]))
        .collect()
}
