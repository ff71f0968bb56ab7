//! Queues lines for stderr and writes them in a thread of their own.
//!
//! Guarantees: logging never waits, because the runtime's threads log, and a collector that stops reading would stop the
//! data plane; the queue is bounded in bytes; lines without room are counted, and the log shows where they are missing.
//!
//! ```text
//! Open ──close──▶ Closing ──all written──▶ Ended
//! ```

use std::io::{self, Write};
use std::sync::Arc;
use std::thread::{self, park_timeout};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tracing_subscriber::fmt::MakeWriter;

/// The metrics of the log.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    dropped: Counter,
}

impl Metrics {
    /// Registers under the process's prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "log_lines_dropped",
            "Lines of the log that stderr did not take in time; see to whatever reads it, or log less",
            self.dropped.clone(),
        );
    }
}

/// The queue of the log. Cheap to clone.
#[derive(Clone)]
pub(super) struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Notified when there is something to write, or the queue closes.
    changed: Condvar,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    held: Vec<u8>,
    /// Taken from `held`, and not written yet.
    writing_bytes: usize,
    /// How many lines found no room after those of `held`.
    missing: u64,
    phase: Phase,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    Closing,
    /// Terminal: nothing is written any more.
    Ended,
}

impl Queue {
    /// Starts a thread that writes to `to` until the queue is closed. A thread that is stuck in a write ends with the process.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn start(to: impl Write + Send + 'static, metrics: Metrics) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), metrics });
        let queue = Self { shared: shared.clone() };
        thread::Builder::new().name("log".to_owned()).spawn(move || shared.write(to))?;
        Ok(queue)
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Queues one or more lines, each with its line ending.
    pub(super) fn push(&self, lines: &[u8]) {
        let mut state = self.shared.state.lock();
        let held = state.held.len() + state.writing_bytes;
        if state.phase == Phase::Ended || held + lines.len() > HELD_BYTES {
            let missing = count_lines(lines);
            state.missing += missing;
            self.shared.metrics.dropped.inc_by(missing);
            return;
        }
        let was_idle = state.held.is_empty();
        state.held.extend_from_slice(lines);
        drop(state);
        if was_idle {
            self.shared.changed.notify_all();
        }
    }

    /// Waits until everything pushed so far is written, at most this long.
    pub(super) fn close(&self, timeout: Duration) {
        let mut state = self.shared.state.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Closing;
        }
        self.shared.changed.notify_all();
        let not_ended = |state: &mut State| state.phase != Phase::Ended;
        self.shared.changed.wait_while_for(&mut state, not_ended, timeout);
    }
}

impl Shared {
    fn write(&self, mut to: impl Write) {
        while let Some((lines, missing)) = self.next() {
            let written = write_all(&mut to, &lines);
            if written.is_err() {
                // stderr is closed; the process serves without a log.
                self.metrics.dropped.inc_by(count_lines(&lines));
            } else if missing > 0 {
                let notice = format!("mcp-edge: {missing} lines dropped, stderr was not read\n");
                // Whether this is read too, the next lines show.
                let _ = write_all(&mut to, notice.as_bytes());
            }
            self.state.lock().writing_bytes = 0;
        }
    }

    /// The bytes to write next, and how many lines are missing after them; `None` at the end.
    fn next(&self) -> Option<(Vec<u8>, u64)> {
        let mut state = self.state.lock();
        loop {
            if !state.held.is_empty() || state.missing > 0 {
                let lines = std::mem::take(&mut state.held);
                state.writing_bytes = lines.len();
                return Some((lines, std::mem::take(&mut state.missing)));
            }
            if state.phase == Phase::Closing {
                state.phase = Phase::Ended;
                self.changed.notify_all();
                return None;
            }
            self.changed.wait(&mut state);
        }
    }
}

/// How many lines these are; each ends with its line ending.
fn count_lines(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Writes everything, however long it takes, even if stderr was set non-blocking by another process.
fn write_all(to: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => park_timeout(PAUSE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Hands the queue to the formatter, which gives each event in one piece.
impl<'a> MakeWriter<'a> for Queue {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &Queue {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.push(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The size of the queue. 1 MiB: some 5,000 lines, or one second of a busy gateway that logs its calls; collectors pause for
/// less than that.
const HELD_BYTES: usize = 1 << 20;
/// The pause between two attempts to write to a stderr that would block.
const PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, pipe};

    const GUARD: Duration = Duration::from_secs(60);

    #[test]
    fn pipe_that_is_not_read_delays_no_logging_and_dropped_lines_are_reported() {
        let (mut from, to) = pipe().unwrap();
        let metrics = Metrics::default();
        let queue = Queue::start(to, metrics.clone()).unwrap();
        let line = format!("{}\n", "x".repeat(99));
        // All that the pipe and the queue hold, and as much again.
        for _ in 0..30_000 {
            queue.push(line.as_bytes());
        }
        let dropped = metrics.dropped.get();
        assert!((1..30_000).contains(&dropped), "{dropped}");
        let reading = thread::spawn(move || {
            let mut text = String::new();
            from.read_to_string(&mut text).unwrap();
            text
        });
        queue.close(GUARD);
        queue.push(b"too late\n");
        drop(queue);
        let text = reading.join().unwrap();
        let (lines, notices): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with('x'));
        assert_eq!(lines.len() as u64, 30_000 - dropped);
        let told: u64 =
            notices.iter().map(|notice| notice.split(' ').nth(1).unwrap().parse::<u64>().unwrap()).sum();
        assert_eq!(told, dropped, "{notices:?}");
        assert_eq!(metrics.dropped.get(), dropped + 1);
    }

    #[test]
    fn each_line_of_a_piece_without_room_is_counted() {
        let (_from, to) = pipe().unwrap();
        let metrics = Metrics::default();
        let queue = Queue::start(to, metrics.clone()).unwrap();
        queue.push(&vec![b'x'; HELD_BYTES]);
        queue.push(b"one\ntwo\n");
        assert_eq!(metrics.dropped.get(), 2);
    }

    #[test]
    fn closing_has_a_deadline() {
        let (_from, to) = pipe().unwrap();
        let queue = Queue::start(to, Metrics::default()).unwrap();
        queue.push(&vec![b'x'; HELD_BYTES]);
        queue.close(Duration::ZERO);
        let state = queue.shared.state.lock();
        assert!(
            state.phase == Phase::Closing && state.held.len() + state.writing_bytes > 0,
            "no pipe takes it all"
        );
    }

    #[test]
    fn lines_for_a_closed_stderr_are_counted() {
        let (from, to) = pipe().unwrap();
        drop(from);
        let metrics = Metrics::default();
        let queue = Queue::start(to, metrics.clone()).unwrap();
        queue.push(b"one\ntwo\n");
        queue.close(GUARD);
        assert_eq!(metrics.dropped.get(), 2);
    }
}
