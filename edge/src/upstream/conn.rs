//! One framed link to one process: a reader task, a writer task, and the table of what is in flight between
//! them.
//!
//! Guarantees: a call that was started ends in exactly one outcome, at the latest with the connection; the
//! reader waits for nobody but the server; a call of which nothing was written is handed back and not failed.
//! It must not know of keys, isolation or other connections: that is the pool's business, told by [`Owner`].

mod asks;
mod listens;
mod mux;
mod news;
mod open_tasks;
mod outgoing;
mod own;
mod pending;
mod reader;
mod silence;
mod writer;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::mcp::level::Level;
use wire::mcp::method::Notice;
use wire::splice::Parts;
use wire::{Era, Message};

use self::mux::{Mux, WireId};
use super::facts::Facts;
use super::link::Link;
use super::link::address::Endpoint;
use super::metrics::ServerMetrics;
use super::modern;
use super::pool::lease::Profile;
use super::pool::tenant::Tenant;
use super::settings::Config;
use super::tasks::TaskIds;
use crate::call::{Cancel, ServerName};
use crate::error::{Blame, Error, Kind};
use crate::permit::{self, Permits, SlotPermit};

use asks::Asks;
use open_tasks::OpenTasks;
pub(super) use pending::Job;
use pending::{Pending, Work};
use silence::Silence;

/// Who opened a connection and is told what becomes of it. Called without a lock of the connection held.
pub(super) trait Owner: Send + Sync {
    /// Nothing of this call was written; another connection may take it.
    fn returned(&self, job: Box<Job>, slot: SlotPermit, why: &Error);
    /// A notification that belongs to no call.
    fn notice(&self, conn: &Conn, notice: Notice, message: &Message);
    /// The connection takes no more calls.
    fn left(&self, conn: &Conn, how: Ended);
}

/// What a connection is, from its birth.
pub(super) struct Spec {
    /// Counts the connections of this process up.
    pub(super) number: u64,
    pub(super) server: ServerName,
    pub(super) endpoint: Endpoint,
    /// How the server behind it is spoken to; servers pin it by the first request on a connection.
    pub(super) era: Era,
    /// The gateway's own: what the server says unasked is news for everybody.
    pub(super) is_control: bool,
    /// Ends the connection from outside: a session's end, or never.
    pub(super) until: CancellationToken,
    /// The legacy session that it is all for; then what the server says and asks is its client's to hear.
    pub(super) tenant: Option<Arc<Tenant>>,
}

/// What a connection shares with the others of its server.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) config: Arc<Config>,
    pub(super) metrics: Arc<ServerMetrics>,
    pub(super) permits: Permits,
    pub(super) owner: Weak<dyn Owner>,
    pub(super) tasks: TaskTracker,
    pub(super) task_ids: Arc<TaskIds>,
    /// Ends them all.
    pub(super) stop: CancellationToken,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By the server: its process died, or it broke the link.
    Died,
    /// By us, with nothing in flight, or for the reason given to what was.
    Closed,
}

/// One connection.
pub(super) struct Conn {
    spec: Spec,
    around: Surroundings,
    state: Mutex<State>,
    /// The writer has something to do.
    wake: Notify,
    /// No new calls: the writer sends the end of the stream, the reader waits for the server's.
    closing: CancellationToken,
    /// Both tasks stop where they are.
    cut: CancellationToken,
    /// Both tasks are done, and so is the process.
    done: CancellationToken,
    in_flight: AtomicUsize,
    /// How often something was read.
    reads: AtomicU64,
    /// What the server said of itself in the handshake.
    facts: OnceLock<Facts>,
    this: Weak<Conn>,
}

struct State {
    phase: Phase,
    mux: Mux<Pending>,
    outbox: VecDeque<Queued>,
    /// Messages in the outbox that are no calls.
    notes: usize,
    /// What the server asks the client of its session.
    asks: Asks,
    open_tasks: OpenTasks,
    /// Requests ever made.
    requests: u64,
    /// The lowest level of log messages that the server was asked for, on a connection that calls take turns on.
    level: Option<Level>,
    silence: Option<Silence>,
    last_used: Instant,
}

/// ```text
/// Open ──close──▶ Closing ──the server's end, or CLOSE_GRACE──▶ Closed (terminal)
///   └──────────────── the server's end, a failed write ──────▶ Closed
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    Closing,
    Closed,
}

/// A message for the writer; with an id if it is a request.
struct Queued {
    id: Option<WireId>,
    line: Parts,
}

impl Conn {
    /// Takes a link and starts its two tasks. The link is ready for a first request.
    pub(super) fn start(link: Link, spec: Spec, around: Surroundings) -> Arc<Self> {
        let capacity = around.config.slots.slots.saturating_add(OWN_REQUESTS);
        let state = State {
            phase: Phase::Open,
            mux: Mux::new(capacity),
            outbox: VecDeque::new(),
            notes: 0,
            asks: Asks::new(around.config.asks),
            open_tasks: OpenTasks::default(),
            requests: 0,
            level: None,
            silence: None,
            last_used: Instant::now(),
        };
        let conn = Arc::new_cyclic(|this| Self {
            spec,
            around,
            state: Mutex::new(state),
            wake: Notify::new(),
            closing: CancellationToken::new(),
            cut: CancellationToken::new(),
            done: CancellationToken::new(),
            in_flight: AtomicUsize::new(0),
            reads: AtomicU64::new(0),
            facts: OnceLock::new(),
            this: this.clone(),
        });
        conn.around.metrics.opened.inc();
        conn.around.metrics.connections.inc();
        conn.around.tasks.spawn(reader::run(conn.clone(), link));
        conn
    }

    pub(super) fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Whether it declared that its clients can be asked just this.
    pub(super) fn is_of(&self, profile: Profile) -> bool {
        self.spec.tenant.as_ref().is_some_and(|tenant| tenant.profile() == Some(profile))
    }

    /// The handshake is over.
    pub(super) fn met(&self, facts: Facts) {
        let _ = self.facts.set(facts); // there is one handshake
    }

    /// Whether the server named this capability in the handshake.
    pub(super) fn can(&self, capability: &str) -> bool {
        self.facts.get().is_some_and(|facts| facts.can(capability))
    }

    /// Calls and own requests that wait for an answer.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Resolves when it takes no more calls.
    pub(super) async fn ending(&self) {
        self.closing.cancelled().await;
    }

    /// Whether it takes calls.
    pub(super) fn is_open(&self) -> bool {
        self.state.lock().phase == Phase::Open
    }

    /// Sends a call on its way, or hands it back when the connection takes none.
    pub(super) fn send(&self, job: Box<Job>, slot: SlotPermit) -> Result<(), (Box<Job>, SlotPermit)> {
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Err((job, slot));
        }
        if job.lease.is_some() {
            self.ask_level(&mut state, &job.call);
        }
        let State { mux, outbox, requests, .. } = &mut *state;
        let (Some(vacant), Some(this)) = (mux.vacant(), self.this.upgrade()) else { return Err((job, slot)) };
        let id = vacant.id();
        if !job.responder.on_cancel(this, id.number()) {
            return Ok(()); // nobody waits for it any more
        }
        let line = outgoing::request(&job.call, id, self.spec.era);
        let level = if self.spec.era == Era::Modern { modern::level(&job.call) } else { None };
        let config = &self.around.config;
        *requests += 1;
        vacant.fill(Pending {
            work: Work::Call { job, slot },
            age: *requests,
            level,
            written: false,
            missing: None,
            deadline: now + config.call_timeout.min(config.call_timeout_max),
            limit: now + config.call_timeout_max,
        });
        outbox.push_back(Queued { id: Some(id), line });
        drop(state);
        self.opened();
        self.wake.notify_one();
        Ok(())
    }

    /// Sends a notification.
    pub(super) fn tell(&self, line: impl Into<Bytes>) {
        self.note(line.into().into(), NOTES);
    }

    /// Ends the connection in good order: `why` for what is in flight, the end of the stream for the server,
    /// and a moment for its process to end.
    pub(super) fn close(&self, why: &Error) {
        let state = self.state.lock();
        self.begin_close(state, why);
    }

    /// Closes the connection as [`Conn::close`] does, if nothing is in flight, nothing was since `before`, and no task
    /// of it may still run. Listens and tasks do not count if it is `retired`: listens go on elsewhere, and its tasks
    /// cannot be reached any more.
    pub(super) fn close_idle(&self, before: Instant, retired: bool) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let is_idle = state.last_used <= before
            && !state.is_busy(self.spec.is_control || retired)
            && (retired || !state.open_tasks.any(now));
        if is_idle && !self.may_be_at_work(&state, now) {
            self.begin_close(state, &unneeded());
        }
    }

    fn begin_close(&self, mut state: MutexGuard<'_, State>, why: &Error) {
        if state.phase != Phase::Open {
            return;
        }
        state.phase = Phase::Closing;
        let pending = state.clear();
        drop(state);
        self.closing.cancel();
        self.wake.notify_one();
        self.end(pending, Ended::Closed, why);
    }

    /// The link is of no use any more.
    fn die(&self) {
        let (was, pending) = {
            let mut state = self.state.lock();
            (std::mem::replace(&mut state.phase, Phase::Closed), state.clear())
        };
        self.closing.cancel();
        self.cut.cancel();
        if was == Phase::Open {
            self.around.metrics.died.inc();
            self.end(pending, Ended::Died, &self.died());
        }
    }

    /// Resolves when nothing of it is left.
    pub(super) async fn closed(&self) {
        self.done.cancelled().await;
    }

    /// Fails the calls whose deadline has passed, and cancels them upstream.
    pub(super) fn sweep(&self, now: Instant) {
        self.sweep_asks(now);
        let late: Vec<WireId> = {
            let state = self.state.lock();
            state.mux.iter().filter(|(_, pending)| pending.deadline <= now).map(|(id, _)| id).collect()
        };
        for id in late {
            if let Some(pending) = self.cancel_in_flight(id) {
                self.around.metrics.timeouts.inc_by(u64::from(pending.work.is_call()));
                pending.work.fail(self.silent());
            }
        }
    }

    /// Takes a request out of the table: unsent it is forgotten, else the server is told to stop.
    fn cancel_in_flight(&self, id: WireId) -> Option<Pending> {
        let (pending, asks) = {
            let mut state = self.state.lock();
            let pending = state.mux.close(id)?;
            state.last_used = Instant::now();
            if !pending.written {
                state.outbox.retain(|queued| queued.id != Some(id));
            }
            (pending, state.asks.take(|ask| ask.call == Some(id)))
        };
        self.answered(&pending.work);
        if pending.written && pending.work.may_be_cancelled() {
            self.note(outgoing::cancelled(id), NOTES);
        }
        self.withdraw(asks);
        Some(pending)
    }

    /// Queues a message that is no request; `false` when `most` wait for a server that does not read. One that ends
    /// misses it, by no fault of anybody's.
    fn note(&self, line: Parts, most: usize) -> bool {
        {
            let mut state = self.state.lock();
            if state.phase != Phase::Open {
                return true;
            }
            if state.notes >= most {
                return false;
            }
            state.notes += 1;
            state.outbox.push_back(Queued { id: None, line });
        }
        self.wake.notify_one();
        true
    }

    fn end(&self, pending: Vec<Pending>, how: Ended, why: &Error) {
        let owner = self.around.owner.upgrade();
        if let Some(owner) = &owner {
            owner.left(self, how);
        }
        for pending in pending {
            self.answered(&pending.work);
            match (pending.work, &owner) {
                (Work::Call { job, slot }, Some(owner)) if !pending.written && how == Ended::Died => {
                    owner.returned(job, slot, why);
                }
                (work, _) => work.fail(why.clone()),
            }
        }
    }

    fn opened(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.around.metrics.in_flight.inc();
    }

    fn answered(&self, work: &Work) {
        if work.is_listen() {
            return; // it was not counted: the server is not at work on it
        }
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.around.metrics.in_flight.dec();
    }

    fn died(&self) -> Error {
        let message = format!("the process of server `{}` ended before it answered", self.spec.server);
        Error::new(Kind::Died, Blame::Upstream, message)
    }

    fn silent(&self) -> Error {
        silent(&self.spec.server)
    }
}

impl Cancel for Conn {
    fn cancel(&self, token: u64) {
        drop(self.cancel_in_flight(WireId::from_number(token)));
    }

    fn park(&self, token: u64) {
        let mut state = self.state.lock();
        if let Some(pending) = state.mux.get_mut(WireId::from_number(token)) {
            pending.work.park();
        }
    }
}

impl State {
    /// The id that the next request will have.
    fn next_id(&mut self) -> Option<WireId> {
        self.mux.vacant().map(|vacant| vacant.id())
    }

    fn clear(&mut self) -> Vec<Pending> {
        self.outbox.clear();
        self.notes = 0;
        // Nobody would read the answers.
        for ask in self.asks.take(|_| true) {
            ask.withdrawn.cancel();
        }
        self.mux.drain().into_iter().map(|(_, pending)| pending).collect()
    }
}

/// What a call ends for that was not answered in its time.
pub(super) fn silent(server: &ServerName) -> Error {
    let message = format!("server `{server}` did not answer in time");
    Error::new(Kind::Timeout, Blame::Upstream, message)
}

/// What a connection ends for that did nothing wrong.
pub(super) fn unneeded() -> Error {
    Error::new(Kind::Cancelled, Blame::Edge, "the connection is not needed any more")
}

/// What everything ends for when the process does, or its server is configured no longer.
pub(super) fn draining() -> Error {
    Error::new(
        Kind::Draining,
        Blame::Edge,
        "this gateway is stopping, or serves this server no longer; try again",
    )
    .retry_after(permit::RETRY_AFTER)
}

/// What the calls of a session end for that ends before them.
pub(super) fn session_over() -> Error {
    Error::new(Kind::Cancelled, Blame::Downstream, "the session ended before the call did")
}

/// Requests of our own at a time, beside the calls: a handshake, or the four lists.
const OWN_REQUESTS: usize = 16;
/// Cancels and answers that wait to be written. A server reads them at once or not at all, and then the write
/// timeout ends the connection.
const NOTES: usize = 1024;
/// The server's time to end after the end of its input: the bridge's stop ladder takes 5 s to SIGTERM.
const CLOSE_GRACE: Duration = Duration::from_secs(7);
