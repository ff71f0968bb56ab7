//! Parses a YAML document into a tree with line numbers.
//!
//! Supports what configuration needs: one document of maps, lists and scalars. Duplicate keys are refused, because the one
//! that loses may be the one that was just edited. Anchors, aliases and tags are refused, because with them a value comes
//! from somewhere else than where it is read.

use granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span};

/// One value and the line it begins at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) value: Value,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// `null`, `~`, or nothing.
    Null,
    /// A scalar as text; what it means depends on the key.
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a map, in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) node: Node,
}

impl Value {
    /// Whether both have the same contents, on whatever lines. The recursion is bounded by [`MAX_DEPTH`].
    pub(super) fn has_same_contents(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::List(one), Self::List(other)) => {
                one.len() == other.len()
                    && one.iter().zip(other).all(|(one, other)| one.value.has_same_contents(&other.value))
            }
            (Self::Map(one), Self::Map(other)) => {
                one.len() == other.len()
                    && one.iter().zip(other).all(|(one, other)| {
                        one.key == other.key && one.node.value.has_same_contents(&other.node.value)
                    })
            }
            (one, other) => one == other,
        }
    }
}

/// Why a text cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadYaml {
    pub(super) line: usize,
    pub(super) text: String,
}

/// Reads a document; an empty one is null.
pub(super) fn parse(text: &str) -> Result<Node, BadYaml> {
    let mut options = Options::default();
    (options.flow_nesting_limit, options.block_nesting_limit) = (MAX_DEPTH, MAX_DEPTH);
    let mut reader = Reader { events: Parser::new_from_str_with_options(text, options) };
    let mut root = None;
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => (),
            Event::StreamEnd => return Ok(root.unwrap_or(Node { line: 1, value: Value::Null })),
            _ if root.is_some() => return Err(bad(span, "a second document begins; there can be only one")),
            event => root = Some(reader.node(event, span)?),
        }
    }
}

struct Reader<'t, I: Iterator<Item = Result<(Event<'t>, Span), ScanError>>> {
    events: I,
}

impl<'t, I: Iterator<Item = Result<(Event<'t>, Span), ScanError>>> Reader<'t, I> {
    fn next(&mut self) -> Result<(Event<'t>, Span), BadYaml> {
        match self.events.next() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(BadYaml { line: error.marker().line(), text: error.info() }),
            None => Err(BadYaml { line: 1, text: "the document ends too early".to_owned() }),
        }
    }

    /// The node that begins with `event`. The recursion is bounded by [`MAX_DEPTH`].
    fn node(&mut self, event: Event<'t>, span: Span) -> Result<Node, BadYaml> {
        let line = span.start.line();
        if event.tag().is_some() {
            return Err(bad(span, "tags are not supported"));
        }
        let value = match event {
            Event::Scalar(text, style, 0, _) => match text.as_ref() {
                "" | "~" | "null" | "Null" | "NULL" if style == ScalarStyle::Plain => Value::Null,
                text => Value::Text(text.to_owned()),
            },
            Event::SequenceStart(_, 0, _) => Value::List(self.list()?),
            Event::MappingStart(_, 0, _) => Value::Map(self.map()?),
            _ => return Err(bad(span, "anchors and aliases are not supported; write the value out")),
        };
        Ok(Node { line, value })
    }

    fn list(&mut self) -> Result<Vec<Node>, BadYaml> {
        let mut nodes = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(nodes),
                (event, span) => nodes.push(self.node(event, span)?),
            }
        }
    }

    fn map(&mut self) -> Result<Vec<Entry>, BadYaml> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(entries);
            }
            let Node { line, value: Value::Text(key) } = self.node(event, span)? else {
                return Err(bad(span, "a key must be a plain word"));
            };
            if let Some(first) = entries.iter().find(|entry| entry.key == key) {
                let text = format!("`{key}` is given twice, first in line {}", first.line);
                return Err(BadYaml { line, text });
            }
            let (event, span) = self.next()?;
            let node = self.node(event, span)?;
            entries.push(Entry { key, line, node });
        }
    }
}

fn bad(span: Span, text: &str) -> BadYaml {
    BadYaml { line: span.start.line(), text: text.to_owned() }
}

/// Levels of nesting. 16: the configuration has five.
const MAX_DEPTH: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> Vec<Entry> {
        match parse(text).unwrap().value {
            Value::Map(entries) => entries,
            other => panic!("{other:?}"),
        }
    }

    fn error(text: &str) -> String {
        let BadYaml { line, text } = parse(text).unwrap_err();
        format!("{line}: {text}")
    }

    #[test]
    fn order_and_lines_are_kept() {
        let entries = map("# comment\nb: 1\n\na: [x, 'null']\nc:\n  d: ~\n");
        let keys: Vec<_> = entries.iter().map(|entry| (entry.key.as_str(), entry.line)).collect();
        assert_eq!(keys, [("b", 2), ("a", 4), ("c", 5)]);
        assert_eq!(entries[0].node.value, Value::Text("1".into()));
        let Value::List(items) = &entries[1].node.value else { panic!("{entries:?}") };
        assert_eq!(items[1].value, Value::Text("null".into()), "quoted");
        let Value::Map(inner) = &entries[2].node.value else { panic!("{entries:?}") };
        assert_eq!(inner[0].node, Node { line: 6, value: Value::Null });
    }

    #[test]
    fn nothing_is_null() {
        for text in ["", "# only a comment\n", "---\n", "~"] {
            assert_eq!(parse(text).unwrap().value, Value::Null, "{text}");
        }
    }

    #[test]
    fn what_reads_differently_than_it_looks_is_refused() {
        assert_eq!(error("a: 1\nb: 2\na: 3\n"), "3: `a` is given twice, first in line 1");
        assert_eq!(error("a: {b: 1, b: 2}"), "1: `b` is given twice, first in line 1");
        assert!(error("a: &x 1\nb: *x\n").starts_with("1: anchors"));
        assert!(error("a: !!str 1\n").starts_with("1: tags"));
        assert!(error("a: 1\n---\nb: 2\n").contains("second document"));
        assert!(error("[a]: 1\n").contains("plain word"));
    }

    #[test]
    fn broken_text_is_an_error_with_a_line() {
        for text in ["a: [1, 2", "a: 'x", "a: b: c", "a:\n\tb: 1", "a\n b: 1\nc", &"[".repeat(10_000)] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(error("a: 1\nb: [2\n").starts_with(['2', '3']));
    }
}
