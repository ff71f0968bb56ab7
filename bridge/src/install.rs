//! `--install DIR`: the running binary copies itself, because a `scratch` image has no `cp`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::failure::Failure;

/// Copies the running binary to `directory/docker-mcp-bridge`; the last step is a rename, so an incomplete copy is never run.
///
/// # Errors
/// A sentence with the path that could not be written.
pub(crate) fn install(directory: &Path) -> Result<(), Failure> {
    let target = directory.join(NAME);
    // Containers of one pod may install into the same volume at the same time.
    let partial = directory.join(format!(".{NAME}.{}", std::process::id()));
    fs::create_dir_all(directory)
        .and_then(|()| fs::copy(RUNNING_BINARY, &partial))
        .and_then(|_| fs::set_permissions(&partial, Permissions::from_mode(EVERYBODY_MAY_RUN_IT)))
        .and_then(|()| fs::rename(&partial, &target))
        .map_err(|error| {
            // The error to report is why the copy failed, not that a leftover cannot be removed.
            let _ = fs::remove_file(&partial);
            Failure::runtime(format!("cannot install to {}: {error}", target.display()))
        })
}

const NAME: &str = "docker-mcp-bridge";
/// proc(5): resolves to the executable even if its file was replaced or removed since.
const RUNNING_BINARY: &str = "/proc/self/exe";
const EVERYBODY_MAY_RUN_IT: u32 = 0o755;
