//! The bridge's stderr: one line per event, and the servers' own lines with the number of their connection in front.
//!
//! Writing never blocks, because the event loop writes: what the reader of our stderr does not take is buffered, up to a
//! bound. Beyond it servers wait (their pipes fill, as without the bridge), and our own lines are dropped and counted.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::clock::Moment;

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

/// The lines of one process: bytes in, whole lines out, up to a bound. What is over it is dropped and counted.
pub(crate) struct Lines {
    partial: Vec<u8>,
    /// The bytes that may still be logged.
    room: usize,
    /// When there is more room.
    renewed: Moment,
    left_out: usize,
    /// The line that is being read was dropped, at least in part; the rest of it goes too.
    is_cut: bool,
}

impl Default for Lines {
    fn default() -> Self {
        Self { partial: Vec::new(), room: BURST_BYTES, renewed: Moment::ZERO, left_out: 0, is_cut: false }
    }
}

impl Lines {
    /// Adds what was read and logs the complete lines. A line that grows too long is logged in parts.
    pub(crate) fn push(&mut self, connection: u64, bytes: &[u8], now: Moment, log: &mut Log) {
        if now >= self.renewed {
            let windows = now.saturating_sub(self.renewed).as_secs() / WINDOW.as_secs() + 1;
            let more = WINDOW_BYTES.saturating_mul(usize::try_from(windows).unwrap_or(usize::MAX));
            self.room = self.room.saturating_add(more).min(BURST_BYTES);
            self.renewed = now + WINDOW;
            self.say_left_out(connection, log);
        }
        let mut rest = bytes;
        if self.is_cut {
            let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
            self.leave_out(rest.get(..end).unwrap_or_default());
            rest = rest.get(end..).unwrap_or_default();
        }
        while !rest.is_empty() {
            if self.room == 0 {
                return self.leave_out(rest);
            }
            let room = LINE_BYTES - self.partial.len();
            let window = rest.get(..room).unwrap_or(rest);
            let newline = window.iter().position(|byte| *byte == b'\n');
            let (text, taken) = newline.map_or((window.len(), window.len()), |at| (at, at + 1));
            self.partial.extend_from_slice(window.get(..text).unwrap_or_default());
            if newline.is_some() || self.partial.len() == LINE_BYTES {
                self.finish_line(connection, log);
                // Of a line that is logged in parts, the rest belongs to it.
                self.is_cut = newline.is_none() && self.room == 0;
            }
            rest = rest.get(taken..).unwrap_or_default();
        }
    }

    /// Logs the last line, if it has no newline, and how many were left out.
    pub(crate) fn finish(&mut self, connection: u64, log: &mut Log) {
        if !self.partial.is_empty() {
            self.finish_line(connection, log);
        }
        self.left_out += usize::from(self.is_cut);
        self.say_left_out(connection, log);
    }

    fn finish_line(&mut self, connection: u64, log: &mut Log) {
        let line = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
        self.room = self.room.saturating_sub(line.len() + ADDED_BYTES);
        log.line(connection, line);
        self.partial.clear();
    }

    fn leave_out(&mut self, bytes: &[u8]) {
        self.left_out += bytes.iter().filter(|byte| **byte == b'\n').count();
        self.is_cut = bytes.last().map_or(self.is_cut, |last| *last != b'\n');
    }

    fn say_left_out(&mut self, connection: u64, log: &mut Log) {
        let lines = std::mem::take(&mut self.left_out);
        if lines > 0 {
            log.event(format_args!("[{connection}] {lines} lines of stderr left out"));
        }
    }
}

/// The size of a pipe: as much as a process could have written ahead without the bridge.
const HELD_BYTES: usize = 64 * 1024;
/// pipe(7), PIPE_BUF: poll(2) reports a pipe writable when at least this much fits, so a write of it cannot block.
const ATOMIC_BYTES: usize = 4096;
/// What a process may log at once. 8 MiB: a crash with everything that a server says of it, and little for any disk.
const BURST_BYTES: usize = 8 << 20;
/// How much more that is after each [`WINDOW`]. 256 KiB, as the edge logs of a process of its own: the longest stack trace
/// of a JVM; of a process that never stops writing it is 2 GB a day.
const WINDOW_BYTES: usize = 256 * 1024;
/// 10 s: an error that repeats itself is seen again soon.
const WINDOW: Moment = Moment::from_secs(10);
/// What is added to a line: a newline and its connection's number in brackets. 8 bytes, as it mostly comes to.
const ADDED_BYTES: usize = 8;
/// The longest line that is logged whole: longer than people read; container runtimes split at 16 KiB.
const LINE_BYTES: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(pieces: &[&[u8]]) -> String {
        let (mut lines, mut log) = (Lines::default(), Log::default());
        for piece in pieces {
            lines.push(7, piece, Moment::from_secs(1), &mut log);
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

    /// What is logged of `bytes` at this second, without the number in front. What was left out before goes to stderr.
    fn pushed(lines: &mut Lines, bytes: &[u8], second: u64) -> Vec<String> {
        let mut log = Log::default();
        lines.push(7, bytes, Moment::from_secs(second), &mut log);
        let text = String::from_utf8(log.held).expect("UTF-8");
        text.lines().map(|line| line.trim_start_matches("[7] ").to_owned()).collect()
    }

    #[test]
    fn lines_over_the_bound_are_counted_and_more_fit_after_a_while() {
        let mut lines = Lines::default();
        let line = [b"x".repeat(1000 - ADDED_BYTES), b"\n".to_vec()].concat();
        let flood = line.repeat(2 * BURST_BYTES / 1000);
        let said = pushed(&mut lines, &flood, 100);
        assert_eq!(said.len(), BURST_BYTES.div_ceil(1000));
        assert_eq!(lines.left_out, 2 * BURST_BYTES / 1000 - said.len());
        assert!(pushed(&mut lines, b"more\nand unfin", 109).is_empty());
        let left_out = lines.left_out;

        // What is left of a line that was dropped is dropped as well.
        let said = pushed(&mut lines, &[b"ished\n".as_slice(), &flood].concat(), 110);
        assert_eq!(said.len(), WINDOW_BYTES.div_ceil(1000));
        assert_eq!(lines.left_out, 1 + 2 * BURST_BYTES / 1000 - said.len());
        assert!(left_out > BURST_BYTES / 1000);

        // What a silent process may log grows up to the burst again.
        let said = pushed(&mut lines, &flood, 1_000_000);
        assert_eq!(said.len(), BURST_BYTES.div_ceil(1000));
    }

    #[test]
    fn a_line_cut_by_the_bound_counts_once() {
        let mut lines = Lines::default();
        let long = vec![b'x'; BURST_BYTES + LINE_BYTES];
        let said = pushed(&mut lines, &long, 100);
        assert!(said.iter().map(String::len).sum::<usize>() <= BURST_BYTES && lines.left_out == 0);
        assert!(pushed(&mut lines, &long, 120).is_empty());
        assert_eq!(pushed(&mut lines, b"x\nnext\n", 121), ["next"]);
        assert_eq!(lines.left_out, 1);
        pushed(&mut lines, &long, 121);
        let mut log = Log { held: vec![0; HELD_BYTES], dropped: 0 };
        lines.finish(7, &mut log);
        assert_eq!((lines.left_out, log.dropped), (0, 1), "said, in a log that is full");
    }

    #[test]
    fn event_while_the_buffer_is_full_is_dropped_and_counted() {
        let mut log = Log { held: vec![0; HELD_BYTES], dropped: 0 };
        log.event(format_args!("lost"));
        assert_eq!((log.dropped, log.held.len()), (1, HELD_BYTES));
    }
}
