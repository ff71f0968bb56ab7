//! Finds descendants that left their process's group.
//!
//! The bridge is a subreaper, so a descendant that loses its parent becomes a child of the bridge, and its environment still
//! names the connection that it belongs to. Once that connection has no process any more, the orphan is killed. Other
//! children (such as what `kubectl exec` leaves behind in a container whose PID 1 is the bridge) are only reaped.

use std::fs;
use std::io;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, gettid};

/// The value that marks the descendants of this bridge's connections in their environment.
pub(crate) struct Nonce {
    prefix: String,
}

impl Nonce {
    /// The variable that carries the mark.
    pub(crate) const VARIABLE: &str = "DOCKER_MCP_BRIDGE_CONN";

    /// A mark that no other bridge has, not even one in the same container, or an earlier one with the same pid.
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

    /// Sends SIGKILL to every adopted process whose connection has no process any more. `is_ours` says whether a process
    /// is the one of a connection, `is_live` whether a connection has one.
    pub(crate) fn sweep(&self, is_ours: impl Fn(Pid) -> bool, is_live: impl Fn(u64) -> bool) -> Sweep {
        let mut sweep = Sweep::default();
        for pid in children().unwrap_or_default() {
            if is_ours(pid) {
                continue;
            }
            match self.connection_of(pid) {
                Some(connection) if is_live(connection) => {}
                // A child that only we can reap: its pid cannot have become somebody else's since.
                Some(connection) if kill(pid, Signal::SIGKILL).is_ok() => {
                    sweep.killed.push((pid, connection));
                }
                Some(_) => {}
                // A process loses its environment before it hands its children on.
                None if is_exiting(pid) => sweep.exiting += 1,
                None => {}
            }
        }
        sweep
    }
}

/// What a sweep of the bridge's children found. A later one may find more while some are on their way out: their own
/// children are handed on to the bridge only when they end.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    /// Pid and connection of those that were sent SIGKILL.
    pub(crate) killed: Vec<(Pid, u64)>,
    /// How many others are exiting, or have ended and are not reaped yet.
    pub(crate) exiting: usize,
}

/// The bridge's children, adopted ones included.
fn children() -> io::Result<Vec<Pid>> {
    match fs::read_to_string(format!("/proc/self/task/{}/children", gettid())) {
        Ok(list) => Ok(list.split_ascii_whitespace().filter_map(parse_pid).collect()),
        // Kernels built without CONFIG_PROC_CHILDREN (micro VMs): look at the parent of every process.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let processes = fs::read_dir("/proc")?.flatten();
            Ok(processes
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
    stat_field(pid, 1).as_deref().and_then(parse_pid) == Some(Pid::this())
}

fn is_exiting(pid: Pid) -> bool {
    stat_field(pid, 6).and_then(|flags| flags.parse().ok()).is_some_and(|flags: u32| flags & PF_EXITING != 0)
}

/// A field of /proc/pid/stat, counted from the process's state (proc(5): `pid (name) state ppid …`). The name may hold
/// anything, parentheses too.
fn stat_field(pid: Pid, index: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(index).map(str::to_owned)
}

/// The kernel's `include/linux/sched.h`; zombies keep it.
const PF_EXITING: u32 = 0x4;
