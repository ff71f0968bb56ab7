//! Whether files changed since somebody looked: certificates and configuration are taken anew then.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// What changes when a file is written, or a mount swaps the symlink that leads to it. Nothing, while it cannot be found.
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
    /// Looks at a file. Blocks for as long as the file system takes.
    pub fn of(path: &Path) -> Self {
        Self(fs::metadata(path).ok().map(|found| Found {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        }))
    }
}

/// How often files are looked at. 5 s: the kubelet takes up to a minute to update a mounted Secret or ConfigMap, so
/// nothing is won by haste, and a few `stat` calls cost nothing.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
