//! The bridge's stderr: one line per event, and the servers' own lines with the number of their connection in front.
//!
//! Writing never blocks, because the event loop writes: what the reader of our stderr does not take is buffered, up to a
//! bound. Beyond it servers wait (their pipes fill, as without the bridge), and our own lines are dropped and counted.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Lines on their way to stderr.
#[derive(Default)]
pub(crate) struct Log {
    held: Vec<u8>,
    dropped: u64,
}

impl Log {
    /// Logs an event of the bridge itself.
    pub(crate) fn event(&mut self, event: fmt::Arguments<'_>) {
        if self.is_full() {
            self.dropped += 1;
            return;
        }
        let mut line = String::new();
        if self.dropped > 0 {
            // Writing to a String cannot fail.
            let _ = writeln!(line, "docker-mcp-bridge: {} lines dropped, stderr was not read", self.dropped);
            self.dropped = 0;
        }
        let _ = writeln!(line, "docker-mcp-bridge: {event}");
        self.held.extend_from_slice(line.as_bytes());
        self.flush();
    }

    /// Logs a line of the process of `connection`; `line` has no newline.
    pub(crate) fn line(&mut self, connection: u64, line: &[u8]) {
        self.held.extend_from_slice(format!("[{connection}] ").as_bytes());
        self.held.extend_from_slice(line);
        self.held.push(b'\n');
    }

    /// Whether the buffer is full, so that servers have to wait.
    pub(crate) fn is_full(&self) -> bool {
        self.held.len() >= HELD_BYTES
    }

    /// Whether something is buffered.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.held.is_empty()
    }

    /// Writes as much as possible without blocking.
    pub(crate) fn flush(&mut self) {
        let mut written = 0;
        while let Some(piece) = self.held.get(written..).filter(|rest| !rest.is_empty()) {
            let piece = piece.get(..ATOMIC_BYTES).unwrap_or(piece);
            if !is_writable() {
                break;
            }
            match io::stderr().write(piece) {
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // stderr is closed; the bridge serves without a log.
                Err(_) => written = self.held.len(),
            }
        }
        self.held.drain(..written.min(self.held.len()));
    }
}

fn is_writable() -> bool {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    // An error of poll (ENOMEM) is no error of stderr, so the write is tried.
    poll(&mut fds, PollTimeout::ZERO).map_or(true, |ready| ready > 0)
}

/// The lines of one process: bytes in, whole lines out.
#[derive(Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Adds what was read and logs the complete lines. A line that grows too long is logged in parts.
    pub(crate) fn push(&mut self, connection: u64, bytes: &[u8], log: &mut Log) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = LINE_BYTES - self.partial.len();
            let window = rest.get(..room).unwrap_or(rest);
            let newline = window.iter().position(|byte| *byte == b'\n');
            let (text, taken) = newline.map_or((window.len(), window.len()), |at| (at, at + 1));
            self.partial.extend_from_slice(window.get(..text).unwrap_or_default());
            if newline.is_some() || self.partial.len() == LINE_BYTES {
                self.finish_line(connection, log);
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
    }

    /// Logs the last line, if it has no newline.
    pub(crate) fn finish(&mut self, connection: u64, log: &mut Log) {
        if !self.partial.is_empty() {
            self.finish_line(connection, log);
        }
    }

    fn finish_line(&mut self, connection: u64, log: &mut Log) {
        log.line(connection, self.partial.strip_suffix(b"\r").unwrap_or(&self.partial));
        self.partial.clear();
    }
}

/// The size of a pipe: as much as a process could have written ahead without the bridge.
const HELD_BYTES: usize = 64 * 1024;
/// pipe(7), PIPE_BUF: poll(2) reports a pipe writable when at least this much fits, so a write of it cannot block.
const ATOMIC_BYTES: usize = 4096;
/// The longest line that is logged whole: longer than people read; container runtimes split at 16 KiB.
const LINE_BYTES: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(pieces: &[&[u8]]) -> String {
        let (mut lines, mut log) = (Lines::default(), Log::default());
        for piece in pieces {
            lines.push(7, piece, &mut log);
        }
        lines.finish(7, &mut log);
        String::from_utf8(log.held).expect("UTF-8")
    }

    #[test]
    fn lines_read_in_pieces_are_each_prefixed_once() {
        assert_eq!(logged(&[b"one\ntw", b"o\r\nthree"]), "[7] one\n[7] two\n[7] three\n");
        assert_eq!(logged(&[b"\n"]), "[7] \n");
        assert_eq!(logged(&[]), "");
    }

    #[test]
    fn line_over_the_bound_is_logged_in_parts() {
        let long = vec![b'x'; LINE_BYTES * 2 + 1];
        let text = logged(&[&long]);
        assert_eq!(text.lines().count(), 3);
        assert!(text.lines().all(|line| line.len() <= LINE_BYTES + "[7] ".len()));
    }

    #[test]
    fn event_while_the_buffer_is_full_is_dropped_and_counted() {
        let mut log = Log { held: vec![0; HELD_BYTES], dropped: 0 };
        log.event(format_args!("lost"));
        assert_eq!((log.dropped, log.held.len()), (1, HELD_BYTES));
    }
}
