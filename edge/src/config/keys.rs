//! The keys for sealed tokens, from variables or files. The current key comes first.

use super::draft::Draft;
use super::env;
use super::problem::Problem;
use super::reader::{At, Reader};
use super::secret_source::{self, SECRET, SecretSource};
use crate::seal::{self, BadKey, KeyText};

/// Where keys come from. A source holds one or two keys, separated by a comma or white space.
#[derive(Clone, Debug)]
pub(super) struct KeySource {
    secret: SecretSource,
    /// File, line and key, for problems.
    place: String,
}

impl KeySource {
    /// The variable that holds them, if it is one.
    pub(super) fn variable(&self) -> Option<&str> {
        self.secret.variable()
    }
}

/// Reads the list of sources in the file.
pub(super) fn read(r: &mut Reader<'_>, at: &At<'_>, draft: &mut Draft) {
    draft.session_keys = Some(r.list(at).iter().filter_map(|item| source(r, item)).collect());
}

fn source(r: &mut Reader<'_>, at: &At<'_>) -> Option<KeySource> {
    let (mut sources, before) = (Vec::new(), r.problems.len());
    r.section(at, SECRET, &mut sources);
    let has_problems = r.problems.len() > before;
    let secret = secret_source::exactly_one(r, at, (sources, "key", has_problems))?;
    Some(KeySource { secret, place: format!("{}:{}: {}", r.file.display(), at.line, at.path) })
}

/// Reads the keys from their sources.
pub(super) fn settle(
    draft: &Draft,
    env: impl Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
) -> seal::Config {
    let implied = [KeySource { secret: SecretSource::Variable(env::KEY.to_owned()), place: String::new() }];
    let is_asked = draft.session_keys.is_some();
    let mut keys: Vec<KeyText> = Vec::new();
    for source in draft.session_keys.as_deref().unwrap_or(&implied) {
        match source.secret.text(&env) {
            // The implied source may be missing: then a key is made at start.
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
    /// A problem of this source; never shows the key itself.
    fn problem(&self, text: &str) -> Problem {
        Problem::new(self.place.clone(), format!("{} {text}", self.secret))
    }
}
