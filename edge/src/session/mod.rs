//! Sessions of legacy clients: who opened them, what was negotiated, which calls are on their way.
//!
//! ```text
//!             initialized
//!  Opening ─────────────────▶ Ready
//!     │                         │    DELETE · idle · age · drain
//!     └────────────┬────────────┘
//!                  ▼
//!                Ended   (terminal: its id is unknown from now on)
//! ```
//! Guarantees: a session serves the principal that opened it, at the path it was opened at, and nobody
//! else; everything it holds is bounded; its end cancels its calls and closes its stream. It must not know
//! of HTTP or JSON: `front/legacy.rs` does the talking.

mod table;
#[cfg(test)]
mod tests;
mod ticket;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::id::RequestId;
use wire::mcp::version::ProtocolVersion;

use crate::call::{Caller, Client, Reply, ServerName, SessionKey};
use crate::error::{Blame, Error};
use crate::permit::{self, Bound};
use crate::router::ListChanges;

pub use table::{Metrics, Table};

/// Bounds of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Sessions in all. 10,000: as many as connections.
    pub sessions: usize,
    /// Sessions of one principal; the bound of all unless configured, for with one token everybody is one
    /// principal.
    pub sessions_per_principal: usize,
    /// Calls of one session on their way. 256: what the queue of one server takes.
    pub calls_per_session: usize,
    /// A session without a message, a call or an open stream ends after this. 30 m: a lunch break survives, a closed
    /// laptop does not keep a process.
    pub idle: Duration,
    /// Every session ends after this, so that nothing decided at its start holds for ever. 24 h: a working
    /// day never meets it.
    pub age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sessions: 10_000,
            sessions_per_principal: 10_000,
            calls_per_session: 256,
            idle: Duration::from_secs(30 * 60),
            age: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// What is fixed when a session opens.
#[derive(Clone, Debug)]
pub struct Birth {
    /// Who opened it; the only one it serves.
    pub caller: Caller,
    /// The path it was opened at: one server, or all.
    pub scope: Option<ServerName>,
    /// The revision that was negotiated.
    pub version: ProtocolVersion,
    /// What the client said of itself.
    pub client: Arc<Client>,
    /// How often lists had changed by then.
    pub seen: ListChanges,
}

/// One legacy client.
pub struct Session {
    id: Box<str>,
    birth: Birth,
    key: SessionKey,
    born: Instant,
    calls_max: usize,
    refusals: permit::Metrics,
    live: Mutex<Live>,
}

/// What changes while a session lives.
#[derive(Debug)]
struct Live {
    phase: Phase,
    calls: HashMap<RequestId, CancellationToken>,
    /// What the session's connections said outside any call; taken by the stream that carries it.
    strayed: Option<Reply>,
    /// The stream that carries what belongs to no call; cancelled when another takes its place.
    stream: Option<CancellationToken>,
    /// The last message, or the end of the last call or stream.
    last_active: Instant,
    seen: ListChanges,
}

/// See the drawing above.
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
        self.birth.version
    }

    /// What the client said of itself.
    pub fn client(&self) -> &Arc<Client> {
        &self.birth.client
    }

    /// How the upstream side knows this session.
    pub fn key(&self) -> &SessionKey {
        &self.key
    }

    /// The client has taken the handshake's answer: from now on it may be told things.
    // MCP 2025-11-25 basic/lifecycle, Initialization
    pub fn initialized(&self) {
        let mut live = self.live();
        live.phase = live.phase.initialized();
    }

    /// Starts a call under the client's own `id`; the entry lives as long as what is returned.
    ///
    /// # Errors
    /// Why the call may not start.
    pub fn begin(self: &Arc<Self>, id: RequestId) -> Result<InFlight, Refused> {
        let mut live = self.live();
        if live.phase == Phase::Ended {
            return Err(Refused::Ended);
        }
        if live.calls.contains_key(&id) {
            return Err(Refused::Duplicate);
        }
        if live.calls.len() >= self.calls_max {
            self.refusals.hit(Bound::SessionCalls);
            // The client's own doing, so it hears 429 and not 503.
            return Err(Refused::Full(Error { blame: Blame::Downstream, ..Bound::SessionCalls.refusal() }));
        }
        let cancelled = self.key.ended.child_token();
        live.calls.insert(id.clone(), cancelled.clone());
        Ok(InFlight { session: self.clone(), id, cancelled })
    }

    /// Cancels the call of that id; whether there was one.
    pub fn cancel(&self, id: &RequestId) -> bool {
        let call = self.live().calls.get(id).cloned();
        call.inspect(CancellationToken::cancel).is_some()
    }

    /// Takes the place of the session's stream; one that was there ends.
    pub fn attach(self: &Arc<Self>) -> Attached {
        let mine = self.key.ended.child_token();
        // Under the lock, so that an `Attached` whose token is not cancelled still has the place.
        let mut live = self.live();
        if let Some(old) = live.stream.replace(mine.clone()) {
            old.cancel();
        }
        drop(live);
        Attached { session: self.clone(), over: mine }
    }

    /// Which lists changed since the client was last told; it counts as told now. Nothing is told before the
    /// client is ready.
    pub fn news(&self, now: ListChanges) -> News {
        let mut live = self.live();
        let seen = std::mem::replace(&mut live.seen, now);
        let ready = live.phase == Phase::Ready;
        News {
            tools: ready && seen.tools != now.tools,
            prompts: ready && seen.prompts != now.prompts,
            resources: ready && seen.resources != now.resources,
        }
    }

    /// The client has shown itself.
    fn touch(&self) {
        self.live().last_active = Instant::now();
    }

    /// Whether `caller` may use it at this path.
    fn serves(&self, caller: &Caller, scope: Option<&ServerName>) -> bool {
        self.birth.caller == *caller && self.birth.scope.as_ref() == scope
    }

    /// Whether no call and no stream is open, and since when.
    fn idle_since(&self) -> Option<Instant> {
        let live = self.live();
        (live.calls.is_empty() && live.stream.is_none()).then_some(live.last_active)
    }

    fn end(&self) {
        let unheard = {
            let mut live = self.live();
            live.phase = Phase::Ended;
            live.strayed.take()
        };
        // After the lock: what was asked in it is refused.
        drop(unheard);
        self.key.ended.cancel();
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        // Nothing panics while the lock is held, and every state in it is valid, so poison carries no news.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Session {
    /// Without the id, which is as good as a credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({} of {:?})", self.key.number, self.birth.caller)
    }
}

/// Lists that changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the list of that name")]
pub struct News {
    pub tools: bool,
    pub prompts: bool,
    pub resources: bool,
}

/// Why a call may not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The session ended meanwhile.
    Ended,
    /// A call of the same id is on its way.
    // MCP 2025-11-25 basic, Requests: an id is never used twice within a session
    Duplicate,
    /// As many calls are on their way as may be.
    Full(Error),
}

/// A call on its way. Dropping it forgets the call.
#[derive(Debug)]
pub struct InFlight {
    session: Arc<Session>,
    id: RequestId,
    cancelled: CancellationToken,
}

impl InFlight {
    /// Resolves when the client cancels the call, or its session ends.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }

    /// Whether the session is over, and not just this call.
    pub fn session_ended(&self) -> bool {
        self.session.key.ended.is_cancelled()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut live = self.session.live();
        live.calls.remove(&self.id);
        live.last_active = Instant::now();
    }
}

/// The session's stream. Dropping it gives the place back, unless another stream has taken it.
#[derive(Debug)]
pub struct Attached {
    session: Arc<Session>,
    over: CancellationToken,
}

impl Attached {
    /// The session it belongs to.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Resolves when the session ends or another stream takes the place.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut live = self.session.live();
        if !self.over.is_cancelled() {
            live.stream = None;
        }
        live.last_active = Instant::now();
    }
}
