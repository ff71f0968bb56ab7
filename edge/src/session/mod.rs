//! Sessions of legacy clients: who opened them, what was negotiated, which calls are in flight.
//!
//! ```text
//!             initialized
//!  Opening ─────────────────▶ Ready
//!     │                         │    DELETE · idle · age · drain
//!     └────────────┬────────────┘
//!                  ▼
//!                Ended   (terminal: its id is unknown from now on)
//! ```
//! Guarantees: a session serves only the principal that opened it, at the path it was opened at; everything it
//! holds is bounded; its end cancels its calls and closes its stream. It must not know of HTTP, nor of JSON but
//! for the tokens of its questions (`ask`): both are the business of `front/legacy.rs`.

mod ask;
pub mod replay;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod ticket;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use wire::id::RequestId;
use wire::mcp::version::ProtocolVersion;

use crate::call::{Caller, Client, EventReader, Reply, ServerName, SessionHandle};
use crate::error::Error;
use crate::ops::drain::DrainWatch;
use crate::permit::{self, Bound};
use crate::router::ListChanges;
use replay::{EventId, ReplayBudget};
use stream::{LISTENING, Stream};

pub use ask::Asking;
pub use stream::{Reader, Resumed, Said, Source};
pub use table::{Metrics, Table};

/// Bounds of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Sessions in all. 10,000: as many as connections.
    pub sessions: usize,
    /// Sessions of one principal. Unless configured, as many as sessions in all: with one token everybody is one
    /// principal.
    pub principal_sessions: usize,
    /// Calls of one session in flight. 256: what the queue of one server takes.
    pub session_calls: usize,
    /// Requests of servers that wait for the client's answer. 64: as many as one connection may have.
    pub asks_per_session: usize,
    /// A session without a message, a call or an open stream ends after this. 30 m: a lunch break survives, a closed
    /// laptop does not keep a process.
    pub idle: Duration,
    /// Every session ends after this, so that nothing decided at its start stays in force for ever. 24 h: longer than
    /// a working day.
    pub age: Duration,
    /// Bounds of the events kept for clients that lose their connection.
    pub replay: replay::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sessions: 10_000,
            principal_sessions: 10_000,
            session_calls: 256,
            asks_per_session: 64,
            idle: Duration::from_secs(30 * 60),
            age: Duration::from_secs(24 * 60 * 60),
            replay: replay::Config::default(),
        }
    }
}

/// The parameters of a session, fixed when it opens.
#[derive(Clone, Debug)]
pub struct SessionParams {
    /// Who opened it; it serves nobody else.
    pub caller: Caller,
    /// The server of the path that it was opened at; `None` for all servers.
    pub scope: Option<ServerName>,
    /// The revision that was negotiated.
    pub version: ProtocolVersion,
    /// What the client said of itself.
    pub client: Arc<Client>,
    /// How often the lists that it sees have changed. The client knows them as they are when the session opens.
    pub changes: watch::Receiver<ListChanges>,
}

/// One legacy client.
pub struct Session {
    id: Box<str>,
    params: SessionParams,
    handle: SessionHandle,
    born: Instant,
    calls_max: usize,
    asks_max: usize,
    /// Random, and part of every event id and of every question's id: an id of another session, also of one from
    /// before a restart, never matches here.
    mark: u64,
    ended_streams_max: usize,
    refusals: permit::Metrics,
    budget: Arc<ReplayBudget>,
    live: Mutex<Live>,
}

/// What changes while a session lives.
#[derive(Debug)]
struct Live {
    phase: Phase,
    calls: HashMap<RequestId, CancellationToken>,
    asked: ask::Asked,
    /// Events of the session's connections that belong to no call, until a stream takes them.
    unsolicited_events: Option<Reply>,
    /// By number: those of calls, and under [`LISTENING`] the session's own, for what belongs to no call.
    streams: BTreeMap<u64, Arc<Stream>>,
    next_stream: u64,
    /// Readers of the session's own stream; more than one only while a new reader takes over.
    listeners: usize,
    /// The last message, or the end of the last call or stream.
    last_active: Instant,
    seen: ListChanges,
    /// Notifications were lost, and it is not known which.
    stale: bool,
}

/// The state of a session, as drawn at the top of this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Ready,
    /// Terminal.
    Ended,
}

impl Phase {
    /// Only a session that is opening becomes ready; an ended one stays ended.
    fn initialized(self) -> Self {
        match self {
            Self::Opening | Self::Ready => Self::Ready,
            Self::Ended => Self::Ended,
        }
    }
}

impl Session {
    /// The id the client presents.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The revision that was negotiated.
    pub fn version(&self) -> ProtocolVersion {
        self.params.version
    }

    /// The one server that its path leads to; `None` for all.
    pub fn scope(&self) -> Option<&ServerName> {
        self.params.scope.as_ref()
    }

    /// How often the lists that it sees have changed.
    pub fn changes(&self) -> watch::Receiver<ListChanges> {
        self.params.changes.clone()
    }

    /// What the client said of itself.
    pub fn client(&self) -> &Arc<Client> {
        &self.params.client
    }

    /// The session as the upstream side knows it.
    pub fn handle(&self) -> &SessionHandle {
        &self.handle
    }

    /// Marks the handshake as complete: from now on the client may be sent notifications.
    // MCP 2025-11-25 basic/lifecycle, Initialization
    pub fn initialized(&self) {
        let mut live = self.live.lock();
        live.phase = live.phase.initialized();
    }

    /// Starts a call under the client's own `id`. It counts as in flight until what is returned is dropped.
    ///
    /// # Errors
    /// Why the call may not start.
    pub fn begin(self: &Arc<Self>, id: RequestId) -> Result<InFlight, Refused> {
        let mut live = self.live.lock();
        if live.phase == Phase::Ended {
            return Err(Refused::Ended);
        }
        if live.calls.contains_key(&id) {
            return Err(Refused::Duplicate);
        }
        if live.calls.len() >= self.calls_max {
            self.refusals.hit(Bound::SessionCalls);
            // The client caused it, so the status is 429 and not 503.
            return Err(Refused::Full(Bound::SessionCalls.refusal()));
        }
        let cancelled = self.handle.ended.child_token();
        live.calls.insert(id.clone(), cancelled.clone());
        let cancelled = Box::pin(cancelled.cancelled_owned());
        Ok(InFlight { session: self.clone(), id, cancelled })
    }

    /// Cancels the call of that id; `false` if there is none.
    pub fn cancel(&self, id: &RequestId) -> bool {
        let call = self.live.lock().calls.get(id).cloned();
        call.inspect(CancellationToken::cancel).is_some()
    }

    /// Opens the session's own stream, for what belongs to no call; an earlier reader ends. `source` is called once
    /// in the life of a session: what the source yields while nobody reads waits for the next reader.
    pub fn listen(self: &Arc<Self>, source: impl FnOnce(Option<Reply>) -> Box<dyn Source>) -> Reader {
        let mut live = self.live.lock();
        let stream = match live.streams.get(&LISTENING) {
            Some(stream) => stream.clone(),
            None => {
                let source = (live.phase != Phase::Ended).then(|| source(live.unsolicited_events.take()));
                let stream = Arc::new(Stream::new(LISTENING, source, self.budget.clone(), None));
                if live.phase != Phase::Ended {
                    live.streams.insert(LISTENING, stream.clone());
                }
                stream
            }
        };
        drop(live);
        stream.attach(self)
    }

    /// Opens a stream for the messages of one call. It goes on without a reader until the process is cut. `lost` is the
    /// message for a client that resumes it when events that it needs are no longer kept.
    pub fn stream(self: &Arc<Self>, source: Box<dyn Source>, drain: DrainWatch, lost: Bytes) -> Reader {
        let mut live = self.live.lock();
        live.next_stream += 1;
        let number = live.next_stream;
        let stream = Arc::new(Stream::new(number, Some(source), self.budget.clone(), Some((drain, lost))));
        if live.phase != Phase::Ended {
            live.streams.insert(number, stream.clone());
        }
        // Where there are no more streams than ended ones are kept, none has to go.
        let may_evict = live.streams.len() > self.ended_streams_max;
        let others = may_evict.then(|| {
            let of_calls = live.streams.values().filter(|other| other.number() != LISTENING);
            of_calls.cloned().collect::<Vec<_>>()
        });
        drop(live); // a stream's lock comes first
        if let Some(others) = others {
            self.evict_ended(&others);
        }
        stream.attach(self)
    }

    /// Resumes the stream in which a client stopped reading at `id`.
    // MCP 2025-11-25 basic/transports, Resumability: that stream's later messages and no other's
    pub fn resume(self: &Arc<Self>, id: EventId) -> Resumed {
        if id.session != self.mark {
            return Resumed::Unknown;
        }
        let live = self.live.lock();
        let (stream, was) = (live.streams.get(&id.stream).cloned(), id.stream <= live.next_stream);
        drop(live);
        match stream {
            Some(stream) => stream.resume(self, id.seq),
            None if was && id.stream != LISTENING => Resumed::Gone(None),
            None => Resumed::Unknown,
        }
    }

    /// Notes that notifications were lost: the next ones report everything as changed.
    pub fn lost_track(&self) {
        self.live.lock().stale = true;
    }

    /// Which lists have changed since this was last called. Nothing, before the client is ready to be notified.
    pub fn news(&self, now: ListChanges) -> News {
        let mut live = self.live.lock();
        let seen = std::mem::replace(&mut live.seen, now);
        if live.phase != Phase::Ready {
            return News::default();
        }
        let stale = std::mem::take(&mut live.stale);
        News {
            tools: stale || seen.tools != now.tools,
            prompts: stale || seen.prompts != now.prompts,
            resources: stale || seen.resources != now.resources,
            subscriptions: stale,
        }
    }

    /// Notes a message of the client.
    fn touch(&self) {
        self.live.lock().last_active = Instant::now();
    }

    /// Whose it is.
    pub fn caller(&self) -> &Caller {
        &self.params.caller
    }

    /// Whether `caller` may use it at this path.
    fn serves(&self, caller: &Caller, scope: Option<&ServerName>) -> bool {
        self.params.caller == *caller && self.params.scope.as_ref() == scope
    }

    /// Since when no call and no stream is open; `None` while one is.
    fn idle_since(&self) -> Option<Instant> {
        let live = self.live.lock();
        (live.calls.is_empty() && live.listeners == 0).then_some(live.last_active)
    }

    /// Drops events that are too old, and ended streams that are needed no more.
    fn expire_streams(&self, now: Instant) {
        let streams: Vec<_> = self.live.lock().streams.values().cloned().collect();
        streams.iter().filter(|stream| !stream.expire(now)).for_each(|stream| self.forget(stream));
    }

    /// Drops ended streams beyond their bound: first those that a client has read to the end, then the rest, each in
    /// the order in which they ended.
    fn evict_ended(&self, streams: &[Arc<Stream>]) {
        let mut ended: Vec<_> = streams.iter().filter_map(|stream| Some((stream.ended()?, stream))).collect();
        let over = ended.len().saturating_sub(self.ended_streams_max);
        if over == 0 {
            return;
        }
        ended.sort_by_key(|(ended, _)| (!ended.is_delivered, ended.at));
        for (_, stream) in ended.into_iter().take(over) {
            stream.count_lost(&self.budget);
            self.forget(stream);
        }
    }

    fn forget(&self, stream: &Stream) {
        self.live.lock().streams.remove(&stream.number());
    }

    fn listener_came(&self) {
        self.live.lock().listeners += 1;
        self.handle.unsolicited.set_reader(EventReader::Present);
    }

    fn listener_left(&self) {
        let mut live = self.live.lock();
        live.listeners = live.listeners.saturating_sub(1);
        live.last_active = Instant::now();
        if live.listeners == 0 {
            self.handle.unsolicited.set_reader(EventReader::Absent);
        }
    }

    fn end(&self) {
        let mut live = self.live.lock();
        live.phase = Phase::Ended;
        let (streams, unheard) = (std::mem::take(&mut live.streams), live.unsolicited_events.take());
        let unanswered = std::mem::take(&mut live.asked);
        drop(live); // dropped asks are refused, which may take the lock
        drop((unheard, unanswered));
        self.handle.ended.cancel();
        // The streams of calls end by themselves, because the calls are cancelled.
        if let Some(listening) = streams.get(&LISTENING) {
            listening.close();
        }
    }
}

impl fmt::Debug for Session {
    /// Without the id, which works like a credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({} of {:?})", self.handle.number, self.params.caller)
    }
}

/// Lists that changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the list of that name")]
pub struct News {
    pub tools: bool,
    pub prompts: bool,
    pub resources: bool,
    /// Any of the resources that the client is subscribed to.
    pub subscriptions: bool,
}

/// Why a call may not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The session has ended.
    Ended,
    /// A call of the same id is in flight.
    // MCP 2025-11-25 basic, Requests: an id is never used twice within a session
    Duplicate,
    /// As many calls are in flight as are allowed.
    Full(Error),
}

/// A call in flight. Dropping it ends the entry.
#[derive(Debug)]
pub struct InFlight {
    session: Arc<Session>,
    id: RequestId,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl InFlight {
    /// The session it belongs to.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Ready when the client cancels the call, or its session ends. Must not be polled again after that.
    pub fn poll_cancelled(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.cancelled.as_mut().poll(context)
    }

    /// Whether the session is over, and not just this call.
    pub fn session_ended(&self) -> bool {
        self.session.handle.ended.is_cancelled()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut live = self.session.live.lock();
        live.calls.remove(&self.id);
        live.last_active = Instant::now();
    }
}
