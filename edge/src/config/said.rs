//! What a file said, to be compared with what it says later.

use std::fmt;
use std::path::PathBuf;

use super::yaml::{Entry, Value};

/// The file, and the others that it names and that are read again with it.
#[derive(Clone, Default)]
pub struct Said {
    /// The configuration file first, if there is one; then those that hold tokens.
    pub(super) files: Vec<PathBuf>,
    pub(super) entries: Vec<Entry>,
}

// Commands and their environment may hold secrets.
impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Said").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Said {
    /// The files that may change.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The keys under which `later` says something else that counts only at the next start.
    pub fn needs_start(&self, later: &Self) -> Vec<String> {
        let value = |said: &'_ Self, key: &str| {
            said.entries
                .iter()
                .find(|entry| entry.key == key)
                .map_or(Value::Null, |entry| entry.node.value.clone())
        };
        let mut keys: Vec<String> =
            self.entries.iter().chain(&later.entries).map(|entry| entry.key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.retain(|key| !LIVE.contains(&key.as_str()) && !value(self, key).says_same(&value(later, key)));
        keys
    }
}

/// What a running process takes anew.
const LIVE: &[&str] = &["servers", "prefix", "auth", "policy"];
