//! One connection from accept to close. It owns the socket and, from the first byte on, the process.
//!
//! It knows nothing of the other connections: what the table of connections must do, it returns as a [`Next`].

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use nix::unistd::Pid;

use crate::args::DataPath;
use crate::clock::{Moment, Timer};
use crate::event_loop::EventLoop;
use crate::kernel::Ending;
use crate::poller::{Interest, Token, Watch};
use crate::process::{Cause, Process, is_transient};
use crate::pump::{Output, Pump, receive};
use crate::spare::Spare;

/// One client's connection.
pub(crate) struct Connection {
    number: u64,
    peer: Peer,
    socket: OwnedFd,
    client: Client,
    watch: Watch,
    stage: Stage,
    deadline: Option<Moment>,
}

/// The connection's state.
///
/// ```text
/// Waiting ──first byte──▶ Running ──process ends──▶ Flushing ──all taken, FIN──▶ Lingering ──client closes, 5 s──▶ gone
///    └──closed, timeout──▶ gone      (hand-off: the kernel holds the output) ──────▲
/// ```
enum Stage {
    /// The client has sent nothing; there is no process.
    Waiting,
    Running(Process, DataPlane),
    /// The process has ended; the pump still delivers its output.
    Flushing(Pump),
    /// All output and our FIN are sent. The client's remaining input is discarded, because closing a socket with unread input
    /// resets the connection, and a reset destroys output on its way (RFC 9293 §3.10.4; RFC 2525 §2.17).
    Lingering,
}

enum DataPlane {
    Handoff,
    Pipe(Pump),
}

/// The client's side of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Talking,
    /// It has sent FIN: no more input comes, but it may still read.
    Finished,
    /// Reset, timed out, or closed in both directions: it reads nothing any more. What it sent before may still be in the
    /// socket. Unix-socket clients always end like this, because there is no FIN.
    Gone,
}

/// What the table of connections must do.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Stay,
    /// Start its process: the first byte has arrived.
    Start,
    /// Close it.
    End,
}

/// The client's address.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Peer {
    Tcp(SocketAddr),
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

impl Connection {
    /// Waits for the first byte on an accepted socket.
    ///
    /// # Errors
    /// The kernel's error when asked to watch the socket.
    pub(crate) fn accepted(
        number: u64,
        socket: OwnedFd,
        peer: Peer,
        event_loop: &mut EventLoop,
    ) -> nix::Result<Self> {
        let (watch, stage, client) = (Watch::default(), Stage::Waiting, Client::Talking);
        let mut connection = Self { number, peer, socket, client, watch, stage, deadline: None };
        connection.watch_descriptors(event_loop)?;
        connection.set_deadline(event_loop, Some(event_loop.now + event_loop.settings.first_byte_timeout));
        Ok(connection)
    }

    /// Whether it has no process: the client has sent nothing yet, or has been sent everything.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Waiting | Stage::Lingering)
    }

    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting)
    }

    /// Whether it runs the process `pid`.
    pub(crate) fn runs(&self, pid: Pid) -> bool {
        matches!(&self.stage, Stage::Running(process, _) if process.pid == pid)
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running(..))
    }

    /// When its process was started, if it still runs.
    pub(crate) fn running_since(&self) -> Option<Moment> {
        match &self.stage {
            Stage::Running(process, _) => Some(process.started),
            _ => None,
        }
    }

    pub(crate) fn process(&mut self) -> Option<&mut Process> {
        match &mut self.stage {
            Stage::Running(process, _) => Some(process),
            _ => None,
        }
    }

    /// Handles an event of the client's socket.
    pub(crate) fn on_client(&mut self, events: EpollFlags, event_loop: &mut EventLoop) -> Next {
        if events.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            self.client = Client::Gone;
        } else if events.contains(EpollFlags::EPOLLRDHUP) && self.client == Client::Talking {
            self.client = Client::Finished;
        }
        match &mut self.stage {
            Stage::Waiting => self.first_byte(),
            Stage::Running(_, DataPlane::Handoff) => {
                self.stop_if_client_left(event_loop);
                self.rewatch(event_loop)
            }
            Stage::Running(_, DataPlane::Pipe(pump)) => {
                if self.client == Client::Gone {
                    pump.give_up_client();
                    pump.pull_rest(&self.socket, event_loop);
                } else {
                    pump.push_output(&self.socket);
                    pump.pull_input(&self.socket, event_loop);
                }
                self.stop_if_client_left(event_loop);
                self.rewatch(event_loop)
            }
            Stage::Flushing(_) => self.flush(event_loop),
            Stage::Lingering => self.discard_input(event_loop),
        }
    }

    /// Handles room in the process's stdin.
    pub(crate) fn on_stdin(&mut self, event_loop: &mut EventLoop) -> Next {
        if let Stage::Running(_, DataPlane::Pipe(pump)) = &mut self.stage {
            pump.push_input(event_loop);
            if self.client == Client::Gone {
                // Its socket is no longer watched.
                pump.pull_rest(&self.socket, event_loop);
            }
        }
        self.rewatch(event_loop)
    }

    /// Handles output of the process, or the end of its stdout.
    pub(crate) fn on_stdout(&mut self, event_loop: &mut EventLoop) -> Next {
        if let Stage::Running(process, DataPlane::Pipe(pump)) = &mut self.stage
            && pump.pull_output(&self.socket, event_loop) == Output::Ended
        {
            // It can never answer again: the client is notified now, and the process has to stop.
            finish_sending(&self.socket);
            pump.close_stdin(event_loop);
            let deadline = process.begin_ladder(Cause::OutputEnded, event_loop);
            self.set_ladder_deadline(event_loop, deadline);
        }
        self.rewatch(event_loop)
    }

    /// Handles the passing of its deadline.
    pub(crate) fn on_deadline(&mut self, event_loop: &mut EventLoop) -> Next {
        let number = self.number;
        match &mut self.stage {
            Stage::Running(process, _) => {
                let deadline = process.next_rung(number, event_loop);
                self.set_deadline(event_loop, deadline);
                Next::Stay
            }
            Stage::Waiting | Stage::Flushing(_) | Stage::Lingering => Next::End,
        }
    }

    /// Starts its process.
    ///
    /// # Errors
    /// fork or exec failed, or descriptors have run out.
    pub(crate) fn start(&mut self, event_loop: &mut EventLoop) -> io::Result<()> {
        let number = self.number;
        let (mut process, plane) = match event_loop.settings.data_path {
            DataPath::Handoff => (Process::start_on(&self.socket, number, event_loop)?, DataPlane::Handoff),
            DataPath::Pipe => {
                let (process, pipes) = Process::start_piped(number, event_loop)?;
                (process, DataPlane::Pipe(Pump::new(pipes)))
            }
        };
        event_loop.log.event(format_args!("[{number}] started pid={} peer={}", process.pid, self.peer));
        process.watch_stderr(number, event_loop, Interest::Input);
        self.stage = Stage::Running(process, plane);
        self.set_deadline(event_loop, None);
        Ok(())
    }

    /// Takes over a spare's process, and its number: the process's environment carries that number.
    pub(crate) fn take(mut self, spare: Spare, event_loop: &mut EventLoop) -> Self {
        self.set_deadline(event_loop, None);
        // Removing a registration cannot fail.
        let _ = event_loop.poller.set(&mut self.watch, &self.socket, Token::Client(self.number), None);
        self.number = spare.number;
        let (process, pipes) = spare.take();
        event_loop.log.event(format_args!("[{}] taken pid={} peer={}", self.number, process.pid, self.peer));
        self.stage = Stage::Running(process, DataPlane::Pipe(Pump::new(pipes)));
        self
    }

    /// Handles what the client did before the process had started.
    pub(crate) fn after_start(&mut self, event_loop: &mut EventLoop) -> Next {
        self.on_client(EpollFlags::empty(), event_loop)
    }

    /// Handles the end of its process, which is reaped, and its group killed.
    pub(crate) fn process_ended(&mut self, how: Ending, event_loop: &mut EventLoop) -> Next {
        let (process, plane) = match std::mem::replace(&mut self.stage, Stage::Lingering) {
            Stage::Running(process, plane) => (process, plane),
            other => {
                self.stage = other;
                return Next::Stay;
            }
        };
        process.log_end(self.number, how, event_loop);
        self.set_deadline(event_loop, None);
        match plane {
            DataPlane::Handoff => self.linger(event_loop),
            DataPlane::Pipe(mut pump) => {
                pump.process_ended(event_loop);
                self.stage = Stage::Flushing(pump);
                self.set_deadline(event_loop, Some(event_loop.now + event_loop.settings.client_timeout));
                self.flush(event_loop)
            }
        }
    }

    /// Ends the process's input, because the bridge stops.
    pub(crate) fn stop(&mut self, event_loop: &mut EventLoop) {
        if let Stage::Running(process, plane) = &mut self.stage {
            match plane {
                // To the process this is an ordinary end of file.
                DataPlane::Handoff => drop(shutdown(self.socket.as_raw_fd(), Shutdown::Read)),
                DataPlane::Pipe(pump) => pump.close_stdin(event_loop),
            }
            let deadline = process.begin_ladder(Cause::InputEnded, event_loop);
            self.set_ladder_deadline(event_loop, deadline);
        }
    }

    /// Closes the connection. The process must not run any more.
    pub(crate) fn close(mut self, event_loop: &mut EventLoop) {
        self.set_deadline(event_loop, None);
        if self.client == Client::Talking && self.is_waiting() {
            // What a refused client has already sent is read, so that it gets an end of file and not a reset.
            let _ = receive(&self.socket, &mut event_loop.scratch);
        }
        // An error does not matter: the socket is closed next.
        let _ = event_loop.poller.set(&mut self.watch, &self.socket, Token::Client(self.number), None);
        // A grandchild that left the group may still hold the socket; the client's connection must end all the same.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }

    fn first_byte(&self) -> Next {
        match recv(self.socket.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Next::End,
            Ok(_) => Next::Start,
            Err(error) if is_transient(&error.into()) && self.client != Client::Gone => Next::Stay,
            Err(_) => Next::End,
        }
    }

    fn stop_if_client_left(&mut self, event_loop: &mut EventLoop) {
        if self.client == Client::Talking {
            return;
        }
        if let Stage::Running(process, _) = &mut self.stage {
            let deadline = process.begin_ladder(Cause::InputEnded, event_loop);
            self.set_ladder_deadline(event_loop, deadline);
        }
    }

    /// Delivers what the ended process left in its pipe, then sends FIN.
    fn flush(&mut self, event_loop: &mut EventLoop) -> Next {
        let Stage::Flushing(pump) = &mut self.stage else { return Next::Stay };
        if self.client == Client::Gone {
            return Next::End;
        }
        pump.push_output(&self.socket);
        loop {
            match pump.pull_output(&self.socket, event_loop) {
                Output::Moved => {}
                Output::Blocked => {
                    self.set_deadline(event_loop, Some(event_loop.now + event_loop.settings.client_timeout));
                    return self.rewatch(event_loop);
                }
                // A grandchild that left the group may hold the other end, so an empty pipe counts as its end.
                Output::Empty | Output::Ended => return self.linger(event_loop),
            }
        }
    }

    fn linger(&mut self, event_loop: &mut EventLoop) -> Next {
        self.stage = Stage::Lingering;
        if self.client == Client::Gone {
            return Next::End;
        }
        finish_sending(&self.socket);
        self.set_deadline(event_loop, Some(event_loop.now + LINGER));
        match self.rewatch(event_loop) {
            Next::Stay => self.discard_input(event_loop),
            next => next,
        }
    }

    fn discard_input(&mut self, event_loop: &mut EventLoop) -> Next {
        match receive(&self.socket, &mut event_loop.scratch) {
            Ok(0) => Next::End,
            Ok(_) => Next::Stay,
            Err(error) if error.kind() == ErrorKind::WouldBlock && self.client != Client::Gone => Next::Stay,
            Err(error) if error.kind() == ErrorKind::Interrupted => Next::Stay,
            Err(_) => Next::End,
        }
    }

    fn rewatch(&mut self, event_loop: &mut EventLoop) -> Next {
        if let Err(error) = self.watch_descriptors(event_loop) {
            // Without events of the client or the process it would hang, so the process is stopped.
            event_loop.log.event(format_args!("[{}] cannot be watched: {error}", self.number));
            self.client = Client::Gone;
            if let Stage::Running(_, DataPlane::Pipe(pump)) = &mut self.stage {
                pump.close_stdin(event_loop);
            }
            self.stop_if_client_left(event_loop);
            return if self.process().is_some() { Next::Stay } else { Next::End };
        }
        Next::Stay
    }

    fn watch_descriptors(&mut self, event_loop: &EventLoop) -> nix::Result<()> {
        // epoll reports errors and hang-ups whatever is asked for, and again each turn; so a gone client is not watched.
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLRDHUP, self.client == Client::Talking);
        match &mut self.stage {
            Stage::Waiting | Stage::Lingering => flags |= EpollFlags::EPOLLIN,
            Stage::Running(_, DataPlane::Handoff) => {}
            Stage::Running(_, DataPlane::Pipe(pump)) => {
                pump.watch_pipes(self.number, event_loop)?;
                flags |= pump.client_interest();
            }
            Stage::Flushing(_) => flags |= EpollFlags::EPOLLOUT,
        }
        let wanted = (self.client != Client::Gone).then_some(flags);
        event_loop.poller.set(&mut self.watch, &self.socket, Token::Client(self.number), wanted)
    }

    fn set_ladder_deadline(&mut self, event_loop: &mut EventLoop, begun: Option<Moment>) {
        if begun.is_some() {
            self.set_deadline(event_loop, begun);
        }
    }

    fn set_deadline(&mut self, event_loop: &mut EventLoop, deadline: Option<Moment>) {
        event_loop.deadlines.set(Timer::Connection(self.number), &mut self.deadline, deadline);
    }
}

/// Sends FIN after everything that was written before, even if a grandchild holds the socket.
fn finish_sending(socket: &OwnedFd) {
    // ENOTCONN: the client is gone, which epoll reports as well.
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Write);
}

/// How long a client may keep sending after its process has ended. Longer than any round trip, and short enough for a client
/// that never closes.
const LINGER: Moment = Moment::from_secs(5);
