//! Busy polling: while messages arrive within microseconds of each other, a single serving thread polls for the next one
//! instead of sleeping.
//!
//! Waking a thread takes as long as serving a small call, or longer, because an idle core has to wake up too. So after each
//! arrival the thread keeps polling for one window before it sleeps. That helps only if the next message mostly arrives in
//! time, so it goes on while at least every second window finds something (`Habit`), and is tried again now and then. A
//! process with nothing to do sleeps at once.
//!
//! The poller is a task that yields repeatedly: between its turns the runtime asks the kernel for events without waiting.
//! With several threads another one would wait in the kernel meanwhile and be woken as usual, so busy polling is for one
//! thread alone. What other threads hand to it (files, resolved names) may wait for some turns, as among any tasks. A
//! client's messages on standard input come from such a thread and are not counted; its servers' messages are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::drain::DrainWatch;
use super::metrics::words;

/// How long the thread polls before it sleeps. 50 µs: a fast server on the same machine has answered by then, and waking
/// costs about as much.
pub const WINDOW: Duration = Duration::from_micros(50);

/// The longest window that may be configured. Waiting longer is not worth a core.
pub const LONGEST: Duration = Duration::from_millis(1);

/// The busy poller of the process. Cheap to clone.
#[derive(Clone)]
pub struct BusyPoll {
    shared: Arc<Shared>,
}

struct Shared {
    /// Zero turns busy polling off.
    window: Duration,
    arrivals: Counter,
    /// The number of arrivals when the thread last slept or polled.
    seen: AtomicU64,
    habit: Habit,
    wake: Notify,
    windows: Family<WindowLabel, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WindowLabel {
    found: Found,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Found {
    Something,
    Nothing,
}

words!(Found { Something => "something", Nothing => "nothing" });

impl BusyPoll {
    /// Polls for `window` after each arrival; never if it is zero.
    pub fn new(window: Duration) -> Self {
        let shared = Shared {
            window,
            arrivals: Counter::default(),
            seen: AtomicU64::new(0),
            habit: Habit::default(),
            wake: Notify::new(),
            windows: Family::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The counter of arrivals. Readers count each request of a client and each message of a server.
    pub fn arrivals(&self) -> Counter {
        self.shared.arrivals.clone()
    }

    /// Registers under the process's prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "arrivals",
            "Requests of clients and messages of servers that were read; not those of a client on standard input",
            self.arrivals(),
        );
        registry.register(
            "busy_poll_windows",
            "Times the thread looked for more in the place of sleeping, by what it found; where that is mostly nothing it sleeps at once, and a longer `busy_poll` may find more",
            self.shared.windows.clone(),
        );
    }

    /// Must be called by the runtime's thread whenever it is about to sleep.
    pub fn parks(&self) {
        let Shared { window, arrivals, seen, habit, wake, .. } = &*self.shared;
        let arrived = arrivals.get();
        if !window.is_zero() && seen.swap(arrived, Ordering::Relaxed) != arrived && habit.may_look() {
            wake.notify_one();
        }
    }

    /// Polls when that is likely to pay, until the process drains.
    pub async fn run(self, drain: DrainWatch) {
        let Shared { arrivals, seen, habit, wake, windows, .. } = &*self.shared;
        let [nothing, something] = [Found::Nothing, Found::Something]
            .map(|found| windows.get_or_create_owned(&WindowLabel { found }));
        loop {
            tokio::select! {
                () = wake.notified() => {}
                () = drain.leaving() => return,
            }
            let mut before = arrivals.get();
            loop {
                if drain.is_leaving() {
                    return;
                }
                let found = self.poll(before).await;
                habit.learn(found.is_some());
                let Some(arrived) = found else { break };
                something.inc();
                before = arrived;
            }
            nothing.inc();
            seen.store(before, Ordering::Relaxed);
        }
    }

    /// The number of arrivals as soon as it is above `before`; `None` if that does not happen within the window.
    async fn poll(&self, before: u64) -> Option<u64> {
        let until = Instant::now() + self.shared.window;
        loop {
            tokio::task::yield_now().await;
            let arrived = self.shared.arrivals.get();
            if arrived != before {
                return Some(arrived);
            }
            if Instant::now() >= until {
                return None;
            }
        }
    }
}

/// Whether polling pays, judged by recent windows.
struct Habit {
    /// Raised by each window that found something, lowered by each that did not; at zero there are no windows.
    credit: AtomicU32,
    /// How often a window was skipped for lack of credit.
    passed: AtomicU32,
}

impl Default for Habit {
    fn default() -> Self {
        Self { credit: AtomicU32::new(MOST_CREDIT), passed: AtomicU32::new(0) }
    }
}

impl Habit {
    fn may_look(&self) -> bool {
        self.credit.load(Ordering::Relaxed) > 0
            || self.passed.fetch_add(1, Ordering::Relaxed) % TRIED_EVERY == TRIED_EVERY - 1
    }

    fn learn(&self, found: bool) {
        let credit = self.credit.load(Ordering::Relaxed);
        let credit = if found { (credit + 1).min(MOST_CREDIT) } else { credit.saturating_sub(1) };
        self.credit.store(credit, Ordering::Relaxed);
    }
}

/// The most windows in a row that may find nothing. 8: a pause between two bursts costs 0.4 ms of a core at most.
const MOST_CREDIT: u32 = 8;
/// Without credit, one in this many sleeps is still delayed by a window. 64: at a thousand sleeps a second, as with calls of
/// a slow server, it costs less than a thousandth of a core.
const TRIED_EVERY: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_continues_while_every_second_window_finds_something() {
        let habit = Habit::default();
        for _ in 0..100 {
            habit.learn(false);
            assert!(habit.may_look());
            habit.learn(true);
        }
    }

    #[test]
    fn polling_that_finds_nothing_stops_and_is_retried() {
        let habit = Habit::default();
        for _ in 0..MOST_CREDIT {
            assert!(habit.may_look());
            habit.learn(false);
        }
        let tries = (0..10 * TRIED_EVERY).filter(|_| habit.may_look()).count();
        assert_eq!(tries, 10);
        habit.learn(true);
        assert!(habit.may_look());
    }

    /// A runtime of one thread with a busy poller of this `window`, and the poller.
    fn runtime(window: Duration) -> (tokio::runtime::Runtime, BusyPoll) {
        let busy = BusyPoll::new(window);
        let hook = busy.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_thread_park(move || hook.parks())
            .build()
            .unwrap();
        (runtime, busy)
    }

    fn windows(busy: &BusyPoll, found: Found) -> u64 {
        busy.shared.windows.get_or_create(&WindowLabel { found }).get()
    }

    async fn until(condition: impl Fn() -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(60), async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        waited.await.expect("it should have come to pass");
    }

    #[test]
    fn arrival_starts_one_window_of_polling() {
        let (runtime, busy) = runtime(WINDOW);
        let drain = super::super::drain::Drain::new();
        let task = runtime.spawn(busy.clone().run(drain.watch()));
        let arrivals = busy.arrivals();
        runtime.block_on(async {
            tokio::spawn(async move { arrivals.inc() }).await.unwrap();
            until(|| windows(&busy, Found::Nothing) == 1).await;
            // The thread has slept and been woken many times since; nothing has arrived.
            for _ in 0..20 {
                tokio::spawn(tokio::time::sleep(Duration::from_millis(1))).await.unwrap();
            }
            assert_eq!((windows(&busy, Found::Nothing), windows(&busy, Found::Something)), (1, 0));
            drain.run(Duration::ZERO, Duration::ZERO).await;
            task.await.unwrap();
        });
    }

    #[test]
    fn arrival_within_the_window_is_found_without_sleeping() {
        // Of an hour, so that a slow machine finds it too.
        let (runtime, busy) = runtime(Duration::from_secs(3600));
        let drain = super::super::drain::Drain::new();
        runtime.spawn(busy.clone().run(drain.watch()));
        let arrivals = busy.arrivals();
        runtime.block_on(async {
            tokio::spawn(async move { arrivals.inc() }).await.unwrap();
            let arrivals = busy.arrivals();
            until(|| {
                arrivals.inc();
                windows(&busy, Found::Something) >= 3
            })
            .await;
            assert_eq!(windows(&busy, Found::Nothing), 0);
        });
        runtime.shutdown_background();
    }

    #[test]
    fn zero_window_turns_polling_off() {
        let (runtime, busy) = runtime(Duration::ZERO);
        let drain = super::super::drain::Drain::new();
        runtime.spawn(busy.clone().run(drain.watch()));
        let arrivals = busy.arrivals();
        runtime.block_on(async {
            for _ in 0..20 {
                arrivals.inc();
                tokio::spawn(tokio::time::sleep(Duration::from_millis(1))).await.unwrap();
            }
            assert_eq!(windows(&busy, Found::Nothing) + windows(&busy, Found::Something), 0);
        });
    }
}
