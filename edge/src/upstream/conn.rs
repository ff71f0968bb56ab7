//! One connection to one process: a framed link, a reader task, a writer task, and the table of the requests in flight.
//!
//! Guarantees: a call that was sent ends in exactly one outcome, at the latest with the connection; the reader waits
//! for nothing but the server; a call of which nothing was written is handed back instead of failed. Whom
//! a connection serves is fixed when it is opened ([`Spec`]), and a lease is only kept with its call. It must not know why
//! it gets the calls that it gets (keys, isolation), nor of other connections: it reports to the pool through [`Owner`].

mod asks;
mod listens;
mod liveness;
mod mux;
mod notifications;
mod open_tasks;
mod outgoing;
mod own;
mod parked;
mod pending;
mod reader;
mod turn;
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
use super::exclusive_client::ExclusiveClient;
use super::facts::Facts;
use super::lease::Profile;
use super::link::Link;
use super::link::address::Endpoint;
use super::metrics::ServerMetrics;
use super::settings::Config;
use super::tasks::{ShownIds, TaskIds};
use crate::call::ServerName;
use crate::error::{Blame, Error, Kind};
use crate::permit::{self, Permits, SlotPermit};

use asks::Asks;
use liveness::Liveness;
use open_tasks::OpenTasks;
pub(super) use pending::Job;
use pending::{Pending, Work};

/// Whoever opened a connection, and is notified of what happens to it. Called without a lock of the connection held.
pub(super) trait Owner: Send + Sync {
    /// Hands back a call of which nothing was written; another connection may take it.
    fn returned(&self, job: Box<Job>, slot: SlotPermit, why: &Error);
    /// The server sent a notification that belongs to no call.
    fn notice(&self, conn: &Conn, notice: Notice, message: &Message);
    /// The connection takes no more calls.
    fn ended(&self, conn: &Conn, how: Ended);
}

/// What is fixed when a connection is opened.
pub(super) struct Spec {
    /// Unique among the connections to the server.
    pub(super) number: u64,
    pub(super) server: ServerName,
    pub(super) endpoint: Endpoint,
    /// The era of the handshake. A server pins it by the first request on a connection.
    pub(super) era: Era,
    /// Whether it is the gateway's own, whose notifications are for everybody.
    pub(super) is_control: bool,
    /// Whether log messages may go to a call that wants them, though they do not say whose they are: the calls in flight are
    /// all of one principal.
    pub(super) logs_to_calls: bool,
    /// Ends the connection from outside: cancelled with its session, or never.
    pub(super) until: CancellationToken,
    /// The client that it serves exclusively: the server's notifications and requests go to that client.
    pub(super) client: Option<Arc<ExclusiveClient>>,
}

/// What all connections to one server share.
#[derive(Clone)]
pub(super) struct ConnContext {
    pub(super) config: Arc<Config>,
    pub(super) metrics: Arc<ServerMetrics>,
    pub(super) permits: Permits,
    pub(super) owner: Weak<dyn Owner>,
    pub(super) tasks: TaskTracker,
    pub(super) task_ids: Arc<TaskIds>,
    /// Cancelled when all connections have to end.
    pub(super) stop: CancellationToken,
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The server ended it: its process died, or the link broke.
    Died,
    /// The gateway closed it.
    Closed,
}

/// One connection.
pub(super) struct Conn {
    spec: Spec,
    context: ConnContext,
    state: Mutex<State>,
    /// Wakes the writer.
    wake: Notify,
    /// Cancelled when it takes no more calls: the writer ends the stream, the reader waits for the server to do so.
    closing: CancellationToken,
    /// Cancelled when both tasks have to stop where they are.
    cut: CancellationToken,
    /// Cancelled when both tasks and the process have ended.
    done: CancellationToken,
    in_flight: AtomicUsize,
    /// How many reads brought bytes; see [`Liveness`].
    reads: AtomicU64,
    /// What the server declared in the handshake.
    facts: OnceLock<Facts>,
    this: Weak<Conn>,
}

struct State {
    phase: Phase,
    mux: Mux<Pending>,
    outbox: VecDeque<Queued>,
    /// How many messages in the outbox are no requests.
    notes: usize,
    /// Requests of the server that wait for an answer of the client.
    asks: Asks,
    open_tasks: OpenTasks,
    /// How many requests were ever made.
    requests: u64,
    /// The log level that was last set at a legacy server for a call of a client without a session.
    level: Option<Level>,
    liveness: Liveness,
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

/// A message that waits to be written; it has an id if it is a request.
struct Queued {
    id: Option<WireId>,
    line: Parts,
}

impl Conn {
    /// Starts the two tasks of a new connection. Nothing was sent on the link yet.
    pub(super) fn start(link: Link, spec: Spec, context: ConnContext) -> Arc<Self> {
        let capacity = context.config.slots.slots.saturating_add(OWN_REQUESTS);
        let state = State {
            phase: Phase::Open,
            mux: Mux::new(capacity),
            outbox: VecDeque::new(),
            notes: 0,
            asks: Asks::new(context.config.asks),
            open_tasks: OpenTasks::default(),
            requests: 0,
            level: None,
            liveness: Liveness::new(&context.config),
            last_used: Instant::now(),
        };
        let conn = Arc::new_cyclic(|this| Self {
            spec,
            context,
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
        conn.context.metrics.opened.inc();
        conn.context.metrics.connections.inc();
        conn.context.tasks.spawn(reader::run(conn.clone(), link));
        conn
    }

    /// The ids of the tasks of its process.
    pub(super) fn task_ids(&self) -> ShownIds<'_> {
        let is_shared = self.spec.client.is_none();
        self.context.task_ids.of_process(is_shared.then_some(self.spec.number))
    }

    pub(super) fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Whether it declared exactly this profile.
    pub(super) fn has_declared(&self, profile: Profile) -> bool {
        self.spec.client.as_ref().is_some_and(|client| client.profile() == Some(profile))
    }

    /// Keeps the result of the handshake.
    pub(super) fn set_facts(&self, facts: Facts) {
        let _ = self.facts.set(facts); // there is one handshake
    }

    /// Whether the server declared this capability.
    pub(super) fn can(&self, capability: &str) -> bool {
        self.facts.get().is_some_and(|facts| facts.can(capability))
    }

    /// Whether the server takes subscriptions to its resources by requests.
    pub(super) fn can_subscribe(&self) -> bool {
        self.facts.get().is_some_and(Facts::can_subscribe)
    }

    /// How many requests wait for an answer, listens not counted.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Resolves when the connection takes no more calls.
    pub(super) async fn ending(&self) {
        self.closing.cancelled().await;
    }

    /// Whether the connection takes calls.
    pub(super) fn is_open(&self) -> bool {
        self.state.lock().phase == Phase::Open
    }

    /// Queues a call.
    ///
    /// # Errors
    /// The call itself, when the connection takes none.
    pub(super) fn send(&self, job: Box<Job>, slot: SlotPermit) -> Result<(), (Box<Job>, SlotPermit)> {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Err((job, slot));
        }
        let level = self.log_level(&job);
        if let Some(level) = level {
            self.queue_level(&mut state, level, job.lease.is_some());
        }
        let State { mux, outbox, requests, .. } = &mut *state;
        let (Some(vacant), Some(this)) = (mux.vacant(), self.this.upgrade()) else { return Err((job, slot)) };
        let id = vacant.id();
        if !job.responder.on_cancel(this, id.number()) {
            return Ok(()); // its caller is gone
        }
        let line = outgoing::request(&job.call, id, (self.spec.era, || self.can("logging")));
        let config = &self.context.config;
        *requests += 1;
        let work = Work::Call { job, slot };
        let pending = Pending::new(work, *requests, config.call_timeout, config.call_timeout_max);
        vacant.fill(Pending { level, ..pending });
        outbox.push_back(Queued { id: Some(id), line });
        self.count_opened(); // under the lock: once it is released, the answer may be counted
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Queues a notification.
    pub(super) fn notify(&self, line: impl Into<Bytes>) {
        self.queue_note(line.into().into(), NOTES);
    }

    /// Closes the connection in good order: requests in flight fail for the reason `why`, the server gets the end of
    /// the stream, and its process a moment to end.
    pub(super) fn close(&self, why: &Error) {
        let state = self.state.lock();
        self.begin_close(state, why);
    }

    /// Closes the connection if nothing is in flight, nothing was since `before`, and no task of it may still run. Listens and
    /// tasks do not count if it is `retired`: listens move to another connection, and its tasks cannot be reached any more.
    pub(super) fn close_idle(&self, before: Instant, retired: bool) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let is_idle = state.last_used <= before
            && !state.is_busy(self.spec.is_control || retired)
            && (retired || !state.open_tasks.any(now));
        if is_idle && !self.may_be_working(&state, now) {
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

    /// Ends the connection at once, because its link broke or its process ended.
    fn die(&self) {
        let (was, pending) = {
            let mut state = self.state.lock();
            (std::mem::replace(&mut state.phase, Phase::Closed), state.clear())
        };
        self.closing.cancel();
        self.cut.cancel();
        if was == Phase::Open {
            self.context.metrics.died.inc();
            self.end(pending, Ended::Died, &self.death());
        }
    }

    /// Resolves when the tasks of the connection and its process have ended.
    pub(super) async fn closed(&self) {
        self.done.cancelled().await;
    }

    /// Fails the requests whose deadline has passed, and cancels them upstream. Detached calls fail too once the
    /// process hangs, because they would keep it.
    pub(super) fn sweep(&self, now: Instant) {
        self.sweep_asks(now);
        let late: Vec<WireId> = {
            let state = self.state.lock();
            let hangs = self.hangs(&state, now);
            let is_late = |pending: &Pending| pending.deadline <= now || (hangs && pending.detached);
            state.mux.iter().filter(|(_, pending)| is_late(pending)).map(|(id, _)| id).collect()
        };
        for id in late {
            if let Some(pending) = self.cancel_in_flight(id) {
                self.context.metrics.timeouts.inc_by(u64::from(pending.work.is_call()));
                pending.work.fail(self.timed_out());
            }
        }
    }

    /// Removes a request from the table. If it was written already, the server gets `notifications/cancelled`.
    fn cancel_in_flight(&self, id: WireId) -> Option<Pending> {
        let (pending, asks) = {
            let mut state = self.state.lock();
            let pending = state.mux.close(id)?;
            state.last_used = Instant::now();
            if !pending.written {
                state.outbox.retain(|queued| queued.id != Some(id));
            }
            let asks = state.asks_of_cancelled(&pending);
            (pending, asks)
        };
        self.count_closed(&pending.work);
        if pending.written && pending.work.may_be_cancelled() {
            self.queue_note(outgoing::cancelled(id), NOTES);
        }
        self.withdraw(asks);
        Some(pending)
    }

    /// Queues a message that is no request; `false` if `most` such messages wait already, because the server does not
    /// read. On a connection that is closing the message is dropped.
    fn queue_note(&self, line: Parts, most: usize) -> bool {
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
        let owner = self.context.owner.upgrade();
        if let Some(owner) = &owner {
            owner.ended(self, how);
        }
        for pending in pending {
            self.count_closed(&pending.work);
            match (pending.work, &owner) {
                (Work::Call { job, slot }, Some(owner)) if !pending.written && how == Ended::Died => {
                    owner.returned(job, slot, why);
                }
                (work, _) => work.fail(why.clone()),
            }
        }
    }

    fn count_opened(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.context.metrics.in_flight.inc();
    }

    fn count_closed(&self, work: &Work) {
        if work.is_listen() {
            return; // listens are not counted: the server does no work for them
        }
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.context.metrics.in_flight.dec();
    }

    fn death(&self) -> Error {
        let message = format!("the process of server `{}` ended before it answered", self.spec.server);
        Error::new(Kind::Died, Blame::Upstream, message)
    }

    fn timed_out(&self) -> Error {
        timed_out(&self.spec.server)
    }
}

impl State {
    /// The id of the next request; `None` when there is no room for it.
    fn next_id(&mut self) -> Option<WireId> {
        self.mux.vacant().map(|vacant| vacant.id())
    }

    fn clear(&mut self) -> Vec<Pending> {
        self.outbox.clear();
        self.notes = 0;
        // The answers could not be written any more.
        for ask in self.asks.take(|_| true) {
            ask.withdrawn.cancel();
        }
        self.mux.drain().into_iter().map(|(_, pending)| pending).collect()
    }
}

/// The error of a request that was not answered in time.
pub(super) fn timed_out(server: &ServerName) -> Error {
    let message = format!("server `{server}` did not answer in time");
    Error::new(Kind::Timeout, Blame::Upstream, message)
}

/// The reason to close a connection that is not needed any more.
pub(super) fn unneeded() -> Error {
    Error::new(Kind::Cancelled, Blame::Edge, "the connection is not needed any more")
}

/// The error of everything that ends because the gateway stops, or the server is no longer configured.
pub(super) fn draining() -> Error {
    Error::new(
        Kind::Draining,
        Blame::Edge,
        "this gateway is stopping, or serves this server no longer; try again",
    )
    .retry_after(permit::RETRY_AFTER)
}

/// The error of calls that are in flight when their session ends.
pub(super) fn session_over() -> Error {
    Error::new(Kind::Cancelled, Blame::Downstream, "the session ended before the call did")
}

/// Room for requests of the gateway's own, beside the calls. 16: a handshake or the four lists, and subscriptions.
const OWN_REQUESTS: usize = 16;
/// Cancellations and answers that may wait to be written. 1,024: as many as calls. A server reads them at once, or
/// not at all, and then the write timeout ends the connection.
const NOTES: usize = 1024;
/// How long the server has to end after the end of its input. 7 s: the bridge sends SIGTERM after 5 s.
const CLOSE_GRACE: Duration = Duration::from_secs(7);
