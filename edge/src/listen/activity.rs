//! Whether a connection is doing anything: what its stream ([`Watched`](super::watched::Watched)) tells of bytes, the
//! count of requests, and the deadlines that follow from both.
//!
//! ```text
//! Opening ──request──▶ Busy ◀──request── Idle ◀─────┐
//!    │                  └──last one ends──▶│        │
//!    │                                     └─bytes─▶ Head (HTTP/1 only)
//!    ▼ first request late                  ▼ idle too long   ▼ head too slow     (terminal: the connection ends)
//! ```
//! hyper has one timer for an idle connection and for a slow head; load balancers keep idle connections for
//! ten minutes, and a head must not take that long. HTTP/2 has neither in hyper.
//!
//! And hyper does not hear that an HTTP/1 client has left as long as it holds bytes behind the request. The connection's
//! task then has its stream look every now and then.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker, ready};
use std::time::Duration;

use http::Version;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::http::Config;
use crate::ops::metrics::words;

/// What a connection was doing when its time ran out; the label of `mcp_edge_connection_timeouts_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    Opening,
    Head,
    Idle,
    /// Answers, not taken. Over HTTP/2 a long one is reset and its connection goes on; all others end it.
    Answer,
}

words!(Phase { Opening => "opening", Head => "head", Idle => "idle", Answer => "answer" });

/// Shared by the stream, the requests and the task of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
    /// hyper got bytes and has not waited for more since. Beside the lock, for it changes with every read.
    inattentive: AtomicBool,
    /// The stream is to look whether its client has left.
    look: AtomicBool,
    head_timeout: Duration,
    idle_timeout: Duration,
    write_timeout: Duration,
}

#[derive(Debug)]
struct State {
    phase: Current,
    debts: Debts,
    /// HTTP/2 was seen: bytes between requests are pings and window updates, not the head of a request.
    multiplexed: bool,
    /// The process leaves: the next answer is the last.
    leaving: bool,
    /// The client took nothing of what was written for too long.
    untaken: bool,
    /// When the stream looks next.
    look_at: Option<Instant>,
    /// The connection's task. Requests of HTTP/2 end in tasks of their own.
    task: Option<Waker>,
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug)]
enum Due {
    End(Phase),
    Debts,
    Look,
}

#[derive(Debug)]
enum Current {
    Waiting { phase: Phase, until: Instant },
    Busy { requests: usize },
}

/// Short answers that h2 took whole and has not written: their streams are over for all but h2, so that only the
/// connection can end them. Two counts in the place of a timer each: what is there at the end of the period after its own has
/// been there for one `write_timeout` at least, and two at most.
#[derive(Debug, Default)]
struct Debts {
    /// Of this period, and of the one before.
    young: usize,
    old: usize,
    period: u64,
    /// When the period ends; none while there are no debts.
    until: Option<Instant>,
}

impl Debts {
    /// At the end of a period: whether any debt is of the one before.
    fn turn(&mut self, period: Duration) -> bool {
        if self.old > 0 {
            return true;
        }
        if self.young == 0 {
            self.until = None; // paid by another thread meanwhile
            return false;
        }
        (self.old, self.young) = (self.young, 0);
        self.period += 1;
        self.until = Some(Instant::now() + period);
        false
    }

    fn paid(&mut self, period: u64) {
        let count = if period == self.period { &mut self.young } else { &mut self.old };
        *count -= 1;
        if self.young + self.old == 0 {
            self.until = None;
        }
    }
}

impl Activity {
    pub(super) fn new(config: &Config, leaving: bool) -> Arc<Self> {
        let phase = Current::Waiting { phase: Phase::Opening, until: Instant::now() + config.head_timeout };
        Arc::new(Self {
            state: Mutex::new(State {
                phase,
                debts: Debts::default(),
                multiplexed: false,
                leaving,
                untaken: false,
                look_at: None,
                task: None,
            }),
            inattentive: AtomicBool::new(false),
            look: AtomicBool::new(false),
            head_timeout: config.head_timeout,
            idle_timeout: config.idle_timeout,
            write_timeout: config.write_timeout,
        })
    }

    /// A request begins; it ends when the guard is dropped.
    pub(super) fn request(self: &Arc<Self>, version: Version) -> InFlight {
        let mut state = self.state.lock();
        state.multiplexed |= version == Version::HTTP_2;
        state.phase = match state.phase {
            Current::Busy { requests } => Current::Busy { requests: requests + 1 },
            Current::Waiting { .. } => Current::Busy { requests: 1 },
        };
        InFlight { activity: self.clone() }
    }

    /// From now on answers are the last of their connection.
    pub(super) fn leave(&self) {
        self.state.lock().leaving = true;
    }

    /// Whether an answer that begins now must say that it is the last. HTTP/2 has no such header
    /// (RFC 9113 §8.2.2).
    pub(super) fn is_last_answer(&self) -> bool {
        let state = self.state.lock();
        state.leaving && !state.multiplexed
    }

    /// Whether the connection can be told to leave without losing a request that is being sent right now:
    /// HTTP/2 has GOAWAY for that, HTTP/1 only the answer to a request.
    pub(super) fn may_leave(&self) -> bool {
        let state = self.state.lock();
        state.multiplexed || matches!(state.phase, Current::Busy { .. })
    }

    /// A write has made no progress for too long; the connection ends.
    pub(super) fn not_taken(&self) {
        self.state.lock().untaken = true;
    }

    /// Whether the connection ended so.
    pub(super) fn was_not_taken(&self) -> bool {
        self.state.lock().untaken
    }

    /// Resolves when the connection has done nothing, or its client taken nothing, for too long. Must be polled by the
    /// connection's task after the connection itself, so that it sees what that did.
    pub(super) async fn expired(&self) -> Phase {
        let mut timer = pin!(sleep(self.idle_timeout));
        poll_fn(|context| {
            loop {
                let Some((due, until)) = self.deadline(context.waker()) else { return Poll::Pending };
                // A deadline moves away with every request. The timer follows when it fires, not before.
                if until < timer.deadline() {
                    timer.as_mut().reset(until);
                }
                ready!(timer.as_mut().poll(context));
                if timer.deadline() < until {
                    timer.as_mut().reset(until);
                    continue;
                }
                match due {
                    Due::End(phase) => return Poll::Ready(phase),
                    Due::Debts if self.state.lock().debts.turn(self.write_timeout) => {
                        return Poll::Ready(Phase::Answer);
                    }
                    Due::Debts => {}
                    Due::Look => {
                        self.state.lock().look_at = Some(Instant::now() + LOOK_EVERY);
                        self.look.store(true, Ordering::Relaxed);
                        context.waker().wake_by_ref(); // the stream is polled by the same task
                    }
                }
            }
        })
        .await
    }

    fn deadline(&self, task: &Waker) -> Option<(Due, Instant)> {
        let mut state = self.state.lock();
        if !state.task.as_ref().is_some_and(|known| known.will_wake(task)) {
            state.task = Some(task.clone());
        }
        let inattentive = !state.multiplexed && self.inattentive.load(Ordering::Relaxed);
        let phase = match state.phase {
            Current::Waiting { phase, until } => Some((Due::End(phase), until)),
            Current::Busy { .. } if inattentive => {
                Some((Due::Look, *state.look_at.get_or_insert_with(|| Instant::now() + LOOK_EVERY)))
            }
            Current::Busy { .. } => None,
        };
        if !matches!(phase, Some((Due::Look, _))) {
            state.look_at = None;
        }
        let untaken = state.debts.until.map(|until| (Due::Debts, until));
        phase.into_iter().chain(untaken).min_by_key(|(_, until)| *until)
    }

    /// hyper waits for bytes, and so for the end of them.
    pub(super) fn waits_for_bytes(&self) {
        self.inattentive.store(false, Ordering::Relaxed);
    }

    /// Whether the stream is to look, once for each time.
    pub(super) fn must_look(&self) -> bool {
        self.look.load(Ordering::Relaxed) && self.look.swap(false, Ordering::Relaxed)
    }

    /// Bytes have come.
    pub(super) fn received(&self) {
        self.inattentive.store(true, Ordering::Relaxed);
        let mut state = self.state.lock();
        if !state.multiplexed && matches!(state.phase, Current::Waiting { phase: Phase::Idle, .. }) {
            let until = Instant::now() + self.head_timeout;
            state.phase = Current::Waiting { phase: Phase::Head, until };
        }
    }

    fn ended(&self) {
        let waker = {
            let mut state = self.state.lock();
            match &mut state.phase {
                Current::Busy { requests } if *requests > 1 => {
                    *requests -= 1;
                    None
                }
                _ => {
                    let until = Instant::now() + self.idle_timeout;
                    state.phase = Current::Waiting { phase: Phase::Idle, until };
                    if state.multiplexed { state.task.take() } else { None }
                }
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// One request, from its head to the last byte of its answer.
#[derive(Debug)]
pub(super) struct InFlight {
    activity: Arc<Activity>,
}

impl InFlight {
    /// An answer has gone over as a whole and is not written yet; the guard stays until it is.
    pub(super) fn owe(&self) -> Debt {
        let mut state = self.activity.state.lock();
        let debts = &mut state.debts;
        debts.until.get_or_insert_with(|| Instant::now() + self.activity.write_timeout);
        debts.young += 1;
        Debt { activity: self.activity.clone(), period: debts.period }
    }
}

/// A short answer that its client has not taken yet.
#[derive(Debug)]
pub(super) struct Debt {
    activity: Arc<Activity>,
    period: u64,
}

impl Drop for Debt {
    fn drop(&mut self) {
        self.activity.state.lock().debts.paid(self.period);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.activity.ended();
    }
}

/// How often a stream looks whether its client has left, where hyper does not: the longest that a call goes on for nobody.
/// 1 s: such clients are rare, and it costs no system call.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn answers_that_are_taken_cost_no_connection_and_one_that_is_not_does() {
        let config = Config { write_timeout: Duration::from_secs(30), ..Config::default() };
        let activity = Activity::new(&config, false);
        let request = activity.request(Version::HTTP_2);
        let (watched, began) = (activity.clone(), Instant::now());
        let expired = tokio::spawn(async move { (watched.expired().await, began.elapsed()) });
        for second in 0..100 {
            let debts = [request.owe(), request.owe()];
            sleep(Duration::from_secs(second % 29)).await;
            drop(debts);
        }
        assert!(!expired.is_finished());
        let (began, _debt) = (began.elapsed(), request.owe());
        tokio::task::yield_now().await;
        let (phase, after) = expired.await.unwrap();
        assert_eq!(phase, Phase::Answer);
        let held = (after - began).as_secs();
        assert!((30..=60).contains(&held), "{held} s");
    }
}
