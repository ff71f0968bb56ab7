//! Where a secret comes from: a variable or a file, never the configuration itself.

use std::fmt;
use std::path::PathBuf;

use super::file::{beside, load};
use super::reader::{At, Key, Reader};

/// Where a secret is.
#[derive(Clone, Debug)]
pub(super) enum SecretSource {
    Variable(String),
    File(PathBuf),
}

/// The keys for the place of a secret, of which exactly one is given.
pub(super) const SECRET: &[Key<Vec<SecretSource>>] = &[
    ("env", |r, at, sources| sources.extend(r.text(at).map(SecretSource::Variable))),
    ("file", |r, at, sources| {
        sources.extend(r.text(at).map(|path| SecretSource::File(beside(r.file, &path))));
    }),
];

/// The source, if exactly one was given. Otherwise a problem says that `what` needs one, unless its section `has_problems`
/// already.
pub(super) fn exactly_one(
    r: &mut Reader<'_>,
    at: &At<'_>,
    (mut sources, what, has_problems): (Vec<SecretSource>, &str, bool),
) -> Option<SecretSource> {
    match (sources.pop(), sources.is_empty()) {
        (Some(source), true) => Some(source),
        _ if has_problems => None,
        _ => {
            r.problem(at, format!("either `env` or `file` must say where the {what} is"));
            None
        }
    }
}

impl SecretSource {
    /// The secret; `None` if it is missing or empty.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn text(&self, env: impl Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
        let text = match self {
            Self::Variable(name) => env(name),
            Self::File(path) => {
                Some(load(path, MAX_BYTES).map_err(|error| format!("cannot be read: {error}"))?)
            }
        };
        Ok(text.filter(|text| !text.trim().is_empty()))
    }

    /// The name of the variable, if it is one.
    pub(super) fn variable(&self) -> Option<&str> {
        match self {
            Self::Variable(name) => Some(name),
            Self::File(_) => None,
        }
    }

    /// The path of the file, if it is one.
    pub(super) fn file(&self) -> Option<&PathBuf> {
        match self {
            Self::Variable(_) => None,
            Self::File(path) => Some(path),
        }
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "the variable {name}"),
            Self::File(path) => write!(f, "the file {}", path.display()),
        }
    }
}

/// The largest file that is read. 4 KiB: a token or two keys have some hundred bytes.
const MAX_BYTES: u64 = 4096;
