//! One connection from accept to close. It owns the socket and, from the first byte on, the process.
//!
//! It knows nothing of the other connections: what concerns the table of all of them it answers as a [`Next`].

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use nix::unistd::Pid;

use crate::args::DataPath;
use crate::clock::Moment;
use crate::hub::Hub;
use crate::kernel::Ending;
use crate::poller::{Token, Watch};
use crate::process::{Cause, Process, is_transient};
use crate::pump::{Output, Pump, receive};
use crate::spare::Spare;

pub(crate) struct Connection {
    number: u64,
    peer: Peer,
    socket: OwnedFd,
    client: Client,
    watch: Watch,
    stage: Stage,
    deadline: Option<Moment>,
}

/// Where the connection is in its life.
///
/// ```text
/// Waiting ──first byte──▶ Running ──process ends──▶ Flushing ──all taken, FIN──▶ Lingering ──client closes, 5 s──▶ gone
///    └──closed, timeout──▶ gone      (hand-off: the kernel holds the output) ──────▲
/// ```
enum Stage {
    /// The client has sent nothing; there is no process.
    Waiting,
    Running(Process, DataPlane),
    /// The process has ended; what it wrote is still on its way through us.
    Flushing(Pump),
    /// The client has everything, and our FIN; its remaining input is thrown away, because closing a socket with unread
    /// input resets the connection, and a reset destroys output on its way (RFC 9293 §3.10.4; RFC 2525 §2.17).
    Lingering,
}

enum DataPlane {
    Handoff,
    Pipe(Pump),
}

/// What is known of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Talking,
    /// It has sent FIN: no more input, but it may still listen.
    Finished,
    /// Reset, timed out, or closed in both directions: it takes nothing any more. What it sent before may still wait in
    /// the socket, on a unix socket always, where there is no FIN and closing is all that a client does.
    Gone,
}

/// What the table has to do.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Stay,
    /// The first byte is there.
    Start,
    /// The connection is over.
    End,
}

/// Who is at the other end.
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
    /// Takes an accepted socket and waits for its first byte.
    ///
    /// # Errors
    /// What the kernel said when asked to watch it.
    pub(crate) fn accepted(number: u64, socket: OwnedFd, peer: Peer, hub: &mut Hub) -> nix::Result<Self> {
        let (watch, stage, client) = (Watch::default(), Stage::Waiting, Client::Talking);
        let mut connection = Self { number, peer, socket, client, watch, stage, deadline: None };
        connection.watch_descriptors(hub)?;
        connection.set_deadline(hub, Some(hub.now + hub.settings.first_byte_timeout));
        Ok(connection)
    }

    /// Whether it has no process: nothing sent yet, or all delivered.
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

    /// Something happened at the client's socket.
    pub(crate) fn on_client(&mut self, events: EpollFlags, hub: &mut Hub) -> Next {
        if events.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            self.client = Client::Gone;
        } else if events.contains(EpollFlags::EPOLLRDHUP) && self.client == Client::Talking {
            self.client = Client::Finished;
        }
        match &mut self.stage {
            Stage::Waiting => self.first_byte(),
            Stage::Running(_, DataPlane::Handoff) => {
                self.leave_if_client_did(hub);
                self.rewatch(hub)
            }
            Stage::Running(_, DataPlane::Pipe(pump)) => {
                if self.client == Client::Gone {
                    pump.give_up_client();
                    pump.pull_rest(&self.socket, hub);
                } else {
                    pump.push_output(&self.socket);
                    pump.pull_input(&self.socket, hub);
                }
                self.leave_if_client_did(hub);
                self.rewatch(hub)
            }
            Stage::Flushing(_) => self.flush(hub),
            Stage::Lingering => self.discard_input(hub),
        }
    }

    /// The process takes input again.
    pub(crate) fn on_stdin(&mut self, hub: &mut Hub) -> Next {
        if let Stage::Running(_, DataPlane::Pipe(pump)) = &mut self.stage {
            pump.push_input(hub);
            if self.client == Client::Gone {
                // Its socket is not watched any more.
                pump.pull_rest(&self.socket, hub);
            }
        }
        self.rewatch(hub)
    }

    /// The process has written something, or has closed its stdout.
    pub(crate) fn on_stdout(&mut self, hub: &mut Hub) -> Next {
        if let Stage::Running(process, DataPlane::Pipe(pump)) = &mut self.stage
            && pump.pull_output(&self.socket, hub) == Output::Ended
        {
            // It can never answer again: the client learns it now, and the process has to leave.
            finish_sending(&self.socket);
            pump.close_stdin(hub);
            let deadline = process.begin_ladder(Cause::OutputEnded, hub);
            self.set_ladder_deadline(hub, deadline);
        }
        self.rewatch(hub)
    }

    /// Its deadline has passed.
    pub(crate) fn on_deadline(&mut self, hub: &mut Hub) -> Next {
        let number = self.number;
        match &mut self.stage {
            Stage::Running(process, _) => {
                let deadline = process.next_rung(number, hub);
                self.set_deadline(hub, deadline);
                Next::Stay
            }
            Stage::Waiting | Stage::Flushing(_) | Stage::Lingering => Next::End,
        }
    }

    /// Starts its process.
    ///
    /// # Errors
    /// What fork, exec or the lack of descriptors said.
    pub(crate) fn start(&mut self, hub: &mut Hub) -> io::Result<()> {
        let number = self.number;
        let (mut process, plane) = match hub.settings.data_path {
            DataPath::Handoff => (Process::start_on(&self.socket, number, hub)?, DataPlane::Handoff),
            DataPath::Pipe => {
                let (process, pipes) = Process::start_piped(number, hub)?;
                (process, DataPlane::Pipe(Pump::new(pipes)))
            }
        };
        hub.log.event(format_args!("[{number}] started pid={} peer={}", process.pid, self.peer));
        process.watch_stderr(number, hub, true);
        self.stage = Stage::Running(process, plane);
        self.set_deadline(hub, None);
        Ok(())
    }

    /// Takes a process that was started ahead, and its number, by which the process is marked.
    pub(crate) fn take(mut self, spare: Spare, hub: &mut Hub) -> Self {
        self.set_deadline(hub, None);
        // Deleting what is registered cannot fail.
        let _ = hub.poller.set(&mut self.watch, &self.socket, Token::Client(self.number), None);
        self.number = spare.number;
        let (process, pipes) = spare.take();
        hub.log.event(format_args!("[{}] taken pid={} peer={}", self.number, process.pid, self.peer));
        self.stage = Stage::Running(process, DataPlane::Pipe(Pump::new(pipes)));
        self
    }

    /// Looks at what happened before or while the process started.
    pub(crate) fn after_start(&mut self, hub: &mut Hub) -> Next {
        self.on_client(EpollFlags::empty(), hub)
    }

    /// Its process has ended, its group has been ended, and the process is reaped.
    pub(crate) fn process_ended(&mut self, how: Ending, hub: &mut Hub) -> Next {
        let (process, plane) = match std::mem::replace(&mut self.stage, Stage::Lingering) {
            Stage::Running(process, plane) => (process, plane),
            other => {
                self.stage = other;
                return Next::Stay;
            }
        };
        process.log_end(self.number, how, hub);
        self.set_deadline(hub, None);
        match plane {
            DataPlane::Handoff => self.linger(hub),
            DataPlane::Pipe(mut pump) => {
                pump.process_ended(hub);
                self.stage = Stage::Flushing(pump);
                self.set_deadline(hub, Some(hub.now + hub.settings.client_timeout));
                self.flush(hub)
            }
        }
    }

    /// The bridge stops: the process's input ends now.
    pub(crate) fn stop(&mut self, hub: &mut Hub) {
        if let Stage::Running(process, plane) = &mut self.stage {
            match plane {
                // To the process this is an ordinary end of file.
                DataPlane::Handoff => drop(shutdown(self.socket.as_raw_fd(), Shutdown::Read)),
                DataPlane::Pipe(pump) => pump.close_stdin(hub),
            }
            let deadline = process.begin_ladder(Cause::InputEnded, hub);
            self.set_ladder_deadline(hub, deadline);
        }
    }

    /// Closes the connection. A process that still runs is the caller's concern.
    pub(crate) fn close(mut self, hub: &mut Hub) {
        self.set_deadline(hub, None);
        if self.client == Client::Talking && self.is_waiting() {
            // What a refused client has already said is read, so that it sees an end of file and not a reset.
            let _ = receive(&self.socket, &mut hub.scratch);
        }
        // The socket goes, so its registration is of no use whatever the kernel says.
        let _ = hub.poller.set(&mut self.watch, &self.socket, Token::Client(self.number), None);
        // A grandchild that left its group may still hold the socket: for the client the connection ends all the same.
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

    fn leave_if_client_did(&mut self, hub: &mut Hub) {
        if self.client == Client::Talking {
            return;
        }
        if let Stage::Running(process, _) = &mut self.stage {
            let deadline = process.begin_ladder(Cause::InputEnded, hub);
            self.set_ladder_deadline(hub, deadline);
        }
    }

    /// Delivers what the ended process has left in its pipe, then says that there is no more.
    fn flush(&mut self, hub: &mut Hub) -> Next {
        let Stage::Flushing(pump) = &mut self.stage else { return Next::Stay };
        if self.client == Client::Gone {
            return Next::End;
        }
        pump.push_output(&self.socket);
        loop {
            match pump.pull_output(&self.socket, hub) {
                Output::Moved => {}
                Output::Blocked => {
                    self.set_deadline(hub, Some(hub.now + hub.settings.client_timeout));
                    return self.rewatch(hub);
                }
                // A grandchild that left its group may hold the other end: empty is the end.
                Output::Empty | Output::Ended => return self.linger(hub),
            }
        }
    }

    fn linger(&mut self, hub: &mut Hub) -> Next {
        self.stage = Stage::Lingering;
        if self.client == Client::Gone {
            return Next::End;
        }
        finish_sending(&self.socket);
        self.set_deadline(hub, Some(hub.now + LINGER));
        match self.rewatch(hub) {
            Next::Stay => self.discard_input(hub),
            next => next,
        }
    }

    fn discard_input(&mut self, hub: &mut Hub) -> Next {
        match receive(&self.socket, &mut hub.scratch) {
            Ok(0) => Next::End,
            Ok(_) => Next::Stay,
            Err(error) if error.kind() == ErrorKind::WouldBlock && self.client != Client::Gone => Next::Stay,
            Err(error) if error.kind() == ErrorKind::Interrupted => Next::Stay,
            Err(_) => Next::End,
        }
    }

    fn rewatch(&mut self, hub: &mut Hub) -> Next {
        if let Err(error) = self.watch_descriptors(hub) {
            // Blind to the client or the process it could only hang; the process gets the ladder's first rung at once.
            hub.log.event(format_args!("[{}] cannot be watched: {error}", self.number));
            self.client = Client::Gone;
            if let Stage::Running(_, DataPlane::Pipe(pump)) = &mut self.stage {
                pump.close_stdin(hub);
            }
            self.leave_if_client_did(hub);
            return if self.process().is_some() { Next::Stay } else { Next::End };
        }
        Next::Stay
    }

    fn watch_descriptors(&mut self, hub: &Hub) -> nix::Result<()> {
        // Errors and hang-ups are always reported, for ever; a gone client has nothing more to say.
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLRDHUP, self.client == Client::Talking);
        match &mut self.stage {
            Stage::Waiting | Stage::Lingering => flags |= EpollFlags::EPOLLIN,
            Stage::Running(_, DataPlane::Handoff) => {}
            Stage::Running(_, DataPlane::Pipe(pump)) => {
                pump.watch_pipes(self.number, hub)?;
                flags |= pump.client_interest();
            }
            Stage::Flushing(_) => flags |= EpollFlags::EPOLLOUT,
        }
        let wanted = (self.client != Client::Gone).then_some(flags);
        hub.poller.set(&mut self.watch, &self.socket, Token::Client(self.number), wanted)
    }

    fn set_ladder_deadline(&mut self, hub: &mut Hub, begun: Option<Moment>) {
        if begun.is_some() {
            self.set_deadline(hub, begun);
        }
    }

    fn set_deadline(&mut self, hub: &mut Hub, deadline: Option<Moment>) {
        hub.deadlines.set(self.number, &mut self.deadline, deadline);
    }
}

/// FIN after everything that was written before, even if a grandchild holds the socket.
fn finish_sending(socket: &OwnedFd) {
    // ENOTCONN: the client is gone, which its hang-up says too.
    let _ = shutdown(socket.as_raw_fd(), Shutdown::Write);
}

/// How long a client may go on sending to a process that has ended. Long enough for a round trip anywhere, short enough
/// for a client that never closes.
const LINGER: Moment = Moment::from_secs(5);
