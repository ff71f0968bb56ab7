//! The official clients and servers in `testkit/real`, which `make real-deps` brings there.

use std::path::PathBuf;

use crate::process::workspace;

/// Where they are.
pub fn directory() -> PathBuf {
    workspace().join("testkit/real")
}

/// One file of theirs.
///
/// # Panics
/// The part is missing; the message names the command that installs it.
pub fn part(name: &str) -> String {
    let path = directory().join(name);
    assert!(path.exists(), "{} is missing; run `make real-deps` first", path.display());
    path.display().to_string()
}

/// The entry of an npm server, for `node`.
pub fn server(name: &str) -> String {
    part(&format!("node_modules/@modelcontextprotocol/server-{name}/dist/index.js"))
}

/// A Node of version 22, which some parts need; where npm has no program for this machine, the one of the system
/// has to be.
pub fn node() -> String {
    let machine = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "x64" };
    let ours = directory().join(format!("node_modules/node-linux-{machine}/bin/node"));
    if ours.exists() { ours.display().to_string() } else { "node".to_owned() }
}
