//! What a configuration file contained, to be compared with what it contains later.

use std::fmt;
use std::path::PathBuf;

use super::yaml::{Entry, Value};

/// The contents of the configuration file, and the files that are read again with it.
#[derive(Clone, Default)]
pub struct FileSnapshot {
    /// The configuration file first, if there is one; then the files that it names for tokens and keys.
    pub(super) files: Vec<PathBuf>,
    pub(super) entries: Vec<Entry>,
}

// Commands and their environment may hold secrets.
impl fmt::Debug for FileSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSnapshot").field("files", &self.files).finish_non_exhaustive()
    }
}

impl FileSnapshot {
    /// The files to watch.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The keys whose values differ in `later` and take effect only at the next start.
    pub fn restart_only_changes(&self, later: &Self) -> Vec<String> {
        let value = |snapshot: &'_ Self, key: &str| {
            snapshot
                .entries
                .iter()
                .find(|entry| entry.key == key)
                .map_or(Value::Null, |entry| entry.node.value.clone())
        };
        let mut keys: Vec<String> =
            self.entries.iter().chain(&later.entries).map(|entry| entry.key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.retain(|key| {
            !LIVE.contains(&key.as_str()) && !value(self, key).has_same_contents(&value(later, key))
        });
        keys
    }
}

/// The keys that a running process reloads.
const LIVE: &[&str] = &["servers", "prefix", "auth", "policy"];
