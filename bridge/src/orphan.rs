//! Descendants that left their process's group, found again.
//!
//! The bridge is a subreaper, so whoever loses his parent becomes a child of the bridge, and the environment still
//! says which connection he belongs to. When that connection has no process any more, he is ended. Others (what
//! `kubectl exec` leaves behind in a container whose PID 1 is the bridge) are left alone and reaped when they end.

use std::fs;
use std::io;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, gettid};

/// Marks the descendants of this bridge's connections.
pub(crate) struct Nonce {
    prefix: String,
}

impl Nonce {
    /// The variable that carries the mark.
    pub(crate) const VARIABLE: &str = "DOCKER_MCP_BRIDGE_CONN";

    /// A mark no other bridge has, were it in the same container or in an earlier life of the same pid.
    pub(crate) fn new() -> Self {
        let boot = crate::clock::now().as_nanos();
        Self { prefix: format!("{}-{boot:x}", std::process::id()) }
    }

    /// The mark of one connection.
    pub(crate) fn mark(&self, connection: u64) -> String {
        format!("{}.{connection}", self.prefix)
    }

    /// The connection `pid` was started for; `None` if it was not started by this bridge or has ended.
    fn connection_of(&self, pid: Pid) -> Option<u64> {
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        environment.split(|byte| *byte == 0).find_map(|variable| {
            let mark = std::str::from_utf8(variable).ok()?.strip_prefix(Self::VARIABLE)?.strip_prefix('=')?;
            mark.strip_prefix(self.prefix.as_str())?.strip_prefix('.')?.parse().ok()
        })
    }

    /// Ends every adopted process whose connection has none any more. `is_ours` knows the processes that belong to
    /// connections, `is_live` the connections that have one. Returns whom it ended.
    pub(crate) fn sweep(
        &self,
        is_ours: impl Fn(Pid) -> bool,
        is_live: impl Fn(u64) -> bool,
    ) -> Vec<(Pid, u64)> {
        let mut ended = Vec::new();
        for pid in children().unwrap_or_default() {
            if is_ours(pid) {
                continue;
            }
            if let Some(connection) = self.connection_of(pid).filter(|connection| !is_live(*connection)) {
                // A child that only we can reap: its pid cannot have become somebody else's since.
                if kill(pid, Signal::SIGKILL).is_ok() {
                    ended.push((pid, connection));
                }
            }
        }
        ended
    }
}

/// The bridge's children, adopted ones included.
fn children() -> io::Result<Vec<Pid>> {
    match fs::read_to_string(format!("/proc/self/task/{}/children", gettid())) {
        Ok(list) => Ok(list.split_ascii_whitespace().filter_map(parse_pid).collect()),
        // Kernels built without CONFIG_PROC_CHILDREN (micro VMs): ask every process who its parent is.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let everybody = fs::read_dir("/proc")?.flatten();
            Ok(everybody
                .filter_map(|entry| parse_pid(entry.file_name().to_str()?))
                .filter(|pid| is_child(*pid))
                .collect())
        }
        Err(error) => Err(error),
    }
}

fn parse_pid(text: &str) -> Option<Pid> {
    text.parse().ok().map(Pid::from_raw)
}

fn is_child(pid: Pid) -> bool {
    // proc(5), /proc/pid/stat: `pid (name) state ppid …`, and the name may hold anything, parentheses too.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1));
    parent.and_then(parse_pid) == Some(Pid::this())
}
