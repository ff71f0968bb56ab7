//! Busy polling: while answers come within microseconds, the one thread that serves looks for the next one and does not
//! sleep.
//!
//! To be woken takes a thread as long as a small call takes it, or longer: an idle core has to wake up too. So once
//! something has come, the thread goes on looking for the length of a window before it sleeps. That is of use only where
//! the next thing mostly comes in time, so it is kept up while at least every second window finds something
//! (`Habit`), and tried again now and then. A process that gets nothing to do sleeps at once.
//!
//! It is a task that yields over and over: between two turns the runtime asks the kernel for events without a wait. Of
//! several threads another one would sleep in that question meanwhile and be woken as ever, so it is for one alone. What
//! other threads hand to it (files, names that are resolved) may wait for some turns, as among any tasks. What a client
//! writes to standard input comes from such a thread and is not counted; its servers' messages are.

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

/// How long the thread looks for more. 50 µs: a fast server on the same machine has answered by then, and waking costs
/// about as much.
pub const WINDOW: Duration = Duration::from_micros(50);

/// The longest window that may be configured. What comes later than that is not worth a core.
pub const LONGEST: Duration = Duration::from_millis(1);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct BusyPoll {
    shared: Arc<Shared>,
}

struct Shared {
    /// Zero: never.
    window: Duration,
    arrivals: Counter,
    /// The arrivals that have been looked after.
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
    /// Looks for `window` after each arrival; not at all if that is zero.
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

    /// To be counted up by whoever reads: each request of a client, each message of a server.
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

    /// To be called by the thread of the runtime whenever it is about to sleep.
    pub fn parks(&self) {
        let Shared { window, arrivals, seen, habit, wake, .. } = &*self.shared;
        let arrived = arrivals.get();
        if !window.is_zero() && seen.swap(arrived, Ordering::Relaxed) != arrived && habit.may_look() {
            wake.notify_one();
        }
    }

    /// Looks when there is reason to, until the process leaves.
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
                let found = self.look(before).await;
                habit.learn(found.is_some());
                let Some(arrived) = found else { break };
                something.inc();
                before = arrived;
            }
            nothing.inc();
            seen.store(before, Ordering::Relaxed);
        }
    }

    /// The arrivals as soon as there are more than `before`; `None` if there are none within the window.
    async fn look(&self, before: u64) -> Option<u64> {
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

/// Whether looking pays, by what it found lately.
struct Habit {
    /// One more for each window that found something, one less for each that did not; at zero there are no more.
    credit: AtomicU32,
    /// Times it could have looked and had no credit.
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

/// Windows in a row that may find nothing. 8: a pause between two bursts costs 0.4 ms of a core at most.
const MOST_CREDIT: u32 = 8;
/// Without credit one of so many sleeps is put off for a window all the same. 64: at a thousand sleeps a second, which
/// is what calls of a slow server bring, less than a thousandth of a core.
const TRIED_EVERY: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_goes_on_while_every_second_window_finds_something() {
        let habit = Habit::default();
        for _ in 0..100 {
            habit.learn(false);
            assert!(habit.may_look());
            habit.learn(true);
        }
    }

    #[test]
    fn what_finds_nothing_is_given_up_and_tried_again_now_and_then() {
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

    /// A runtime of one thread that polls busily as long as `window`, and the poller.
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
    fn an_arrival_has_the_thread_look_for_more_and_sleep_when_there_is_none() {
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
    fn an_arrival_within_the_window_is_found_awake() {
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
    fn without_a_window_nobody_looks() {
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
