//! Reads nodes into checked values. Problems are noted with file, line and full key, and reading goes on, so that one run
//! reports all of them.

use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use super::problem::{Problem, listed, nearest};
use super::units;
use super::yaml::{Entry, Node, Value};

/// A key of a section, and the function that reads its value.
pub(super) type Key<T> = (&'static str, fn(&mut Reader<'_>, &At<'_>, &mut T));

/// Reads values of one file and collects their problems.
pub(super) struct Reader<'p> {
    pub(super) file: &'p Path,
    /// The keys of `limits`, which users often look for at the top level.
    pub(super) limits: &'p [&'static str],
    pub(super) problems: &'p mut Vec<Problem>,
}

/// A node with the path of keys that lead to it.
pub(super) struct At<'n> {
    pub(super) path: String,
    pub(super) key: &'n str,
    pub(super) line: usize,
    pub(super) node: &'n Node,
}

impl<'n> At<'n> {
    pub(super) fn root(node: &'n Node) -> Self {
        Self { path: String::new(), key: "", line: node.line, node }
    }
}

impl Reader<'_> {
    /// Notes a problem with this value.
    pub(super) fn problem(&mut self, at: &At<'_>, text: impl Into<String>) {
        let key = if at.path.is_empty() { String::new() } else { format!(": {}", at.path) };
        self.problems.push(Problem::new(format!("{}:{}{key}", self.file.display(), at.line), text));
    }

    /// A map with the keys of `table` and no other.
    pub(super) fn section<T>(&mut self, at: &At<'_>, table: &[Key<T>], target: &mut T) {
        for child in self.entries(at) {
            match table.iter().find(|(known, _)| *known == child.key) {
                Some((_, read)) => read(self, &child, target),
                None => {
                    let known = table.iter().map(|(known, _)| *known);
                    let text = self.unknown(&child, &at.path, known);
                    self.problem(&child, text);
                }
            }
        }
    }

    /// The problem of a key that is not `known` at `path`. It suggests the nearest key, the key of this name elsewhere, or
    /// lists the known keys.
    fn unknown<'k>(
        &self,
        child: &At<'_>,
        path: &str,
        known: impl Iterator<Item = &'k str> + Clone,
    ) -> String {
        if let Some(near) = nearest(child.key, known.clone()) {
            return format!("there is no such key; the nearest is `{}`", under(path, near));
        }
        match self.limits.iter().find(|limit| **limit == child.key) {
            Some(limit) => format!("there is no such key here; it is `limits.{limit}`"),
            None => {
                let all: Vec<_> = known.map(|key| under(path, key)).collect();
                format!("there is no such key; there are {}", listed(&all))
            }
        }
    }

    /// A map whose keys the user chooses, in order.
    pub(super) fn entries<'n>(&mut self, at: &At<'n>) -> Vec<At<'n>> {
        match &at.node.value {
            Value::Null => Vec::new(),
            Value::Map(entries) => {
                let child = |entry: &'n Entry| At {
                    path: under(&at.path, &entry.key),
                    key: &entry.key,
                    line: entry.line,
                    node: &entry.node,
                };
                entries.iter().map(child).collect()
            }
            Value::Text(_) => {
                self.problem(at, "keys with values belong here");
                Vec::new()
            }
            Value::List(_) => {
                let text =
                    "keys with values belong here, and no list: `name: {…}` in the place of `- name: …`";
                self.problem(at, text);
                Vec::new()
            }
        }
    }

    /// A list; a single value is a list of one.
    pub(super) fn list<'n>(&mut self, at: &At<'n>) -> Vec<At<'n>> {
        match &at.node.value {
            Value::Null => Vec::new(),
            Value::List(nodes) => {
                let item = |(n, node): (usize, &'n Node)| At {
                    path: format!("{}[{n}]", at.path),
                    key: at.key,
                    line: node.line,
                    node,
                };
                nodes.iter().enumerate().map(item).collect()
            }
            Value::Text(_) | Value::Map(_) => vec![At { path: at.path.clone(), ..*at }],
        }
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, at: &At<'_>) -> Vec<String> {
        self.list(at).iter().filter_map(|item| self.text(item)).collect()
    }

    /// A scalar that is not empty.
    pub(super) fn text(&mut self, at: &At<'_>) -> Option<String> {
        match &at.node.value {
            Value::Text(text) if !text.is_empty() => return Some(text.clone()),
            Value::Text(_) | Value::Null => self.problem(at, "a value belongs here"),
            Value::List(_) => self.problem(at, "one value belongs here, not a list"),
            Value::Map(_) => self.problem(at, "one value belongs here, not keys"),
        }
        None
    }

    /// A scalar of a type whose parser reports what is wrong.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&mut self, at: &At<'_>) -> Option<T> {
        let text = self.text(at)?;
        text.parse().map_err(|error: T::Err| self.problem(at, error.to_string())).ok()
    }

    /// A whole number of at least 1: a bound of 0 would stop everything.
    pub(super) fn count(&mut self, at: &At<'_>) -> Option<usize> {
        self.count_up_to(at, MOST_COUNT)
    }

    /// A whole number from 1 to `most`.
    pub(super) fn count_up_to(&mut self, at: &At<'_>, most: usize) -> Option<usize> {
        let count =
            self.scalar(at, |text| text.parse().ok().filter(|n| *n > 0), "not a whole number above 0")?;
        self.at_most(at, count, (most, &most.to_string()))
    }

    /// A size with its unit.
    pub(super) fn bytes(&mut self, at: &At<'_>) -> Option<usize> {
        let above_zero = |text: &str| units::bytes(text).filter(|n| *n > 0);
        let bytes = self.scalar(at, above_zero, "not a size; write for example 64KiB or 4MiB")?;
        self.at_most(at, u64::try_from(bytes).unwrap_or(u64::MAX), MOST_BYTES)?;
        Some(bytes)
    }

    /// A size with its unit, of at least so many bytes.
    pub(super) fn bytes_from(&mut self, at: &At<'_>, least: usize) -> Option<usize> {
        let bytes = self.bytes(at)?;
        if bytes < least {
            self.problem(at, format!("{bytes} bytes are too few; use at least {least}B"));
            return None;
        }
        Some(bytes)
    }

    /// A duration with its unit, above zero.
    pub(super) fn duration(&mut self, at: &At<'_>) -> Option<Duration> {
        let above_zero = |text: &str| units::duration(text).filter(|time| !time.is_zero());
        let time = self.scalar(at, above_zero, "not a duration; write for example 500ms, 30s, 10m or 2h")?;
        self.at_most(at, time, LONGEST)
    }

    /// A duration that may also be zero.
    pub(super) fn duration_or_zero(&mut self, at: &At<'_>) -> Option<Duration> {
        let time =
            self.scalar(at, units::duration, "not a duration; write for example 0s, 500ms, 30s or 10m")?;
        self.at_most(at, time, LONGEST)
    }

    /// A duration that may be zero or some microseconds.
    pub(super) fn short_duration(&mut self, at: &At<'_>) -> Option<Duration> {
        let time =
            self.scalar(at, units::short_duration, "not a duration; write for example 0us, 50us or 1ms")?;
        self.at_most(at, time, LONGEST)
    }

    /// The value, if it is not above the maximum. `written` is how a user would write that.
    fn at_most<T: PartialOrd>(&mut self, at: &At<'_>, value: T, (most, written): (T, &str)) -> Option<T> {
        if value > most {
            let text = self.text(at)?;
            self.problem(at, format!("`{text}` is too much; use at most {written}"));
            return None;
        }
        Some(value)
    }

    /// One word of several.
    pub(super) fn choice<T: Copy>(&mut self, at: &At<'_>, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(at)?;
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            self.problem(at, format!("`{text}` is not one of {}", listed(&words)));
        }
        found
    }

    fn scalar<T>(&mut self, at: &At<'_>, parse: impl Fn(&str) -> Option<T>, wrong: &str) -> Option<T> {
        let text = self.text(at)?;
        let value = parse(&text);
        if value.is_none() {
            self.problem(at, format!("`{text}` is {wrong}"));
        }
        value
    }
}

/// The longest duration. A leap year: anything longer is a typing error, and adding it to the present must not overflow.
const LONGEST: (Duration, &str) = (Duration::from_secs(366 * 24 * 3600), "8784h");
/// The largest count. 2^20: more than a process has memory or files for, and few enough for tables.
const MOST_COUNT: usize = 1 << 20;
/// The largest size. 1 TiB: more than machines have, and sums with it do not overflow.
const MOST_BYTES: (u64, &str) = (1 << 40, "1024GiB");

/// `limits` and `body` to `limits.body`.
fn under(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
