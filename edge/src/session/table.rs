//! All sessions of this process: found by their sealed id, bounded in all and per principal, ended when idle or old.
//!
//! One lock over two maps: a look-up holds it for less than a microsecond, so shards would buy nothing until
//! there are millions of requests a second. What is not here: what a session does (`session`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ask::Asked;
use super::replay::{self, ReplayBudget};
use super::ticket::{self, Ticket};
use super::{Config, Live, Phase, Session, SessionParams};
use crate::call::{Caller, EventReader, ServerName, SessionHandle, reply};
use crate::error::{Blame, Error, Kind};
use crate::ops::drain::DrainWatch;
use crate::ops::metrics::words;
use crate::permit::{self, Bound, RETRY_AFTER};
use crate::seal::{Home, Sealer};

/// The sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Table {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    metrics: Metrics,
    refusals: permit::Metrics,
    drain: DrainWatch,
    sealer: Sealer,
    /// Distinguishes the session numbers of this process from those of others that have the same key.
    instance: [u8; 8],
    next_number: AtomicU64,
    /// Bytes that all streams keep for resumption.
    replay_bytes: Arc<AtomicUsize>,
    sessions: Mutex<Sessions>,
}

#[derive(Debug, Default)]
struct Sessions {
    by_number: HashMap<u64, Arc<Session>>,
    by_principal: HashMap<Arc<str>, usize>,
}

impl Table {
    /// An empty table. Starts the sweep as a task of `drain`, so it must be called inside a runtime.
    ///
    /// # Errors
    /// When the system gives out no random numbers.
    pub fn new(
        config: Config,
        metrics: Metrics,
        refusals: permit::Metrics,
        drain: &DrainWatch,
        sealer: Sealer,
    ) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            config,
            metrics,
            refusals,
            drain: drain.clone(),
            instance: sealer.random()?,
            sealer,
            next_number: AtomicU64::new(1),
            replay_bytes: Arc::default(),
            sessions: Mutex::default(),
        });
        drain.spawn(sweep(shared.clone()));
        Ok(Self { shared })
    }

    /// Opens a session.
    ///
    /// # Errors
    /// When as many are open as are allowed, or the process is stopping.
    pub fn open(&self, params: SessionParams) -> Result<Arc<Session>, Error> {
        let shared = &self.shared;
        if shared.drain.is_stopping() {
            return Err(Error::new(Kind::Draining, Blame::Edge, "this gateway is stopping; connect again"));
        }
        let principal = params.caller.principal().clone();
        let session = Arc::new(shared.session(params)?);
        let mut sessions = shared.sessions.lock();
        if sessions.by_number.len() >= shared.config.sessions {
            shared.refusals.hit(Bound::Sessions);
            return Err(Bound::Sessions.refusal());
        }
        let own = sessions.by_principal.entry(principal).or_default();
        if *own >= shared.config.principal_sessions {
            shared.refusals.hit(Bound::Sessions);
            let message = "too many sessions of this principal; end one, or try again later";
            return Err(Error::busy(Blame::Downstream, RETRY_AFTER, message));
        }
        *own += 1;
        sessions.by_number.insert(session.handle.number, session.clone());
        shared.metrics.opened.inc();
        shared.metrics.open.inc();
        Ok(session)
    }

    /// The session of that id, if `caller` may use it at this path. `None` alike for a session of somebody else, one that
    /// has ended, one of another process, and one that never existed.
    // MCP 2025-11-25 basic/security_best_practices, Session Hijacking: a session is bound to its user
    pub fn find(&self, id: &str, caller: &Caller, scope: Option<&ServerName>) -> Option<Arc<Session>> {
        let ticket = Ticket::decode(&self.shared.sealer.open(ticket::KIND, id)?)?;
        if ticket.instance != self.shared.instance || ticket.principal != ticket::principal(caller) {
            return None;
        }
        let session = self.shared.sessions.lock().by_number.get(&ticket.number).cloned()?;
        if !session.serves(caller, scope) {
            return None;
        }
        match self.shared.expiry(&session, Instant::now()) {
            None => {
                session.touch();
                Some(session)
            }
            Some(cause) => {
                self.shared.end(&session, cause);
                None
            }
        }
    }

    /// The replica that opened the session of that id, if it is another one. Only that replica knows whether the session
    /// still exists.
    pub fn elsewhere(&self, id: &str, caller: &Caller) -> Option<Home> {
        let ticket = Ticket::decode(&self.shared.sealer.open(ticket::KIND, id)?)?;
        let may_exist = ticket.age() <= self.shared.config.age;
        let is_own = ticket.principal == ticket::principal(caller);
        self.shared.sealer.elsewhere(ticket.owner).filter(|_| may_exist && is_own)
    }

    /// Ends a session as its client asks.
    pub fn delete(&self, session: &Session) {
        self.shared.end(session, Cause::Deleted);
    }
}

impl Shared {
    fn session(&self, params: SessionParams) -> Result<Session, Error> {
        let now = Instant::now();
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let ticket = Ticket::issue(&params, (self.instance, self.sealer.home()), number);
        let id = self.sealer.seal(ticket::KIND, &ticket.encode())?;
        let (unsolicited, unsolicited_events) = reply();
        unsolicited.set_reader(EventReader::Absent); // until the client opens a stream
        let live = Live {
            unsolicited_events: Some(unsolicited_events),
            phase: Phase::Opening,
            calls: HashMap::new(),
            asked: Asked::default(),
            streams: BTreeMap::new(),
            next_stream: 0,
            listeners: 0,
            last_active: now,
            seen: *params.changes.borrow(),
            stale: false,
        };
        let replay = self.config.replay.clone();
        let mark = u64::from_ne_bytes(self.sealer.random()?);
        let ended_streams_max = replay.ended_streams;
        let (caller, version) = (params.caller.clone(), params.version);
        Ok(Session {
            id,
            params,
            handle: SessionHandle {
                number,
                caller,
                version,
                ended: CancellationToken::new(),
                unsolicited: Arc::new(unsolicited),
                settings: Arc::default(),
                pending_list_changes: Arc::default(),
            },
            born: now,
            calls_max: self.config.session_calls,
            asks_max: self.config.asks_per_session,
            mark,
            ended_streams_max,
            refusals: self.refusals.clone(),
            budget: Arc::new(ReplayBudget::new(
                replay,
                self.metrics.replay.clone(),
                self.replay_bytes.clone(),
            )),
            live: Mutex::new(live),
        })
    }

    fn expiry(&self, session: &Session, now: Instant) -> Option<Cause> {
        if now.duration_since(session.born) >= self.config.age {
            return Some(Cause::Age);
        }
        let since = session.idle_since()?;
        if now.duration_since(since) >= self.config.idle {
            return Some(Cause::Idle);
        }
        self.drain.is_stopping().then_some(Cause::Drain)
    }

    fn end(&self, session: &Session, cause: Cause) {
        let mut sessions = self.sessions.lock();
        if sessions.by_number.remove(&session.handle.number).is_none() {
            return; // it was ended elsewhere meanwhile
        }
        let principal = session.params.caller.principal();
        if let Some(own) = sessions.by_principal.get_mut(principal) {
            *own -= 1;
            if *own == 0 {
                sessions.by_principal.remove(principal);
            }
        }
        drop(sessions); // what the end wakes may lock the table
        session.end();
        self.metrics.open.dec();
        self.metrics.ended.get_or_create(&EndLabel { cause }).inc();
    }

    /// Ends the sessions that have expired; returns how many are left.
    fn sweep(&self) -> usize {
        let now = Instant::now();
        let all: Vec<_> = self.sessions.lock().by_number.values().cloned().collect();
        for session in &all {
            match self.expiry(session, now) {
                Some(cause) => self.end(session, cause),
                None => {
                    session.expire_streams(now);
                    session.expire_asks();
                }
            }
        }
        self.sessions.lock().by_number.len()
    }

    fn end_all(&self) {
        let all: Vec<_> = self.sessions.lock().by_number.values().cloned().collect();
        all.iter().for_each(|session| self.end(session, Cause::Drain));
    }
}

/// Runs until the process stops; then until each session has finished its calls, or the cut.
async fn sweep(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = shared.drain.stopping() => break,
            () = tokio::time::sleep(SWEEP) => {}
        }
        shared.sweep();
    }
    while shared.sweep() > 0 {
        tokio::select! {
            () = shared.drain.cut() => return shared.end_all(),
            () = tokio::time::sleep(SWEEP_DRAINING) => {}
        }
    }
}

/// How often expired sessions are looked for. 5 s: short compared with `idle`, and a walk over 10,000 sessions takes about
/// a millisecond.
const SWEEP: Duration = Duration::from_secs(5);
/// How often they are looked for while the process drains.
const SWEEP_DRAINING: Duration = Duration::from_millis(100);

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Cause {
    Deleted,
    Idle,
    Age,
    Drain,
}

words!(Cause { Deleted => "deleted", Idle => "idle", Age => "age", Drain => "drain" });

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabel {
    cause: Cause,
}

/// How many sessions are open, were opened and have ended.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    open: Gauge,
    opened: Counter,
    ended: Family<EndLabel, Counter>,
    replay: replay::Metrics,
}

impl Metrics {
    /// Registers under the process's prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "sessions",
            "Open sessions of legacy clients; near the bound raise limits.sessions",
            self.open.clone(),
        );
        registry.register(
            "sessions_opened",
            "Sessions opened; a high rate means clients that do not keep theirs",
            self.opened.clone(),
        );
        registry.register(
            "sessions_ended",
            "Sessions ended by cause; many by age or idle mean clients that never delete theirs",
            self.ended.clone(),
        );
        self.replay.register(registry);
    }

    /// Open sessions.
    pub fn open(&self) -> i64 {
        self.open.get()
    }

    /// Bytes that streams keep for resumption.
    pub fn replay_bytes(&self) -> i64 {
        self.replay.bytes()
    }
}
