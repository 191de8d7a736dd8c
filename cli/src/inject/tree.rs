//! Where in a text the parts of a document are.

use std::ops::Range;

use granit_parser::{Event, Parser, Span, StructureStyle};

/// A value, and the bytes that it is written in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) span: Range<usize>,
    pub(super) kind: Kind,
}

/// What a value is made of.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Map {
        /// Whether it is written with braces.
        braces: bool,
        entries: Vec<Entry>,
    },
    List(Vec<Node>),
    /// A scalar, or a reference to another node.
    Leaf,
}

/// A key of a map, and its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Range<usize>,
    pub(super) value: Node,
}

/// A step from a value into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(&'static str),
    Item(usize),
}

impl Node {
    /// The entry of a map.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.kind {
            Kind::Map { entries, .. } => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// What a step leads to.
    pub(super) fn step(&self, step: Step) -> Option<&Self> {
        match (step, &self.kind) {
            (Step::Key(key), _) => Some(&self.entry(key)?.value),
            (Step::Item(index), Kind::List(items)) => items.get(index),
            _ => None,
        }
    }
}

/// Of the one document in `text`; `None` for none, several, or what is not YAML.
pub(super) fn of_yaml(text: &str) -> Option<Node> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.ok()?;
        builder.take(event, span)?;
    }
    builder.root
}

/// Collections that are not complete yet, the innermost last.
#[derive(Default)]
struct Builder {
    root: Option<Node>,
    open: Vec<Open>,
}

struct Open {
    node: Node,
    /// The key whose value comes next.
    key: Option<(String, Range<usize>)>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let kind = match event {
            Event::MappingStart(style, ..) => {
                let braces = style == StructureStyle::Flow;
                Kind::Map {
                    braces,
                    entries: Vec::new(),
                }
            }
            Event::SequenceStart(..) => Kind::List(Vec::new()),
            Event::Scalar(text, ..) => {
                let span = span.byte_range()?;
                return self.put(
                    Node {
                        span,
                        kind: Kind::Leaf,
                    },
                    Some(text.into_owned()),
                );
            }
            Event::Alias(_) => {
                let span = span.byte_range()?;
                return self.put(
                    Node {
                        span,
                        kind: Kind::Leaf,
                    },
                    None,
                );
            }
            Event::MappingEnd | Event::SequenceEnd => {
                let mut open = self.open.pop()?;
                open.node.span.end = span.byte_range()?.end;
                return self.put(open.node, None);
            }
            _ => return Some(()),
        };
        let span = span.byte_range()?;
        let node = Node { span, kind };
        self.open.push(Open { node, key: None });
        Some(())
    }

    /// `text`: of a scalar, which may be a key. A key that is none makes the tree of no use.
    fn put(&mut self, node: Node, text: Option<String>) -> Option<()> {
        let Some(open) = self.open.last_mut() else {
            return self.root.replace(node).is_none().then_some(());
        };
        match (&mut open.node.kind, open.key.take()) {
            (Kind::List(items), _) => items.push(node),
            (Kind::Map { entries, .. }, Some((key, key_span))) => entries.push(Entry {
                key,
                key_span,
                value: node,
            }),
            (Kind::Map { .. }, None) => open.key = Some((text?, node.span)),
            (Kind::Leaf, _) => return None,
        }
        Some(())
    }
}

/// Of a text that was parsed as JSON.
pub(super) fn of_json(text: &str) -> Option<Node> {
    Scanner { text, at: 0 }.value()
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl Scanner<'_> {
    fn value(&mut self) -> Option<Node> {
        self.skip_space();
        let start = self.at;
        let kind = match self.peek()? {
            b'{' => Kind::Map {
                braces: true,
                entries: self.collection(b'}', Self::entry)?,
            },
            b'[' => Kind::List(self.collection(b']', Self::value)?),
            b'"' => {
                self.string()?;
                Kind::Leaf
            }
            _ => {
                let rest = &self.text[self.at..];
                let is_end = |c: char| c.is_whitespace() || ",]}".contains(c);
                self.at += rest.find(is_end).unwrap_or(rest.len());
                Kind::Leaf
            }
        };
        let span = start..self.at;
        Some(Node { span, kind })
    }

    fn entry(&mut self) -> Option<Entry> {
        self.skip_space();
        let key_span = self.string()?;
        let key = serde_json::from_str(&self.text[key_span.clone()]).ok()?;
        self.skip_space();
        self.eat(b':')?;
        let value = self.value()?;
        Some(Entry {
            key,
            key_span,
            value,
        })
    }

    fn collection<T>(
        &mut self,
        end: u8,
        mut item: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.at += 1;
        let mut items = Vec::new();
        loop {
            self.skip_space();
            match self.peek()? {
                byte if byte == end => break,
                b',' => self.at += 1,
                _ => items.push(item(self)?),
            }
        }
        self.at += 1;
        Some(items)
    }

    fn string(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        self.eat(b'"')?;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some(start..self.at)
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}
