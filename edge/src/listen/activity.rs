//! What a connection is doing: the bytes that its stream ([`TrackedStream`](super::tracked_stream::TrackedStream)) reports,
//! its requests in flight, and the deadlines that follow from both.
//!
//! hyper has one timer for an idle connection and for a slow head; load balancers keep idle connections for ten minutes,
//! and a head must not take that long. For HTTP/2 hyper has neither.
//!
//! Also, hyper does not notice that an HTTP/1 client has left while it holds unread bytes that follow the request. The
//! connection's task then makes its stream check for the client's end of stream every [`CLIENT_CHECK_EVERY`].

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

/// What a connection was doing when a timeout ended it; the label of `mcp_edge_connection_timeouts_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum TimeoutPhase {
    Opening,
    Head,
    Idle,
    /// The client read nothing of an answer. Over HTTP/2 a long answer is reset and the connection goes on; in all other
    /// cases the connection ends.
    Answer,
}

words!(TimeoutPhase { Opening => "opening", Head => "head", Idle => "idle", Answer => "answer" });

/// Shared by the stream, the requests and the task of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
    /// hyper has received bytes and has not asked for more since, so it would not notice the client's end of stream. Outside
    /// the lock, so that a read that finds nothing takes none.
    is_not_reading: AtomicBool,
    /// The stream must check whether the client has left.
    check_client: AtomicBool,
    head_timeout: Duration,
    idle_timeout: Duration,
    write_timeout: Duration,
}

#[derive(Debug)]
struct State {
    connection: Connection,
    unwritten: UnwrittenAnswers,
    /// HTTP/2 was seen: bytes between requests are pings and window updates, not the head of a request.
    multiplexed: bool,
    /// The process drains: the next answer is the last.
    leaving: bool,
    /// A write made no progress for `write_timeout`.
    write_timed_out: bool,
    /// When the stream checks next whether the client has left.
    next_client_check: Option<Instant>,
    /// The connection's task, which must see when the last request ends: requests of HTTP/2 end in tasks of their own.
    task: Option<Waker>,
}

/// The connection's state. Passing `until` ends the connection (terminal).
///
/// ```text
/// Opening ──request──▶ Busy ──last request ends──▶ Idle ──bytes (HTTP/1)──▶ ReadingHead
///                       ▲                            │                           │
///                       └──────────request───────────┴──────────request──────────┘
/// ```
#[derive(Clone, Copy, Debug)]
enum Connection {
    /// No request yet.
    Opening {
        until: Instant,
    },
    Busy {
        requests: usize,
    },
    Idle {
        until: Instant,
    },
    /// HTTP/1 only: a request has begun to arrive.
    ReadingHead {
        until: Instant,
    },
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug)]
enum Deadline {
    EndConnection(TimeoutPhase),
    EndUnwrittenPeriod,
    CheckClient,
}

/// Counts the short answers that h2 has taken whole and not written. Their streams are over except inside h2, so only the
/// end of the connection can end them. Two counts take the place of a timer for each answer: an answer that is still
/// unwritten at the end of the period after its own has been so for `write_timeout` at least, and twice that at most.
#[derive(Debug, Default)]
struct UnwrittenAnswers {
    this_period: usize,
    last_period: usize,
    /// The number of this period.
    period: u64,
    /// When this period ends; `None` while all answers are written.
    until: Option<Instant>,
}

impl UnwrittenAnswers {
    /// Ends a period and starts the next, `length` long. Returns whether an answer of the period before is still unwritten.
    fn end_period(&mut self, length: Duration) -> bool {
        if self.last_period > 0 {
            return true;
        }
        if self.this_period == 0 {
            self.until = None; // written by another thread meanwhile
            return false;
        }
        (self.last_period, self.this_period) = (self.this_period, 0);
        self.period += 1;
        self.until = Some(Instant::now() + length);
        false
    }

    /// An answer of `period` is written.
    fn written(&mut self, period: u64) {
        let count = if period == self.period { &mut self.this_period } else { &mut self.last_period };
        *count -= 1;
        if self.this_period + self.last_period == 0 {
            self.until = None;
        }
    }
}

impl Activity {
    /// A connection that has just opened, in a process that already drains if `leaving`.
    pub(super) fn new(config: &Config, leaving: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                connection: Connection::Opening { until: Instant::now() + config.head_timeout },
                unwritten: UnwrittenAnswers::default(),
                multiplexed: false,
                leaving,
                write_timed_out: false,
                next_client_check: None,
                task: None,
            }),
            is_not_reading: AtomicBool::new(false),
            check_client: AtomicBool::new(false),
            head_timeout: config.head_timeout,
            idle_timeout: config.idle_timeout,
            write_timeout: config.write_timeout,
        })
    }

    /// A request begins; it ends when the guard is dropped.
    pub(super) fn request(self: &Arc<Self>, version: Version) -> InFlight {
        let mut state = self.state.lock();
        state.multiplexed |= version == Version::HTTP_2;
        state.connection = match state.connection {
            Connection::Busy { requests } => Connection::Busy { requests: requests + 1 },
            _ => Connection::Busy { requests: 1 },
        };
        InFlight { activity: self.clone() }
    }

    /// From now on an answer is the last of its connection.
    pub(super) fn leave(&self) {
        self.state.lock().leaving = true;
    }

    /// Whether an answer that begins now must say that it is the last. HTTP/2 has no such header
    /// (RFC 9113 §8.2.2).
    pub(super) fn is_last_answer(&self) -> bool {
        let state = self.state.lock();
        state.leaving && !state.multiplexed
    }

    /// Whether the connection can be told to close without losing a request that is being sent right now: HTTP/2 has GOAWAY
    /// for that, HTTP/1 only the answer to a request.
    pub(super) fn may_leave(&self) -> bool {
        let state = self.state.lock();
        state.multiplexed || matches!(state.connection, Connection::Busy { .. })
    }

    /// A write has made no progress for `write_timeout`; the connection ends.
    pub(super) fn write_timed_out(&self) {
        self.state.lock().write_timed_out = true;
    }

    /// Whether the connection ended because a write made no progress.
    pub(super) fn did_write_time_out(&self) -> bool {
        self.state.lock().write_timed_out
    }

    /// Resolves when the connection has done nothing, or its client has read nothing, for too long. Must be polled by the
    /// connection's task after the connection itself, so that it sees what the connection has just done.
    pub(super) async fn expired(&self) -> TimeoutPhase {
        let mut timer = pin!(sleep(self.idle_timeout));
        poll_fn(|context| {
            loop {
                let Some((deadline, until)) = self.next_deadline(context.waker()) else {
                    return Poll::Pending;
                };
                // Every request moves the deadline to later. The timer follows when it fires, not before.
                if until < timer.deadline() {
                    timer.as_mut().reset(until);
                }
                ready!(timer.as_mut().poll(context));
                if timer.deadline() < until {
                    timer.as_mut().reset(until);
                    continue;
                }
                match deadline {
                    Deadline::EndConnection(phase) => return Poll::Ready(phase),
                    Deadline::EndUnwrittenPeriod => {
                        if self.state.lock().unwritten.end_period(self.write_timeout) {
                            return Poll::Ready(TimeoutPhase::Answer);
                        }
                    }
                    Deadline::CheckClient => {
                        self.state.lock().next_client_check = Some(Instant::now() + CLIENT_CHECK_EVERY);
                        self.check_client.store(true, Ordering::Relaxed);
                        context.waker().wake_by_ref(); // the stream is polled by the same task
                    }
                }
            }
        })
        .await
    }

    fn next_deadline(&self, task: &Waker) -> Option<(Deadline, Instant)> {
        let mut state = self.state.lock();
        if !state.task.as_ref().is_some_and(|known| known.will_wake(task)) {
            state.task = Some(task.clone());
        }
        let end = |phase, until| Some((Deadline::EndConnection(phase), until));
        let must_check = !state.multiplexed && self.is_not_reading.load(Ordering::Relaxed);
        let own = match state.connection {
            Connection::Opening { until } => end(TimeoutPhase::Opening, until),
            Connection::Idle { until } => end(TimeoutPhase::Idle, until),
            Connection::ReadingHead { until } => end(TimeoutPhase::Head, until),
            Connection::Busy { .. } if must_check => {
                let next = state.next_client_check.get_or_insert_with(|| Instant::now() + CLIENT_CHECK_EVERY);
                Some((Deadline::CheckClient, *next))
            }
            Connection::Busy { .. } => None,
        };
        if !matches!(own, Some((Deadline::CheckClient, _))) {
            state.next_client_check = None;
        }
        let unwritten = state.unwritten.until.map(|until| (Deadline::EndUnwrittenPeriod, until));
        own.into_iter().chain(unwritten).min_by_key(|(_, until)| *until)
    }

    /// hyper waits for bytes, and so notices the client's end of stream.
    pub(super) fn waits_for_bytes(&self) {
        self.is_not_reading.store(false, Ordering::Relaxed);
    }

    /// Whether the stream must check now that the client is there. Returns `true` once for each check.
    pub(super) fn take_client_check(&self) -> bool {
        self.check_client.load(Ordering::Relaxed) && self.check_client.swap(false, Ordering::Relaxed)
    }

    /// Bytes have arrived.
    pub(super) fn received(&self) {
        self.is_not_reading.store(true, Ordering::Relaxed);
        let mut state = self.state.lock();
        if !state.multiplexed && matches!(state.connection, Connection::Idle { .. }) {
            state.connection = Connection::ReadingHead { until: Instant::now() + self.head_timeout };
        }
    }

    fn request_ended(&self) {
        let waker = {
            let mut state = self.state.lock();
            match &mut state.connection {
                Connection::Busy { requests } if *requests > 1 => {
                    *requests -= 1;
                    None
                }
                _ => {
                    state.connection = Connection::Idle { until: Instant::now() + self.idle_timeout };
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
    /// The answer ends before h2 has written all of it. The guard counts it until it is written.
    pub(super) fn end_unwritten(&self) -> UnwrittenAnswer {
        let mut state = self.activity.state.lock();
        let unwritten = &mut state.unwritten;
        unwritten.until.get_or_insert_with(|| Instant::now() + self.activity.write_timeout);
        unwritten.this_period += 1;
        UnwrittenAnswer { activity: self.activity.clone(), period: unwritten.period }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.activity.request_ended();
    }
}

/// An answer that has ended and is not written yet.
#[derive(Debug)]
pub(super) struct UnwrittenAnswer {
    activity: Arc<Activity>,
    period: u64,
}

impl Drop for UnwrittenAnswer {
    fn drop(&mut self) {
        self.activity.state.lock().unwritten.written(self.period);
    }
}

/// How often a stream checks whether its client has left while hyper does not: the longest that a call runs on for nobody.
/// 1 s: such clients are rare, and a check costs no system call.
const CLIENT_CHECK_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connection_with_an_unwritten_answer_ends_within_two_write_timeouts() {
        let config = Config { write_timeout: Duration::from_secs(30), ..Config::default() };
        let activity = Activity::new(&config, false);
        let request = activity.request(Version::HTTP_2);
        let (watched, began) = (activity.clone(), Instant::now());
        let expired = tokio::spawn(async move { (watched.expired().await, began.elapsed()) });
        for second in 0..100 {
            let unwritten = [request.end_unwritten(), request.end_unwritten()];
            sleep(Duration::from_secs(second % 29)).await;
            drop(unwritten);
        }
        assert!(!expired.is_finished());
        let (began, _unwritten) = (began.elapsed(), request.end_unwritten());
        tokio::task::yield_now().await;
        let (phase, after) = expired.await.unwrap();
        assert_eq!(phase, TimeoutPhase::Answer);
        let held = (after - began).as_secs();
        assert!((30..=60).contains(&held), "{held} s");
    }
}
