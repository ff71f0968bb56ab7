//! A process started ahead of its client (`--warm`), so that a server's slow start is not in a caller's way.

use std::io;

use nix::unistd::Pid;

use crate::clock::Moment;
use crate::hub::Hub;
use crate::kernel::Ending;
use crate::process::{Cause, Pipes, Process};

/// It waits for a client on its pipes; what it already writes stays in them.
pub(crate) struct Spare {
    /// The number of the connection that it will serve.
    pub(crate) number: u64,
    process: Process,
    pipes: Pipes,
    deadline: Option<Moment>,
}

impl Spare {
    /// # Errors
    /// What fork, exec or the lack of descriptors said.
    pub(crate) fn start(number: u64, hub: &mut Hub) -> io::Result<Self> {
        let (mut process, pipes) = Process::start_piped(number, hub)?;
        hub.log.event(format_args!("[{number}] started pid={} ahead", process.pid));
        process.watch_stderr(number, hub, true);
        Ok(Self { number, process, pipes, deadline: None })
    }

    pub(crate) fn pid(&self) -> Pid {
        self.process.pid
    }

    pub(crate) fn started(&self) -> Moment {
        self.process.started
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A client is there.
    pub(crate) fn take(self) -> (Process, Pipes) {
        (self.process, self.pipes)
    }

    /// Nobody will come: it has nothing to finish, so it gets the ladder's signals without the wait for its input.
    pub(crate) fn stop(&mut self, hub: &mut Hub) {
        if self.process.begin_ladder(Cause::InputEnded, hub).is_some() {
            self.next_rung(hub);
        }
    }

    /// The next signal, now.
    pub(crate) fn next_rung(&mut self, hub: &mut Hub) {
        let next = self.process.next_rung(self.number, hub);
        hub.deadlines.set(self.number, &mut self.deadline, next);
    }

    /// It has ended before anybody came, its group has been ended, and it is reaped.
    pub(crate) fn ended(mut self, how: Ending, hub: &mut Hub) {
        let number = self.number;
        hub.deadlines.set(number, &mut self.deadline, None);
        self.process.log_end(number, how, hub);
    }
}
