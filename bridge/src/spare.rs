//! A process started ahead of its client (`--warm`), so that a server's slow start is not in a caller's way.

use std::io;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::clock::Moment;
use crate::hub::Hub;
use crate::kernel::Ending;
use crate::process::{Pipes, Process};

/// It waits for a client on its pipes; what it already writes stays in them.
pub(crate) struct Spare {
    /// The number of the connection that it will serve.
    pub(crate) number: u64,
    process: Process,
    pipes: Pipes,
}

impl Spare {
    /// # Errors
    /// What fork, exec or the lack of descriptors said.
    pub(crate) fn start(number: u64, hub: &mut Hub) -> io::Result<Self> {
        let (mut process, pipes) = Process::start_piped(number, hub)?;
        hub.log.event(format_args!("[{number}] started pid={} ahead", process.pid));
        process.watch_stderr(number, hub, true);
        Ok(Self { number, process, pipes })
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
    pub(crate) fn stop(&self, signal: Signal) {
        self.process.signal_group(signal);
    }

    /// It has ended before anybody came, its group has been ended, and it is reaped.
    pub(crate) fn ended(self, how: Ending, hub: &mut Hub) {
        let number = self.number;
        self.process.log_end(number, how, hub);
    }
}
