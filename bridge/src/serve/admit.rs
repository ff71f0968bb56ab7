//! Starts connections and processes: accept, first byte, spares, and the bounds on each.

use std::os::fd::OwnedFd;

use crate::clock::{Moment, Timer};
use crate::connection::{Connection, Peer};
use crate::poller::Interest;
use crate::spare::Spare;

use super::{Bridge, Phase, Refusals};

impl Bridge {
    pub(super) fn accept(&mut self, index: usize) {
        for _ in 0..ACCEPTS_A_TURN {
            match self.listeners.accept(index) {
                Ok(Some((socket, peer))) => self.accepted(socket, peer),
                Ok(None) => return,
                Err(error) => {
                    // EMFILE or the like: the connection stays in the backlog and would be reported again at once.
                    self.event_loop.log.event(format_args!("cannot accept: {error}"));
                    self.pause_accepting();
                    return self.end_oldest_idle(None);
                }
            }
        }
    }

    fn accepted(&mut self, socket: OwnedFd, peer: Peer) {
        self.last_number += 1;
        let number = self.last_number;
        match Connection::accepted(number, socket, peer, &mut self.event_loop) {
            Ok(connection) => drop(self.connections.insert(number, connection)),
            Err(error) => self.event_loop.log.event(format_args!("[{number}] cannot be watched: {error}")),
        }
        let idle = self.connections.values().filter(|connection| connection.is_idle()).count();
        if idle > self.event_loop.settings.max_waiting {
            self.end_oldest_idle(Some(number));
        }
    }

    /// Ends the oldest connection that has sent nothing, other than the `newest`, which is the likeliest to send something
    /// soon. Only if there is none, the oldest whose process has ended: its client may still send, and closing would then
    /// reset the connection and destroy output on its way.
    fn end_oldest_idle(&mut self, newest: Option<u64>) {
        let mut idle = self.connections.iter().filter(|(_, connection)| connection.is_idle()).peekable();
        let oldest = idle.peek().map(|(number, _)| **number);
        let silent = idle.find(|(number, connection)| connection.is_waiting() && Some(**number) != newest);
        if let Some(number) = silent.map(|(number, _)| *number).or(oldest) {
            self.end(number);
        }
    }

    fn pause_accepting(&mut self) {
        self.watch_listeners(Interest::Nothing);
        let end = Some(self.event_loop.now + ACCEPT_PAUSE);
        self.event_loop.deadlines.set(Timer::Accept, &mut self.own_deadlines.accept, end);
    }

    pub(super) fn resume_accepting(&mut self) {
        self.event_loop.deadlines.set(Timer::Accept, &mut self.own_deadlines.accept, None);
        self.watch_listeners(Interest::Input);
    }

    fn watch_listeners(&mut self, interest: Interest) {
        if let Err(error) = self.listeners.watch(&self.event_loop.poller, interest) {
            self.event_loop.log.event(format_args!("cannot watch for clients: {error}"));
        }
    }

    /// Starts a process for connection `number`, whose first byte has arrived, or closes it.
    pub(super) fn start(&mut self, number: u64) {
        if self.phase != Phase::Serving {
            return self.end(number);
        }
        if !self.spares.is_empty() {
            let spare = self.spares.remove(0);
            self.hand_over(number, spare);
            return self.fill_spares();
        }
        if self.processes() >= self.event_loop.settings.max_connections {
            return self.refuse(number, "max-connections is reached");
        }
        if !self.backoff.permits(self.event_loop.now) {
            return self.refuse(number, "the command keeps crashing");
        }
        let Some(connection) = self.connections.get_mut(&number) else { return };
        match connection.start(&mut self.event_loop) {
            Ok(()) => {
                let next = connection.after_start(&mut self.event_loop);
                self.act(number, next);
            }
            Err(error) => {
                self.start_failed(number, &error);
                self.end(number);
            }
        }
    }

    fn hand_over(&mut self, number: u64, spare: Spare) {
        let Some(connection) = self.connections.remove(&number) else { return self.spares.insert(0, spare) };
        let number = spare.number;
        let mut connection = connection.take(spare, &mut self.event_loop);
        let next = connection.after_start(&mut self.event_loop);
        self.connections.insert(number, connection);
        self.act(number, next);
    }

    /// Starts as many spares as `--warm` asks for and the bounds and the backoff allow.
    pub(super) fn fill_spares(&mut self) {
        while self.phase == Phase::Serving
            && self.spares.len() < self.event_loop.settings.warm
            && self.processes() < self.event_loop.settings.max_connections
        {
            if !self.backoff.permits(self.event_loop.now) {
                let opens = Some(self.backoff.opens_at());
                return self.event_loop.deadlines.set(Timer::Spares, &mut self.own_deadlines.spares, opens);
            }
            self.last_number += 1;
            match Spare::start(self.last_number, &mut self.event_loop) {
                Ok(spare) => self.spares.push(spare),
                Err(error) => self.start_failed(self.last_number, &error),
            }
        }
    }

    fn start_failed(&mut self, number: u64, error: &std::io::Error) {
        let command = self.event_loop.settings.command.display();
        self.event_loop.log.event(format_args!("[{number}] cannot start `{command}`: {error}"));
        self.crashed();
    }

    fn refuse(&mut self, number: u64, reason: &str) {
        self.refusals.unreported += 1;
        if self.event_loop.now >= self.refusals.silent_until {
            let count = self.refusals.unreported;
            self.event_loop
                .log
                .event(format_args!("[{number}] refused, {reason} ({count} since the last such line)"));
            self.refusals = Refusals { unreported: 0, silent_until: self.event_loop.now + REFUSALS_EVERY };
        }
        self.end(number);
    }

    pub(super) fn crashed(&mut self) {
        if let Some(pause) = self.backoff.crashed(self.event_loop.now) {
            let pause_ms = pause.as_millis();
            self.event_loop.log.event(format_args!("the command keeps crashing, no start for {pause_ms} ms"));
        }
    }

    /// The number of processes, including those that wait for a client.
    pub(super) fn processes(&self) -> usize {
        self.connections.values().filter(|connection| connection.is_running()).count() + self.spares.len()
    }
}

/// Connections accepted in one turn, so that a flood of them does not delay the others.
const ACCEPTS_A_TURN: usize = 64;
/// How long accepting pauses without descriptors: long enough not to spin, short enough not to be noticed.
const ACCEPT_PAUSE: Moment = Moment::from_millis(100);
/// How often refusals are logged, so that a client that retries fast does not fill the log.
const REFUSALS_EVERY: Moment = Moment::from_secs(1);
