//! The keys of sealed tokens: from a variable or a file, the current one first.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use super::draft::Draft;
use super::env;
use super::file::beside;
use super::problem::Problem;
use super::reader::{At, Key, Reader};
use crate::seal::{self, BadKey, KeyText};

/// Where keys come from: one or two of them, apart by a comma or white space.
#[derive(Clone, Debug)]
pub(super) struct KeySource {
    holder: Holder,
    /// For problems: file, line and key.
    place: String,
}

#[derive(Clone, Debug)]
enum Holder {
    Variable(String),
    File(PathBuf),
}

impl KeySource {
    /// The variable that holds them, if one does.
    pub(super) fn variable(&self) -> Option<&str> {
        match &self.holder {
            Holder::Variable(name) => Some(name),
            Holder::File(_) => None,
        }
    }
}

/// Where the keys of a list in the file come from.
pub(super) fn read(r: &mut Reader<'_>, at: &At<'_>, draft: &mut Draft) {
    draft.session_keys = Some(r.list(at).iter().filter_map(|item| source(r, item)).collect());
}

fn source(r: &mut Reader<'_>, at: &At<'_>) -> Option<KeySource> {
    let (mut holders, before) = (Vec::new(), r.problems.len());
    r.section(at, SOURCE, &mut holders);
    match (holders.pop(), holders.is_empty()) {
        (Some(holder), true) => {
            let place = format!("{}:{}: {}", r.file.display(), at.line, at.path);
            Some(KeySource { holder, place })
        }
        _ if r.problems.len() > before => None, // said already
        _ => {
            r.problem(at, "either `env` or `file` must say where the key is");
            None
        }
    }
}

const SOURCE: &[Key<Vec<Holder>>] = &[
    ("env", |r, at, holders| holders.extend(r.text(at).map(Holder::Variable))),
    ("file", |r, at, holders| holders.extend(r.text(at).map(|path| Holder::File(beside(r.file, &path))))),
];

/// Finds the keys.
pub(super) fn settle(
    draft: &Draft,
    env: impl Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
) -> seal::Config {
    let implied = [KeySource { holder: Holder::Variable(env::KEY.to_owned()), place: String::new() }];
    let is_asked = draft.session_keys.is_some();
    let mut keys: Vec<KeyText> = Vec::new();
    for source in draft.session_keys.as_deref().unwrap_or(&implied) {
        match source.text(&env) {
            // The one that nobody asked for may be missing: a key is made at start then.
            Ok(None) if !is_asked => (),
            Ok(None) => problems.push(source.problem("holds no key")),
            Err(why) => problems.push(source.problem(&why)),
            Ok(Some(text)) => {
                for key in text.split([',', ' ', '\t', '\r', '\n']).filter(|key| !key.is_empty()) {
                    match key.parse() {
                        Ok(key) if keys.contains(&key) => {
                            problems.push(source.problem("holds the same key as before"));
                        }
                        Ok(key) => keys.push(key),
                        Err(error) => {
                            let error: BadKey = error;
                            problems.push(source.problem(&error.to_string()));
                        }
                    }
                }
            }
        }
    }
    let mut keys = keys.into_iter();
    let config = seal::Config { current: keys.next(), previous: keys.next() };
    if keys.next().is_some() {
        let text = "at most two keys are valid at once: the current one, and the one before it";
        problems.push(Problem::new("session_keys", text));
    }
    config
}

impl KeySource {
    /// `None`: it is not there, or empty.
    fn text(&self, env: impl Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
        let text = match &self.holder {
            Holder::Variable(name) => env(name),
            Holder::File(path) => {
                let mut text = String::new();
                let read = File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text));
                read.map_err(|error| format!("cannot be read: {error}"))?;
                Some(text)
            }
        };
        Ok(text.filter(|text| !text.trim().is_empty()))
    }

    /// Never the key itself.
    fn problem(&self, text: &str) -> Problem {
        let what = match &self.holder {
            Holder::Variable(name) => format!("the variable {name}"),
            Holder::File(path) => format!("the file {}", path.display()),
        };
        Problem::new(self.place.clone(), format!("{what} {text}"))
    }
}

/// Two keys are a hundred bytes; more than this is some other file.
const MAX_BYTES: u64 = 4096;
