//! The data path over pipes: bytes are copied between the client's socket and the process's stdin and stdout.
//!
//! The two directions know nothing of each other. Each holds at most one read that the other side would not take, and
//! reads no further until it has: so a full pipe closes the TCP window and a full window fills the pipe.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{MsgFlags, recv, send};

use crate::hub::Hub;
use crate::poller::{Token, Watch};
use crate::process::{Pipes, is_transient};

/// Both directions of one connection.
pub(crate) struct Pump {
    stdin: Option<End<std::process::ChildStdin>>,
    stdout: Option<End<std::process::ChildStdout>>,
    /// Read from the client, not yet taken by the process.
    inward: Held,
    /// Read from the process, not yet taken by the client.
    outward: Held,
    /// The client has sent its last byte.
    input_ended: bool,
    /// The client takes no more bytes: what the process still writes is thrown away.
    deaf: bool,
}

struct End<T> {
    pipe: T,
    watch: Watch,
}

impl Pump {
    pub(crate) fn new(pipes: Pipes) -> Self {
        Self {
            stdin: Some(End { pipe: pipes.stdin, watch: Watch::default() }),
            stdout: Some(End { pipe: pipes.stdout, watch: Watch::default() }),
            inward: Held::default(),
            outward: Held::default(),
            input_ended: false,
            deaf: false,
        }
    }

    /// Moves what the client has sent on to the process. Returns whether something was there.
    pub(crate) fn pull_input(&mut self, socket: &OwnedFd, hub: &mut Hub) -> bool {
        if !self.takes_input() {
            return false;
        }
        let received = receive(socket, &mut hub.scratch);
        match received {
            Ok(0) => self.input_ended = true,
            Ok(bytes) => {
                let bytes = hub.scratch.get(..bytes).unwrap_or_default();
                self.inward.pass_on(bytes, |piece| match &mut self.stdin {
                    Some(stdin) => stdin.pipe.write(piece),
                    None => Ok(piece.len()), // nobody reads it; see `push_input`
                });
                self.push_input(hub);
            }
            Err(ref error) if is_transient(error) => {}
            Err(_) => self.input_ended = true,
        }
        self.close_stdin_if_done(hub);
        received.is_ok_and(|bytes| bytes > 0)
    }

    /// Moves on what a client that is gone had sent before, as far as the process takes it.
    pub(crate) fn pull_rest(&mut self, socket: &OwnedFd, hub: &mut Hub) {
        // Comes to an end: nobody adds to what waits in the socket.
        while self.pull_input(socket, hub) {}
        if self.takes_input() {
            self.input_ended = true;
            self.close_stdin_if_done(hub);
        }
    }

    fn takes_input(&self) -> bool {
        self.inward.is_empty() && !self.input_ended
    }

    /// Moves on what the process did not take before.
    pub(crate) fn push_input(&mut self, hub: &mut Hub) {
        let outcome = match &mut self.stdin {
            Some(stdin) => self.inward.retry(|piece| stdin.pipe.write(piece)),
            None => Ok(()),
        };
        if outcome.is_err() {
            // The process has closed its stdin but lives on: input is read and forgotten, as it is from a pipe.
            self.close_stdin(hub);
        }
        self.close_stdin_if_done(hub);
    }

    /// Moves what the process has written on to the client. Returns how it went on.
    pub(crate) fn pull_output(&mut self, socket: &OwnedFd, hub: &mut Hub) -> Output {
        if !self.outward.is_empty() {
            return Output::Blocked;
        }
        let Some(stdout) = &mut self.stdout else { return Output::Ended };
        match stdout.pipe.read(&mut hub.scratch) {
            Ok(0) => {}
            Ok(bytes) => {
                if !self.deaf {
                    let bytes = hub.scratch.get(..bytes).unwrap_or_default();
                    self.outward.pass_on(bytes, |piece| transmit(socket, piece));
                    self.push_output(socket);
                }
                return if self.outward.is_empty() { Output::Moved } else { Output::Blocked };
            }
            Err(error) if is_transient(&error) => return Output::Empty,
            Err(_) => {}
        }
        if let Some(mut stdout) = self.stdout.take() {
            // A descriptor that is not watched (the process had ended) needs no forgetting.
            let _ = hub.poller.set(&mut stdout.watch, &stdout.pipe, Token::Stdout(0), None);
        }
        Output::Ended
    }

    /// Moves on what the client did not take before.
    pub(crate) fn push_output(&mut self, socket: &OwnedFd) {
        if self.outward.retry(|piece| transmit(socket, piece)).is_err() {
            self.give_up_client();
        }
    }

    /// The client is gone: nothing more goes to it, and the process must not wait for it.
    pub(crate) fn give_up_client(&mut self) {
        self.deaf = true;
        self.outward = Held::default();
    }

    /// Ends the process's input now, whatever the client has still to say.
    pub(crate) fn close_stdin(&mut self, hub: &mut Hub) {
        self.inward = Held::default();
        if let Some(mut stdin) = self.stdin.take() {
            let _ = hub.poller.set(&mut stdin.watch, &stdin.pipe, Token::Stdin(0), None);
        }
    }

    fn close_stdin_if_done(&mut self, hub: &mut Hub) {
        if self.input_ended && self.inward.is_empty() {
            self.close_stdin(hub);
        }
    }

    /// What the client's socket should report.
    pub(crate) fn client_interest(&self) -> EpollFlags {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, self.takes_input());
        flags.set(EpollFlags::EPOLLOUT, !self.outward.is_empty());
        flags
    }

    /// Watches the pipes for what each direction waits for.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn watch_pipes(&mut self, connection: u64, hub: &Hub) -> nix::Result<()> {
        if let Some(End { pipe, watch }) = &mut self.stdin {
            let wanted = (!self.inward.is_empty()).then_some(EpollFlags::EPOLLOUT);
            hub.poller.set(watch, &*pipe, Token::Stdin(connection), wanted)?;
        }
        if let Some(End { pipe, watch }) = &mut self.stdout {
            let wanted = self.outward.is_empty().then_some(EpollFlags::EPOLLIN);
            hub.poller.set(watch, &*pipe, Token::Stdout(connection), wanted)?;
        }
        Ok(())
    }

    /// The process has ended: its stdin is closed and its stdout is only read out.
    pub(crate) fn process_ended(&mut self, hub: &mut Hub) {
        self.close_stdin(hub);
        if let Some(End { pipe, watch }) = &mut self.stdout {
            let _ = hub.poller.set(watch, &*pipe, Token::Stdout(0), None);
        }
    }
}

/// What [`Pump::pull_output`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Something moved on; there may be more.
    Moved,
    /// The client has to take something first.
    Blocked,
    /// Nothing is there now.
    Empty,
    /// The process has closed its stdout.
    Ended,
}

/// Bytes that one side has given and the other has not taken.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    taken: usize,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.taken >= self.bytes.len()
    }

    /// Writes `bytes`, keeping what is not taken. Errors show up in the retry.
    fn pass_on(&mut self, bytes: &[u8], write: impl FnOnce(&[u8]) -> io::Result<usize>) {
        let taken = write(bytes).unwrap_or(0);
        if let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty()) {
            (self.bytes, self.taken) = (rest.to_vec(), 0);
        }
    }

    fn retry(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        while let Some(rest) = self.bytes.get(self.taken..).filter(|rest| !rest.is_empty()) {
            match write(rest) {
                Ok(taken) => self.taken += taken,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_transient(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        *self = Self::default(); // an idle connection holds no memory
        Ok(())
    }
}

/// Reads from a client without waiting, whatever the flags of the socket.
pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT).map_err(io::Error::from)
}

fn transmit(socket: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    match send(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
        Err(Errno::EINTR) => Err(io::ErrorKind::Interrupted.into()),
        result => result.map_err(io::Error::from),
    }
}
