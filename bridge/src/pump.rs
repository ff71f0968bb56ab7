//! The data path over pipes: bytes are copied between the client's socket and the process's stdin and stdout.
//!
//! The two directions are independent. Each holds at most one read that the other side has not taken, and reads no further
//! until it has: so a full pipe closes the TCP window, and a closed window fills the pipe.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{MsgFlags, recv, send};

use crate::event_loop::EventLoop;
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
    /// The client is gone: what the process still writes is discarded.
    discards_output: bool,
    /// Bytes of the output that an ended process may have written. What comes after them is a grandchild's.
    left: Option<usize>,
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
            discards_output: false,
            left: None,
        }
    }

    /// Copies what the client has sent to the process. Returns whether there was something.
    pub(crate) fn pull_input(&mut self, socket: &OwnedFd, event_loop: &mut EventLoop) -> bool {
        if !self.takes_input() {
            return false;
        }
        let received = receive(socket, &mut event_loop.scratch);
        match received {
            Ok(0) => self.input_ended = true,
            Ok(bytes) => {
                let bytes = event_loop.scratch.get(..bytes).unwrap_or_default();
                self.inward.pass_on(bytes, |piece| match &mut self.stdin {
                    Some(stdin) => stdin.pipe.write(piece),
                    None => Ok(piece.len()), // nobody reads it; see `push_input`
                });
                self.push_input(event_loop);
            }
            Err(ref error) if is_transient(error) => {}
            Err(_) => self.input_ended = true,
        }
        self.close_stdin_if_done(event_loop);
        received.is_ok_and(|bytes| bytes > 0)
    }

    /// Copies what a client had sent before it went, as far as the process takes it.
    pub(crate) fn pull_rest(&mut self, socket: &OwnedFd, event_loop: &mut EventLoop) {
        // This ends: nothing more arrives in the socket.
        while self.pull_input(socket, event_loop) {}
        if self.takes_input() {
            self.input_ended = true;
            self.close_stdin_if_done(event_loop);
        }
    }

    fn takes_input(&self) -> bool {
        self.inward.is_empty() && !self.input_ended
    }

    /// Writes what the process did not take before.
    pub(crate) fn push_input(&mut self, event_loop: &mut EventLoop) {
        let outcome = match &mut self.stdin {
            Some(stdin) => self.inward.retry(|piece| stdin.pipe.write(piece)),
            None => Ok(()),
        };
        if outcome.is_err() {
            // The process has closed its stdin but still runs: input is read and discarded, as from a pipe.
            self.close_stdin(event_loop);
        }
        self.close_stdin_if_done(event_loop);
    }

    /// Copies what the process has written to the client.
    pub(crate) fn pull_output(&mut self, socket: &OwnedFd, event_loop: &mut EventLoop) -> Output {
        if !self.outward.is_empty() {
            return Output::Blocked;
        }
        let Some(stdout) = &mut self.stdout else { return Output::Ended };
        let most = self.left.unwrap_or(usize::MAX).min(event_loop.scratch.len());
        match stdout.pipe.read(event_loop.scratch.get_mut(..most).unwrap_or_default()) {
            Ok(0) => {}
            Ok(bytes) => {
                self.left = self.left.map(|left| left.saturating_sub(bytes));
                if !self.discards_output {
                    let bytes = event_loop.scratch.get(..bytes).unwrap_or_default();
                    self.outward.pass_on(bytes, |piece| transmit(socket, piece));
                    self.push_output(socket);
                }
                return if self.outward.is_empty() { Output::Moved } else { Output::Blocked };
            }
            Err(error) if is_transient(&error) => return Output::Empty,
            Err(_) => {}
        }
        if let Some(mut stdout) = self.stdout.take() {
            // If the process has ended, it is not watched, and there is nothing to remove.
            let _ = event_loop.poller.set(&mut stdout.watch, &stdout.pipe, Token::Stdout(0), None);
        }
        Output::Ended
    }

    /// Writes what the client did not take before.
    pub(crate) fn push_output(&mut self, socket: &OwnedFd) {
        if self.outward.retry(|piece| transmit(socket, piece)).is_err() {
            self.give_up_client();
        }
    }

    /// Discards output from now on, because the client is gone and the process must not wait for it.
    pub(crate) fn give_up_client(&mut self) {
        self.discards_output = true;
        self.outward = Held::default();
    }

    /// Ends the process's input now, even if the client has sent more.
    pub(crate) fn close_stdin(&mut self, event_loop: &mut EventLoop) {
        self.inward = Held::default();
        if let Some(mut stdin) = self.stdin.take() {
            let _ = event_loop.poller.set(&mut stdin.watch, &stdin.pipe, Token::Stdin(0), None);
        }
    }

    fn close_stdin_if_done(&mut self, event_loop: &mut EventLoop) {
        if self.input_ended && self.inward.is_empty() {
            self.close_stdin(event_loop);
        }
    }

    /// The events to wait for at the client's socket.
    pub(crate) fn client_interest(&self) -> EpollFlags {
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, self.takes_input());
        flags.set(EpollFlags::EPOLLOUT, !self.outward.is_empty());
        flags
    }

    /// Watches the pipes for what each direction waits for.
    ///
    /// # Errors
    /// The kernel's error.
    pub(crate) fn watch_pipes(&mut self, connection: u64, event_loop: &EventLoop) -> nix::Result<()> {
        if let Some(End { pipe, watch }) = &mut self.stdin {
            let wanted = (!self.inward.is_empty()).then_some(EpollFlags::EPOLLOUT);
            event_loop.poller.set(watch, &*pipe, Token::Stdin(connection), wanted)?;
        }
        if let Some(End { pipe, watch }) = &mut self.stdout {
            let wanted = self.outward.is_empty().then_some(EpollFlags::EPOLLIN);
            event_loop.poller.set(watch, &*pipe, Token::Stdout(connection), wanted)?;
        }
        Ok(())
    }

    /// Handles the end of the process: closes stdin, and stops watching stdout, which is then only emptied. A grandchild
    /// that left the group may keep writing for ever, so no more is read than the pipe holds.
    pub(crate) fn process_ended(&mut self, event_loop: &mut EventLoop) {
        self.close_stdin(event_loop);
        if let Some(End { pipe, watch }) = &mut self.stdout {
            let _ = event_loop.poller.set(watch, &*pipe, Token::Stdout(0), None);
            // It cannot fail for a pipe.
            let size = fcntl(pipe, FcntlArg::F_GETPIPE_SZ).ok().and_then(|size| usize::try_from(size).ok());
            self.left = Some(size.unwrap_or_default());
        }
    }
}

/// The outcome of [`Pump::pull_output`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Something was copied; there may be more.
    Moved,
    /// The client has to read something first.
    Blocked,
    /// There is nothing now.
    Empty,
    /// The process has closed its stdout.
    Ended,
}

/// Bytes that are read from one side and not taken by the other.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    taken: usize,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.taken >= self.bytes.len()
    }

    /// Writes `bytes` and keeps what is not taken. An error shows in the next `retry`.
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

/// Reads from a client without blocking; a handed-off socket is a blocking one.
pub(crate) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT).map_err(io::Error::from)
}

fn transmit(socket: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    match send(socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
        Err(Errno::EINTR) => Err(io::ErrorKind::Interrupted.into()),
        result => result.map_err(io::Error::from),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{ChildStdin, ChildStdout};

    use super::*;
    use crate::args::{self, Action};
    use crate::files::OpenFiles;

    fn event_loop() -> EventLoop {
        let words = ["--", "server"].map(std::ffi::OsString::from);
        let Ok(Action::Serve(settings)) = args::parse(words, []) else { panic!("a command line") };
        EventLoop::new(settings, OpenFiles { soft: 0, hard: 0 }).unwrap()
    }

    #[test]
    fn of_an_ended_process_no_more_is_read_than_its_pipe_held() {
        let mut event_loop = event_loop();
        let ((_, stdin), (stdout, grandchild)) = (nix::unistd::pipe().unwrap(), nix::unistd::pipe().unwrap());
        fcntl(&grandchild, FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
        let (client, _far_end) = std::os::unix::net::UnixStream::pair().unwrap();
        let client = OwnedFd::from(client);
        let pipes = Pipes { stdin: ChildStdin::from(stdin), stdout: ChildStdout::from(stdout) };
        let mut pump = Pump::new(pipes);
        pump.give_up_client();
        let write = || nix::unistd::write(&grandchild, &[b'y'; 65_536]).unwrap_or_default();
        let size = fcntl(&grandchild, FcntlArg::F_GETPIPE_SZ).unwrap();
        let (mut left, mut written) = (i64::from(size), write());
        pump.process_ended(&mut event_loop);
        // The grandchild has written again whenever the pipe is read.
        while pump.pull_output(&client, &mut event_loop) == Output::Moved {
            left -= i64::try_from(written).unwrap();
            assert!(left >= 0, "what a grandchild writes is read for ever");
            written = write();
        }
        assert_eq!(left, 0, "everything that the process may have written is read");
    }
}
