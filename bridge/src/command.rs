//! Checks at start that the command can run, so that a typo is reported before a client connects.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::failure::Failure;

/// Looks `command` up the way execvp(3) will.
///
/// # Errors
/// Not found (127) or not executable (126); the message names the command.
pub(crate) fn verify(command: &OsStr) -> Result<(), Failure> {
    let name = Path::new(command).display();
    let candidates = candidates(command);
    if candidates.iter().any(|path| is_executable(path)) {
        return Ok(());
    }
    match candidates.iter().find(|path| path.exists()) {
        Some(path) if path.is_dir() => {
            Err(Failure::not_executable(format!("cannot run `{name}`: {} is a directory", path.display())))
        }
        Some(path) => Err(Failure::not_executable(format!(
            "cannot run `{name}`: {} is not executable by this user",
            path.display()
        ))),
        None if has_slash(command) => {
            Err(Failure::not_found(format!("cannot run `{name}`: there is no such file")))
        }
        None => Err(Failure::not_found(format!("cannot run `{name}`: it is in no directory of PATH"))),
    }
}

fn candidates(command: &OsStr) -> Vec<PathBuf> {
    if has_slash(command) {
        return vec![PathBuf::from(command)];
    }
    // exec(3): without PATH the C library searches these two.
    let path = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    env::split_paths(&path).map(|directory| directory.join(command)).collect()
}

fn has_slash(command: &OsStr) -> bool {
    command.as_bytes().contains(&b'/')
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file()) && access(path, AccessFlags::X_OK).is_ok()
}
