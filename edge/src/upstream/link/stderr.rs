//! The stderr of a local process in the gateway's log: one event for each line, up to a bound. What is over it is read
//! all the same, because a full pipe would stop the process, and dropped. It must not know what the lines say.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::consume_budget;
use tokio::time::{Instant, sleep, timeout_at};
use wire::Frame;
use wire::frame::FrameDecoder;

use crate::call::ServerName;
use crate::upstream::metrics::ServerMetrics;

/// Logs stderr until the last process that holds the pipe ends.
pub(super) async fn log(server: ServerName, metrics: Arc<ServerMetrics>, stderr: impl AsyncRead + Unpin) {
    let log = |entry: Entry<'_>| match entry {
        Entry::Line(line) => {
            tracing::info!(%server, line = %String::from_utf8_lossy(line), "stderr");
        }
        Entry::TooLong { bytes } => tracing::info!(%server, bytes, "stderr line too long to show"),
        Entry::LeftOut { lines } => tracing::warn!(%server, lines, "lines of stderr left out"),
    };
    Relay::new(metrics, log).run(stderr).await;
}

/// What is logged of stderr.
enum Entry<'e> {
    Line(&'e [u8]),
    TooLong {
        bytes: u64,
    },
    /// So many lines were dropped.
    LeftOut {
        lines: u64,
    },
}

struct Relay<L> {
    decoder: FrameDecoder,
    metrics: Arc<ServerMetrics>,
    log: L,
    window_ends: Instant,
    /// Bytes that may still be logged in this window.
    room: usize,
    /// How many lines of this window were dropped. The log says so at its end.
    left_out: u64,
}

impl<L: FnMut(Entry<'_>)> Relay<L> {
    fn new(metrics: Arc<ServerMetrics>, log: L) -> Self {
        let decoder = FrameDecoder::new(LINE_BYTES);
        Self { decoder, metrics, log, window_ends: Instant::now(), room: 0, left_out: 0 }
    }

    async fn run(mut self, mut stderr: impl AsyncRead + Unpin) {
        loop {
            let buffer = self.decoder.buffer();
            buffer.reserve(READ_BYTES);
            let read = stderr.read_buf(buffer);
            let read = if self.left_out == 0 {
                read.await
            } else if let Ok(read) = timeout_at(self.window_ends, read).await {
                read
            } else {
                self.say_left_out();
                continue;
            };
            if !matches!(read, Ok(1..)) {
                break;
            }
            self.take().await;
            sleep(PAUSE).await;
        }
        if let Some(frame) = self.decoder.finish() {
            self.frame(frame);
        }
        self.say_left_out();
    }

    /// Logs the lines that were read, as far as there is room. The others cost no more than their bytes.
    async fn take(&mut self) {
        let now = Instant::now();
        if now >= self.window_ends {
            self.say_left_out();
            (self.window_ends, self.room) = (now + WINDOW, WINDOW_BYTES);
        }
        while self.room > 0 {
            let Some(frame) = self.decoder.next() else { return };
            self.frame(frame);
            consume_budget().await;
        }
        let lines = self.decoder.discard();
        self.leave_out(lines);
    }

    fn frame(&mut self, frame: Frame) {
        let (entry, bytes) = match &frame {
            _ if self.room == 0 => return self.leave_out(1),
            Frame::Line(line) => (Entry::Line(line), line.len()),
            Frame::TooLong { bytes, .. } => (Entry::TooLong { bytes: *bytes }, 0),
        };
        (self.log)(entry);
        self.room = self.room.saturating_sub(bytes + ADDED_BYTES);
    }

    fn leave_out(&mut self, lines: u64) {
        self.left_out += lines;
        self.metrics.stderr_left_out.inc_by(lines);
    }

    fn say_left_out(&mut self) {
        if self.left_out > 0 {
            (self.log)(Entry::LeftOut { lines: std::mem::take(&mut self.left_out) });
        }
    }
}

/// The bytes that are logged in one [`WINDOW`], with what the log adds. 256 KiB: the longest stack trace that a JVM
/// prints, of 1,024 frames, goes in whole; of a process that never stops writing it is 2 GB a day.
const WINDOW_BYTES: usize = 256 << 10;
/// 10 s: as often as dropped messages are logged. An error that repeats itself is seen again soon.
const WINDOW: Duration = Duration::from_secs(10);
/// What the log adds to a line: time, level, place, server. 100 bytes, as it comes to.
const ADDED_BYTES: usize = 100;
/// After each read. 1 ms: nobody sees a line come later by that, and a flood is not worth more than a thousand reads a
/// second of the thread that serves everybody.
const PAUSE: Duration = Duration::from_millis(1);
/// Room for each read. 64 KiB: what the pipe holds, so that one read empties it.
const READ_BYTES: usize = 64 << 10;
/// The longest line that is logged. 16 KiB: longer than any log line that a person reads.
const LINE_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tokio::io::AsyncWriteExt;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::upstream::metrics::Metrics;

    /// A relay whose log is kept, and its stderr.
    struct Bench {
        stderr: tokio::io::DuplexStream,
        said: Arc<Mutex<Vec<String>>>,
        metrics: Arc<ServerMetrics>,
        task: JoinHandle<()>,
    }

    impl Bench {
        fn new() -> Self {
            let metrics = Metrics::default().server(&ServerName::parse("local").unwrap());
            let said = Arc::new(Mutex::new(Vec::new()));
            let (stderr, incoming) = tokio::io::duplex(READ_BYTES);
            let log = {
                let said = said.clone();
                move |entry: Entry<'_>| {
                    said.lock().push(match entry {
                        Entry::Line(line) => String::from_utf8_lossy(line).into_owned(),
                        Entry::TooLong { bytes } => format!("too long: {bytes}"),
                        Entry::LeftOut { lines } => format!("left out: {lines}"),
                    });
                }
            };
            let task = tokio::spawn(Relay::new(metrics.clone(), log).run(incoming));
            Self { stderr, said, metrics, task }
        }

        async fn write(&mut self, text: &str) {
            self.stderr.write_all(text.as_bytes()).await.unwrap();
        }

        /// What is logged within a second.
        async fn said(&self) -> Vec<String> {
            sleep(Duration::from_secs(1)).await;
            std::mem::take(&mut *self.said.lock())
        }

        async fn end(self) -> Vec<String> {
            drop(self.stderr);
            self.task.await.unwrap();
            std::mem::take(&mut *self.said.lock())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_logged_up_to_the_bound_and_then_counted() {
        let mut bench = Bench::new();
        let lines = 100_000;
        bench.write(&"E\n".repeat(lines)).await;
        let said = bench.said().await;
        let most = WINDOW_BYTES.div_ceil("E".len() + ADDED_BYTES);
        assert_eq!(said.len(), most);
        assert!(said.iter().all(|line| line == "E"));
        let left_out = (lines - most) as u64;
        assert_eq!(bench.metrics.stderr_left_out.get(), left_out, "at once");

        // Said once, at the end of the window, though nothing more comes.
        sleep(WINDOW).await;
        assert_eq!(bench.said().await, [format!("left out: {left_out}")]);
        bench.write("again\n").await;
        assert_eq!(bench.said().await, ["again"]);
        assert!(bench.end().await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_left_out_is_said_at_the_end_and_before_the_next_window() {
        let mut bench = Bench::new();
        let line = format!("{}\n", "x".repeat(1000));
        bench.write(&line.repeat(WINDOW_BYTES / 1000)).await;
        let first = bench.said().await.len();
        assert!(first < WINDOW_BYTES / 1000);
        sleep(WINDOW).await;
        bench.write("next\nand an unfinished one").await;
        let left_out = format!("left out: {}", WINDOW_BYTES / 1000 - first);
        assert_eq!(bench.said().await, [left_out.as_str(), "next"]);
        assert_eq!(bench.end().await, ["and an unfinished one"]);

        let mut bench = Bench::new();
        bench.write(&line.repeat(WINDOW_BYTES / 1000)).await;
        bench.write("unfinished").await;
        assert_eq!(bench.said().await.len(), first);
        assert_eq!(bench.end().await, [format!("left out: {}", WINDOW_BYTES / 1000 - first + 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stack_trace_of_the_longest_goes_in_whole() {
        let mut bench = Bench::new();
        let frame = "\tat org.example.some.project.internal.parser.RecursiveDescent.expression(RecursiveDescent.java:1024)\n";
        bench.write("java.lang.StackOverflowError\n").await;
        bench.write(&frame.repeat(1024)).await;
        assert_eq!(bench.said().await.len(), 1025);
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_never_ends_takes_no_memory() {
        let mut bench = Bench::new();
        let long = "x".repeat(1 << 20);
        bench.write(&long).await;
        bench.write("\nshort\n").await;
        assert_eq!(bench.said().await, [format!("too long: {}", 1 << 20), "short".to_owned()]);
        // Also where lines are dropped.
        bench.write(&"E\n".repeat(WINDOW_BYTES)).await;
        bench.said().await;
        bench.write(&long).await;
        bench.write("\n").await;
        sleep(Duration::from_secs(1)).await;
        let counted = bench.metrics.stderr_left_out.get();
        sleep(WINDOW).await;
        bench.write("short\n").await;
        assert_eq!(bench.said().await, [format!("left out: {counted}"), "short".to_owned()]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_leaves_other_tasks_their_turns() {
        let mut bench = Bench::new();
        // Runs only while the relay waits; what it logs in one go is what others wait for.
        let said = bench.said.clone();
        let watch = tokio::spawn(async move {
            let (mut before, mut most) = (0, 0);
            loop {
                tokio::task::yield_now().await;
                let now = said.lock().len();
                (most, before) = (most.max(now - before), now);
                if now > 2000 {
                    return most;
                }
            }
        });
        bench.write(&"E\n".repeat(10_000)).await;
        let most = watch.await.unwrap();
        assert!(most <= 256, "{most} lines in one turn");
    }
}
