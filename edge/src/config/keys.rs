//! The keys of sealed tokens: from a variable or a file, the current one first.

use super::draft::Draft;
use super::env;
use super::holder::{self, HOLDER, Holder};
use super::problem::Problem;
use super::reader::{At, Reader};
use crate::seal::{self, BadKey, KeyText};

/// Where keys come from: one or two of them, apart by a comma or white space.
#[derive(Clone, Debug)]
pub(super) struct KeySource {
    holder: Holder,
    /// For problems: file, line and key.
    place: String,
}

impl KeySource {
    /// The variable that holds them, if one does.
    pub(super) fn variable(&self) -> Option<&str> {
        self.holder.variable()
    }
}

/// Where the keys of a list in the file come from.
pub(super) fn read(r: &mut Reader<'_>, at: &At<'_>, draft: &mut Draft) {
    draft.session_keys = Some(r.list(at).iter().filter_map(|item| source(r, item)).collect());
}

fn source(r: &mut Reader<'_>, at: &At<'_>) -> Option<KeySource> {
    let (mut holders, before) = (Vec::new(), r.problems.len());
    r.section(at, HOLDER, &mut holders);
    let nothing = r.problems.len() == before;
    let holder = holder::only(r, at, (holders, "key", nothing))?;
    Some(KeySource { holder, place: format!("{}:{}: {}", r.file.display(), at.line, at.path) })
}

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
        match source.holder.text(&env) {
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
    let config = seal::Config { current: keys.next(), previous: keys.next(), home: seal::Home::default() };
    if keys.next().is_some() {
        let text = "at most two keys are valid at once: the current one, and the one before it";
        problems.push(Problem::new("session_keys", text));
    }
    config
}

impl KeySource {
    /// Never the key itself.
    fn problem(&self, text: &str) -> Problem {
        Problem::new(self.place.clone(), format!("{} {text}", self.holder))
    }
}
