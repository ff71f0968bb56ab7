//! Logging: one line per event on stderr.
//!
//! Guarantees: an event is one line whatever its fields hold, because they may hold text from a server; logging never waits
//! for stderr to be read (`log/queue.rs`). Callers must never log arguments, results or credentials.

mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, Write};
use std::panic::{self, PanicHookInfo};
use std::thread;
use std::time::Duration;

use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry;

use self::queue::Queue;

pub use self::queue::Metrics;

/// What is logged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Also log the steps of each call.
    pub verbose: bool,
    /// Levels by target, such as `edge=debug,hyper=info`, instead of the default ones.
    pub levels: Option<Targets>,
}

/// The log of the whole process; it ends when this is dropped.
pub struct Log {
    queue: Queue,
}

impl Log {
    /// Sends the events of the whole process to stderr, including panics.
    ///
    /// # Errors
    /// A log was started before, or no thread can be started.
    pub fn start(config: &Config) -> io::Result<Self> {
        let queue = Queue::start(io::stderr(), Metrics::default())?;
        let subscriber = subscriber(config, queue.clone());
        tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
        // The standard hook writes to stderr itself, and could block.
        panic::set_hook(Box::new(panicked));
        Ok(Self { queue })
    }

    /// Writes a line of the process itself, after everything that was logged before.
    pub fn say(&self, line: &str) {
        self.queue.push(format!("{line}\n").as_bytes());
    }

    /// Waits, for a limited time, until everything logged so far is written. Later events are lost.
    pub fn end(&self) {
        self.queue.close(LAST_LINES);
    }

    /// The metrics of the log.
    pub fn metrics(&self) -> &Metrics {
        self.queue.metrics()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.end();
    }
}

fn panicked(panic: &PanicHookInfo<'_>) {
    let (thread, backtrace) = (thread::current(), Backtrace::capture());
    // Captured only if RUST_BACKTRACE is set.
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(target: PANIC, thread = thread.name(), %panic, backtrace, "a task panicked");
}

fn subscriber<W>(config: &Config, writer: W) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = fmt::layer().with_ansi(false).with_writer(OneLine(writer));
    registry().with(layer.with_filter(levels(config)))
}

/// Our own events at debug if asked for; those of libraries only from warnings on, because below that they include headers
/// and bytes.
fn levels(config: &Config) -> Targets {
    let own = if config.verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
    let default =
        || Targets::new().with_default(LevelFilter::WARN).with_targets([("edge", own), ("mcp_edge", own)]);
    // Panics are always logged: a panic is a bug, and nothing else reports it.
    config.levels.clone().unwrap_or_else(default).with_target(PANIC, LevelFilter::ERROR)
}

struct OneLine<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for OneLine<W> {
    type Writer = Line<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(self.0.make_writer())
    }
}

/// The writer of one event, which the formatter writes in one piece.
struct Line<W>(W);

impl<W: Write> Write for Line<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = event.strip_suffix(b"\n").unwrap_or(event);
        if text.iter().any(u8::is_ascii_control) {
            let mut line: Vec<u8> =
                text.iter().map(|byte| if byte.is_ascii_control() { b' ' } else { *byte }).collect();
            line.push(b'\n');
            self.0.write_all(&line)?;
        } else {
            self.0.write_all(event)?; // one write, so that lines of several threads do not mix
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The target of panics.
const PANIC: &str = "panic";
/// How long the last lines of a process may take. A second: less than what remains of a pod's 30 s after the drain.
const LAST_LINES: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(config: &Config, emit: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        tracing::subscriber::with_default(subscriber(config, move || writer.clone()), emit);
        String::from_utf8(sink.0.lock().clone()).unwrap()
    }

    #[test]
    fn event_with_line_breaks_is_one_line() {
        let text = logged(&Config::default(), || {
            tracing::info!(target: "edge", words = %"a\nforged\x1b[31m line\r", "server said");
        });
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(text.ends_with('\n') && !text.contains(['\r', '\x1b']), "{text:?}");
    }

    #[test]
    fn verbose_shows_more_of_ours_and_nothing_more_of_libraries() {
        let emit = || {
            tracing::debug!(target: "edge::front", "own step");
            tracing::info!(target: "hyper::proto", "foreign step");
            tracing::warn!(target: "hyper::proto", "foreign warning");
        };
        let quiet = logged(&Config::default(), emit);
        assert!(!quiet.contains("step") && quiet.contains("foreign warning"), "{quiet}");
        let verbose = logged(&Config { verbose: true, levels: None }, emit);
        assert!(verbose.contains("own step") && !verbose.contains("foreign step"), "{verbose}");
        let levels = Some("hyper=info".parse().unwrap());
        let chosen = logged(&Config { verbose: true, levels }, emit);
        assert!(!chosen.contains("own step") && chosen.contains("foreign step"), "{chosen}");
    }

    #[test]
    fn panic_is_logged_at_every_level() {
        for levels in ["off", "hyper=info", "edge=off"] {
            let levels = Some(levels.parse().unwrap());
            let emit = || tracing::error!(target: PANIC, "a task panicked");
            assert!(logged(&Config { verbose: false, levels }, emit).contains("panicked"));
        }
    }
}
