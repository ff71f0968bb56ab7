//! What processes have used: CPU time, memory, and how often they were put to sleep.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

/// Some processes and all that they started, without the stdio servers: those are not what is measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Family(Vec<u32>);

/// What a family has used so far.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    /// Times a thread gave up its core because it had to wait.
    pub(crate) waits: u64,
    /// Resident memory, pages that several processes share divided by their number.
    pub(crate) memory_kib: u64,
}

impl Family {
    pub(crate) fn new(roots: impl IntoIterator<Item = u32>) -> Family {
        Family(roots.into_iter().collect())
    }

    /// Both together.
    pub(crate) fn and(&self, other: &Family) -> Family {
        Family(self.0.iter().chain(&other.0).copied().collect())
    }

    pub(crate) fn usage(&self) -> Usage {
        self.members().into_iter().fold(Usage::default(), |sum, pid| {
            let own = usage(pid);
            Usage {
                cpu: sum.cpu + own.cpu,
                waits: sum.waits + own.waits,
                memory_kib: sum.memory_kib + own.memory_kib,
            }
        })
    }

    /// Open files, sockets and pipes.
    pub(crate) fn open_files(&self) -> usize {
        self.members()
            .into_iter()
            .map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count))
            .sum()
    }

    fn members(&self) -> BTreeSet<u32> {
        let server = std::env::current_exe().ok();
        let mut members: BTreeSet<u32> = BTreeSet::new();
        let mut left = self.0.clone();
        while let Some(pid) = left.pop() {
            let is_server = fs::read_link(format!("/proc/{pid}/exe")).ok() == server
                && fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| is_server(&line));
            if !is_server && members.insert(pid) {
                left.extend(tasks(pid).iter().flat_map(|task| children(task)));
            }
        }
        members
    }
}

fn is_server(command_line: &[u8]) -> bool {
    command_line.split(|byte| *byte == 0).nth(1) == Some(b"server")
}

fn tasks(pid: u32) -> Vec<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.map(|task| task.path()).collect()
}

fn children(task: &std::path::Path) -> Vec<u32> {
    let children = fs::read_to_string(task.join("children")).unwrap_or_default();
    children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Of a process that has ended: nothing.
fn usage(pid: u32) -> Usage {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // proc(5): the name may hold spaces, so fields are counted from its closing parenthesis; utime is the
    // 12th after it and stime the 13th.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let waits = tasks(pid).into_iter().map(|task| {
        let status = fs::read_to_string(task.join("status")).unwrap_or_default();
        field(&status, "voluntary_ctxt_switches:")
    });
    let memory = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    Usage {
        cpu: Duration::from_millis(ticks * TICK_MS),
        waits: waits.sum(),
        memory_kib: field(&memory, "Pss:"),
    }
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

/// `sysconf(_SC_CLK_TCK)` is 100 on every Linux that matters here.
const TICK_MS: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_servers_by_their_command_line() {
        assert!(is_server(b"/target/release/bench\0server\0--era\0"));
        assert!(!is_server(b"/target/release/bench\0bare\0"));
    }

    #[test]
    fn a_process_uses_something() {
        let usage = Family::new([std::process::id()]).usage();
        assert!(usage.memory_kib > 0);
    }
}
