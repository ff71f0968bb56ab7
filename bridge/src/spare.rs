//! A process started ahead of its client (`--warm`), so that a server's slow start does not delay callers.

use std::io;

use nix::unistd::Pid;

use crate::clock::{Moment, Timer};
use crate::event_loop::EventLoop;
use crate::kernel::Ending;
use crate::poller::Interest;
use crate::process::{Cause, Pipes, Process};

/// A process that waits for a client. What it already writes stays in its pipes.
pub(crate) struct Spare {
    /// The number of the connection that it will serve.
    pub(crate) number: u64,
    process: Process,
    pipes: Pipes,
    deadline: Option<Moment>,
}

impl Spare {
    /// # Errors
    /// fork or exec failed, or descriptors have run out.
    pub(crate) fn start(number: u64, event_loop: &mut EventLoop) -> io::Result<Self> {
        let (mut process, pipes) = Process::start_piped(number, event_loop)?;
        event_loop.log.event(format_args!("[{number}] started pid={} ahead", process.pid));
        process.watch_stderr(number, event_loop, Interest::Input);
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

    /// Hands the process to a client's connection.
    pub(crate) fn take(self) -> (Process, Pipes) {
        (self.process, self.pipes)
    }

    /// Stops it. It has nothing to finish, so the ladder starts with SIGTERM at once.
    pub(crate) fn stop(&mut self, event_loop: &mut EventLoop) {
        if self.process.begin_ladder(Cause::InputEnded, event_loop).is_some() {
            self.next_rung(event_loop);
        }
    }

    /// Sends the ladder's next signal.
    pub(crate) fn next_rung(&mut self, event_loop: &mut EventLoop) {
        let next = self.process.next_rung(self.number, event_loop);
        event_loop.deadlines.set(Timer::Connection(self.number), &mut self.deadline, next);
    }

    /// Logs its end. The process has ended before a client came, and is reaped together with its group.
    pub(crate) fn ended(mut self, how: Ending, event_loop: &mut EventLoop) {
        let number = self.number;
        event_loop.deadlines.set(Timer::Connection(number), &mut self.deadline, None);
        self.process.log_end(number, how, event_loop);
    }
}
