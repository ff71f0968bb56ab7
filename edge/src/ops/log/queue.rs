//! Lines on their way to stderr, written by a thread of their own.
//!
//! Guarantees: whoever logs never waits, because executors log and a collector that stops reading would stop the data
//! plane; what is held is bounded in bytes; what finds no room is counted, and the log says where it is missing.
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

/// What is counted of the log.
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

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// There is something to write, or nothing any more.
    changed: Condvar,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    held: Vec<u8>,
    /// Taken from `held`, and not written yet.
    writing_bytes: usize,
    /// Lines for which there was no room after those of `held`.
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
    /// Its thread writes to `to` until it is closed; one that cannot write any more ends with the process.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub(super) fn start(to: impl Write + Send + 'static, metrics: Metrics) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), metrics });
        let queue = Self { shared: shared.clone() };
        thread::Builder::new().name("log".to_owned()).spawn(move || shared.write(to))?;
        Ok(queue)
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Takes a line with its end, or several.
    pub(super) fn push(&self, lines: &[u8]) {
        let mut state = self.shared.state.lock();
        let held = state.held.len() + state.writing_bytes;
        if state.phase == Phase::Ended || held + lines.len() > HELD_BYTES {
            state.missing += 1;
            self.shared.metrics.dropped.inc();
            return;
        }
        let was_idle = state.held.is_empty();
        state.held.extend_from_slice(lines);
        drop(state);
        if was_idle {
            self.shared.changed.notify_all();
        }
    }

    /// Waits until all is written that was pushed before, at most so long.
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
                // Nobody will ever read them; serving goes on without a log.
                self.metrics.dropped.inc_by(lines.iter().filter(|byte| **byte == b'\n').count() as u64);
            } else if missing > 0 {
                let notice = format!("mcp-edge: {missing} lines dropped, stderr was not read\n");
                // Whether this is read too, the next lines show.
                let _ = write_all(&mut to, notice.as_bytes());
            }
            self.state.lock().writing_bytes = 0;
        }
    }

    /// What is to be written next, and how many lines are missing after it; `None` at the end.
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

/// Waits for as long as it takes, also where somebody made our stderr one that does not wait.
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

/// What is held at a time. 1 MiB: some 5,000 lines, a second of a busy gateway that logs its calls; collectors pause for less.
const HELD_BYTES: usize = 1 << 20;
/// Between two looks at a stderr that takes nothing at the moment.
const PAUSE: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, pipe};

    const GUARD: Duration = Duration::from_secs(60);

    #[test]
    fn nobody_waits_for_a_pipe_that_is_not_read_and_what_is_missing_is_told() {
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
    fn what_nobody_can_read_any_more_is_counted() {
        let (from, to) = pipe().unwrap();
        drop(from);
        let metrics = Metrics::default();
        let queue = Queue::start(to, metrics.clone()).unwrap();
        queue.push(b"one\ntwo\n");
        queue.close(GUARD);
        assert_eq!(metrics.dropped.get(), 2);
    }
}
