//! A label, put into a text and taken out of it, with all around it left as it is.
//!
//! Both look at the text as far as they understand it, and give up (`None`) where they do not. Whoever calls
//! compares what the edited text means with what it should mean, and writes the document anew where need be.

use std::ops::Range;

use super::tree::{Entry, Kind, Node};

/// A replacement of a part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    at: Range<usize>,
    text: String,
}

/// The text with all edits, none of which touches another.
pub(super) fn apply(text: &str, mut edits: Vec<Edit>) -> String {
    let mut text = text.to_owned();
    edits.sort_by_key(|edit| std::cmp::Reverse(edit.at.start));
    for edit in edits {
        text.replace_range(edit.at, &edit.text);
    }
    text
}

/// Sets what `path` leads to from the map `node`, where there is nothing yet. Maps on the way are made.
///
/// `parent`: the entry whose value `node` is.
pub(super) fn insert(
    text: &str,
    parent: Option<&Entry>,
    node: &Node,
    path: &[&str],
    value: &str,
) -> Option<Edit> {
    let Kind::Map { braces, entries } = &node.kind else {
        return None;
    };
    let (key, rest) = path.split_first()?;
    if let Some(entry) = node.entry(key) {
        let is_absent = entry.value.kind == Kind::Leaf && entry.value.span.is_empty();
        return match is_absent {
            // "labels:" and nothing more.
            true => insert_lines(text, entry, column(text, entry)? + 2, rest, value),
            false => insert(text, Some(entry), &entry.value, rest, value),
        };
    }
    match (braces, entries.first()) {
        (true, first) => insert_in_braces(text, node, first, path, value),
        (false, Some(first)) => insert_lines(text, parent?, column(text, first)?, path, value),
        (false, None) => None,
    }
}

/// Removes the entry that `path` leads to from the map `node`, and the maps on the way that are empty then.
pub(super) fn remove(text: &str, node: &Node, path: &[&str]) -> Option<Edit> {
    let mut chain: Vec<(&Node, &Entry)> = Vec::new();
    let mut map = node;
    for key in path {
        let entry = map.entry(key)?;
        chain.push((map, entry));
        map = &entry.value;
    }
    let alone = |map: &Node| matches!(&map.kind, Kind::Map { entries, .. } if entries.len() == 1);
    while chain.len() > 1 && chain.last().is_some_and(|(map, _)| alone(map)) {
        chain.pop();
    }
    let (map, entry) = chain.pop()?;
    let Kind::Map { braces, entries } = &map.kind else {
        return None;
    };
    let at = if *braces {
        let index = entries.iter().position(|other| other == entry)?;
        let previous = index.checked_sub(1).and_then(|index| entries.get(index));
        match (entries.get(index + 1), previous) {
            (Some(next), _) => entry.key_span.start..next.key_span.start,
            (None, Some(previous)) => previous.value.span.end..entry.value.span.end,
            (None, None) => entry.key_span.start..entry.value.span.end,
        }
    } else {
        column(text, entry)?;
        line_start(text, entry.key_span.start)..line_end(text, last_byte(&entry.value))
    };
    let text = String::new();
    Some(Edit { at, text })
}

/// Below the line of the key of `parent`, whose value has its keys in `column`.
fn insert_lines(
    text: &str,
    parent: &Entry,
    column: usize,
    path: &[&str],
    value: &str,
) -> Option<Edit> {
    let at = line_end(text, parent.key_span.end);
    let is_above = match &parent.value.kind {
        Kind::Map { entries, .. } => entries.first()?.key_span.start >= at,
        _ => true,
    };
    let line = &text[..at];
    if !is_above || !line.ends_with('\n') {
        return None;
    }
    let newline = if line.ends_with("\r\n") { "\r\n" } else { "\n" };
    let (key, parents) = path.split_last()?;
    let mut lines = String::new();
    let mut indent = column;
    for parent in parents {
        lines += &format!("{:indent$}{parent}:{newline}", "");
        indent += 2;
    }
    lines += &format!("{:indent$}{key}: {value}{newline}", "");
    Some(Edit {
        at: at..at,
        text: lines,
    })
}

/// In front of the first entry.
fn insert_in_braces(
    text: &str,
    map: &Node,
    first: Option<&Entry>,
    path: &[&str],
    value: &str,
) -> Option<Edit> {
    let inside = map.span.start + 1..map.span.end.checked_sub(1)?;
    let (space, quoted) = match first {
        Some(first) => {
            let key = &text[first.key_span.clone()];
            (
                text.get(inside.start..first.key_span.start)?,
                key.starts_with('"'),
            )
        }
        // Nobody is hurt by quotes, and JSON needs them.
        None => ("", true),
    };
    if !space.chars().all(char::is_whitespace) {
        return None;
    }
    let quote = |word: &str| match quoted {
        true => format!("\"{word}\""),
        false => word.to_owned(),
    };
    let (key, parents) = path.split_last()?;
    let mut entry = format!("{}: {}", quote(key), quote(value));
    for parent in parents.iter().rev() {
        entry = format!("{}: {{{entry}}}", quote(parent));
    }
    if first.is_none() {
        return Some(Edit {
            at: inside,
            text: entry,
        });
    }
    let gap = match space {
        _ if space.contains('\n') => space,
        "" if quoted => "",
        _ => " ",
    };
    let at = inside.start + space.len();
    Some(Edit {
        at: at..at,
        text: format!("{entry},{gap}"),
    })
}

/// Of the key, if nothing stands in front of it.
fn column(text: &str, entry: &Entry) -> Option<usize> {
    let before = text.get(line_start(text, entry.key_span.start)..entry.key_span.start)?;
    before
        .bytes()
        .all(|byte| byte == b' ')
        .then_some(before.len())
}

/// Where the last thing that is written in a chain of maps ends. Of a map without braces only its entries know.
fn last_byte(node: &Node) -> usize {
    match &node.kind {
        Kind::Map {
            braces: false,
            entries,
        } => entries
            .last()
            .map_or(node.span.end, |entry| last_byte(&entry.value)),
        _ => node.span.end,
    }
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// Behind the line's end.
fn line_end(text: &str, at: usize) -> usize {
    text[at..]
        .find('\n')
        .map_or(text.len(), |newline| at + newline + 1)
}
