//! Detects changed files, for reloading certificates and configuration.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// The state of a file, which changes when the file is written or a mount swaps the symlink to it. Empty while there is no
/// file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(Option<Found>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Fingerprint {
    /// Reads the state of a file. Blocks as long as the file system takes.
    pub fn of(path: &Path) -> Self {
        Self(fs::metadata(path).ok().map(|found| Found {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        }))
    }
}

/// How often files are checked. 5 s: the kubelet takes up to a minute to update a mounted Secret or ConfigMap, so checking
/// more often gains nothing, and a few `stat` calls cost nothing.
pub const CHECK_EVERY: Duration = Duration::from_secs(5);
