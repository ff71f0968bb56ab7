//! Where a secret is: in a variable or in a file. It is never in the configuration itself.

use std::fmt;
use std::path::PathBuf;

use super::file::{beside, load};
use super::reader::{At, Key, Reader};

/// See the module.
#[derive(Clone, Debug)]
pub(super) enum Holder {
    Variable(String),
    File(PathBuf),
}

/// What may say where it is; exactly one of them does.
pub(super) const HOLDER: &[Key<Vec<Holder>>] = &[
    ("env", |r, at, holders| holders.extend(r.text(at).map(Holder::Variable))),
    ("file", |r, at, holders| holders.extend(r.text(at).map(|path| Holder::File(beside(r.file, &path))))),
];

/// The one that was named. If `nothing` was wrong before, a problem says that `what` has to be somewhere.
pub(super) fn only(
    r: &mut Reader<'_>,
    at: &At<'_>,
    (mut holders, what, nothing): (Vec<Holder>, &str, bool),
) -> Option<Holder> {
    match (holders.pop(), holders.is_empty()) {
        (Some(holder), true) => Some(holder),
        _ if !nothing => None, // said already
        _ => {
            r.problem(at, format!("either `env` or `file` must say where the {what} is"));
            None
        }
    }
}

impl Holder {
    /// `None`: it is not there, or empty.
    pub(super) fn text(&self, env: impl Fn(&str) -> Option<String>) -> Result<Option<String>, String> {
        let text = match self {
            Self::Variable(name) => env(name),
            Self::File(path) => {
                Some(load(path, MAX_BYTES).map_err(|error| format!("cannot be read: {error}"))?)
            }
        };
        Ok(text.filter(|text| !text.trim().is_empty()))
    }

    /// The variable that holds it, if one does.
    pub(super) fn variable(&self) -> Option<&str> {
        match self {
            Self::Variable(name) => Some(name),
            Self::File(_) => None,
        }
    }

    /// The file that holds it, if one does.
    pub(super) fn file(&self) -> Option<&PathBuf> {
        match self {
            Self::Variable(_) => None,
            Self::File(path) => Some(path),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "the variable {name}"),
            Self::File(path) => write!(f, "the file {}", path.display()),
        }
    }
}

/// A token or two keys are a hundred bytes; more than this is some other file.
const MAX_BYTES: u64 = 4096;
