//! Handles the ends of processes: kills their groups, reaps them, reads their stderr to the end, finds their orphans.

use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::backoff::QUICKLY;
use crate::clock::Moment;
use crate::connection::Connection;
use crate::kernel::{self, Ended, Ending};
use crate::poller::Interest;
use crate::process::Process;
use crate::spare::Spare;

use super::Bridge;

impl Bridge {
    /// Reaps each process that has ended, after killing its group: once it is reaped, the group's number is free.
    pub(super) fn reap(&mut self) {
        while let Some(Ended { pid, how }) = kernel::next_ended() {
            let number = self.number_of(pid);
            if let Some(process) = number.and_then(|number| self.process(number)) {
                process.signal_group(Signal::SIGKILL);
            }
            // The status is known already; nix fails to parse it for real-time signals, but reaps all the same.
            let _ = waitpid(pid, None);
            if let Some(number) = number {
                self.process_ended(number, how);
            }
        }
        let is_ours = |pid| self.number_of(pid).is_some();
        let is_live = |number| {
            self.connections.get(&number).is_some_and(Connection::is_running)
                || self.spares.iter().any(|spare| spare.number == number)
        };
        let sweep = self.event_loop.nonce.sweep(is_ours, is_live);
        for (pid, number) in &sweep.killed {
            self.event_loop.log.event(format_args!("[{number}] ended orphan pid={pid}"));
        }
        self.exiting_orphans = sweep.killed.len() + sweep.exiting;
        self.fill_spares();
    }

    fn number_of(&self, pid: Pid) -> Option<u64> {
        let spare = self.spares.iter().find(|spare| spare.pid() == pid).map(|spare| spare.number);
        spare
            .or_else(|| self.connections.iter().find(|(_, connection)| connection.runs(pid)).map(|(n, _)| *n))
    }

    fn process(&mut self, number: u64) -> Option<&mut Process> {
        if let Some(spare) = self.spares.iter_mut().find(|spare| spare.number == number) {
            return Some(spare.process());
        }
        self.connections.get_mut(&number)?.process()
    }

    fn process_ended(&mut self, number: u64, how: Ending) {
        if let Some(at) = self.spares.iter().position(|spare| spare.number == number) {
            let spare = self.spares.remove(at);
            // It was not asked to stop, so it counts like a crash, whatever its status. A running process excuses
            // nothing here: the bridge starts the next spare by itself, and must not do so in a tight loop.
            if self.is_quick(spare.started()) {
                self.crashed();
            } else {
                self.backoff.works();
            }
            return spare.ended(how, &mut self.event_loop);
        }
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let Some(process) = connection.process() else { return };
        let (started, failed) = (process.started, how != Ending::Status(0) && !process.was_asked_to_leave());
        let next = connection.process_ended(how, &mut self.event_loop);
        if !failed || !self.is_quick(started) {
            self.backoff.works();
        } else if !self.is_command_proven() {
            self.crashed();
        } // else it proves nothing: what spares have crashed meanwhile still counts
        self.act(number, next);
    }

    fn is_quick(&self, started: Moment) -> bool {
        self.event_loop.now.saturating_sub(started) < QUICKLY
    }

    /// Whether a client is served by a process that has lived: then the command works, and a process that crashes next to
    /// it may have been crashed by its own client, for which no other client should have to wait.
    fn is_command_proven(&self) -> bool {
        self.connections.values().filter_map(Connection::running_since).any(|started| !self.is_quick(started))
    }

    pub(super) fn read_stderr(&mut self, number: u64) {
        let has_room = !self.event_loop.log.is_full();
        let Self { connections, spares, event_loop, .. } = self;
        let spare = spares.iter_mut().find(|spare| spare.number == number).map(Spare::process);
        let Some(process) = spare.or_else(|| connections.get_mut(&number)?.process()) else { return };
        if has_room {
            process.read_stderr(number, event_loop);
        } else {
            process.watch_stderr(number, event_loop, Interest::Nothing);
            self.stderr_waits = true;
        }
    }

    pub(super) fn resume_stderr(&mut self) {
        if !self.stderr_waits || self.event_loop.log.is_full() {
            return;
        }
        self.stderr_waits = false;
        let Self { connections, spares, event_loop, .. } = self;
        for (number, connection) in connections {
            if let Some(process) = connection.process() {
                process.watch_stderr(*number, event_loop, Interest::Input);
            }
        }
        for spare in spares {
            let number = spare.number;
            spare.process().watch_stderr(number, event_loop, Interest::Input);
        }
    }
}
