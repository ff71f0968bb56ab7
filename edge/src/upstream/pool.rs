//! The connections to one server, and the way of a call to one of them.
//!
//! The fast path takes a lock for a look-up and queues the call on a connection that is ready. Everything else
//! (no slot, no connection, an era not known yet) waits in one task for each call, bounded by the queue.

mod environment;
pub(super) mod health;
pub(super) mod keeper;
pub(super) mod lease;
mod open;
pub(super) mod roster;
pub(super) mod tenant;

use std::hash::BuildHasher;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::mcp::method::Notice;
use wire::{Era, Message};

use self::health::Health;
use self::lease::{Lease, Profile, Seats};
use self::roster::{Key, Opening, Roster};
use self::tenant::Tenant;
use super::conn::{Conn, Ended, Job, Owner, Surroundings, draining, unneeded};
use super::control::Changes;
use super::facts::{Facts, Verdict};
use super::link::Dialer;
use super::link::process::Command;
use super::metrics::Metrics;
use super::settings::{Config, ServerConfig};
use super::tasks::TaskIds;
use super::wishes;
use super::wishes::listen::Beside;
use super::wishes::subscriptions::Subscriptions;
use crate::call::{
    Affinity, Call, Dispatch, List, Listing, Reply, Server, ServerName, SessionHandle, Subscriber,
    Subscribing, reply,
};
use crate::error::{Blame, Error, Kind};
use crate::permit::{Bound, QueuePermit, RETRY_AFTER, SlotPermit, Slots};

pub(super) use self::environment::Around;
pub use self::environment::Environment;

/// One server, as many connections as it needs.
pub struct Pool {
    shared: Arc<Shared>,
    pub(super) announcing: Mutex<Option<mpsc::UnboundedReceiver<SessionHandle>>>,
}

impl Pool {
    /// A pool without connections. It ends with `drain`, or when it is dropped.
    pub fn new(
        server: ServerConfig,
        config: Config,
        metrics: &Metrics,
        environment: Environment,
    ) -> Arc<Self> {
        let Environment { permits, drain, sealer } = environment;
        let tasks = TaskTracker::new();
        let command = Command::new(&server, &config, tasks.clone());
        let dial = Dialer::new(server.source.clone(), command);
        let around = Around {
            dial: Arc::new(dial),
            metrics: metrics.server(&server.name),
            permits,
            drain,
            tasks,
            sealer,
        };
        Self::with(server, config, around)
    }

    /// The same with another way to reach the server.
    pub(super) fn with(server: ServerConfig, config: Config, around: Around) -> Arc<Self> {
        let seed = std::hash::RandomState::new().hash_one(server.name.as_str());
        let state = State {
            roster: Roster::default(),
            verdict: Verdict::fixed(server.era),
            health: Health::new(Instant::now(), config.health_interval, seed),
            facts: None,
            last_error: None,
            closes_at_once: false,
            beside_listen: Beside::default(),
            next_number: 0,
        };
        // Bounded by the sessions that are open.
        let (announce, announcing) = mpsc::unbounded_channel();
        let shared = Arc::new_cyclic(|this| Shared {
            slots: Slots::new(config.slots, around.permits.metrics().clone()),
            seats: Seats::new(config.principal_connections),
            subscriptions: Subscriptions::default(),
            task_ids: Arc::new(TaskIds::new(
                server.name.clone(),
                config.limits.clone(),
                around.sealer.clone(),
            )),
            config: Arc::new(config),
            server,
            around,
            state: Mutex::new(state),
            changes: watch::Sender::default(),
            announce,
            stop: CancellationToken::new(),
            seed,
            this: this.clone(),
        });
        shared.around.metrics.era(shared.state.lock().verdict.era());
        keeper::start(&shared);
        Arc::new(Self { shared, announcing: Mutex::new(Some(announcing)) })
    }

    /// The server's slug.
    pub fn name(&self) -> &ServerName {
        &self.shared.server.name
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Dispatch for Pool {
    fn dispatch(&self, mut call: Call) -> Reply {
        if let Err(error) = self.shared.task_ids.resolve(&mut call) {
            return Reply::failed(error);
        }
        let (responder, reply) = reply();
        let job = Box::new(Job { call, responder, lease: None, tries: 0 });
        if wishes::is_subscription(job.call.method) {
            self.shared.take_subscription(job); // rare, and looked at more closely
        } else {
            self.shared.take(job);
        }
        reply
    }
}

impl Server for Pool {
    fn roots_changed(&self, session: &SessionHandle) {
        if let Some(conn) = self.shared.session_conn(session) {
            conn.roots_changed();
        }
    }

    fn revoke(&self, is_denied: &dyn Fn(&str) -> bool) {
        self.shared.subscriptions.release_of(is_denied);
        self.shared.state.lock().roster.retire(|key, conn| {
            let session = conn.spec().tenant.as_ref().and_then(|tenant| tenant.session());
            let principal = session.map(|session| session.caller.principal()).or_else(|| key.principal());
            let is_over = principal.is_some_and(|principal| is_denied(principal));
            if let Some(session) = session.filter(|_| is_over) {
                // If it may be used again, the client has to subscribe again.
                session
                    .settings
                    .change(|wished| wished.subscriptions.retain(|(server, _)| server != self.name()));
            }
            is_over
        });
    }

    fn tell_level(&self, session: &SessionHandle) {
        self.shared.tell_level(session);
    }

    fn list(&self, session: &SessionHandle, list: List) -> Listing {
        self.shared.list_of(session, list)
    }

    fn tasks(&self, session: &SessionHandle) -> Pin<Box<dyn Future<Output = Vec<Bytes>> + Send>> {
        self.shared.list_tasks(session)
    }

    fn subscribe(&self, subscriber: Subscriber, uri: String) -> Subscribing {
        Box::pin(self.shared.clone().subscribe(subscriber, uri))
    }
}

impl Pool {
    /// Ends every connection, and with it what is still on its way there.
    pub fn stop(&self) {
        self.shared.stop.cancel();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the tasks of a pool share.
pub(super) struct Shared {
    pub(super) server: ServerConfig,
    pub(super) config: Arc<Config>,
    pub(super) around: Around,
    pub(super) changes: watch::Sender<Changes>,
    pub(super) announce: mpsc::UnboundedSender<SessionHandle>,
    /// No more connections.
    pub(super) stop: CancellationToken,
    /// For jitter.
    pub(super) seed: u64,
    pub(super) slots: Slots,
    pub(super) seats: Arc<Seats>,
    pub(super) task_ids: Arc<TaskIds>,
    pub(super) subscriptions: Subscriptions,
    pub(super) state: Mutex<State>,
    this: Weak<Self>,
}

/// What changes in a pool. Locked before any connection's own state, never after.
pub(super) struct State {
    pub(super) roster: Roster,
    pub(super) verdict: Verdict,
    pub(super) health: Health,
    /// As of the last control connection.
    pub(super) facts: Option<Arc<Facts>>,
    pub(super) last_error: Option<String>,
    /// It closed two probes at once, as a process does that ends at a request it does not know.
    pub(super) closes_at_once: bool,
    pub(super) beside_listen: Beside,
    pub(super) next_number: u64,
}

impl Shared {
    pub(super) fn this(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }

    pub(super) fn surroundings(&self) -> Surroundings {
        let owner: Weak<dyn Owner> = self.this.clone();
        Surroundings {
            config: self.config.clone(),
            metrics: self.around.metrics.clone(),
            permits: self.around.permits.clone(),
            owner,
            tasks: self.around.tasks.clone(),
            task_ids: self.task_ids.clone(),
            stop: self.stop.clone(),
        }
    }

    /// Sends the call if a connection is ready for it, else lets it wait for one.
    fn take(&self, mut job: Box<Job>) {
        let Some(conn) = self.ready(&mut job) else { return self.enqueue(job, None) };
        let Some(slot) = self.slots.try_take() else { return self.enqueue(job, None) };
        if let Err((job, slot)) = conn.send(job, slot) {
            self.enqueue(job, Some(slot));
        }
    }

    /// The connection that a session has open to a legacy server.
    pub(super) fn session_conn(&self, session: &SessionHandle) -> Option<Arc<Conn>> {
        let state = self.state.lock();
        let conn = state.roster.ready(&Key::Session(session.number))?;
        conn.spec().tenant.is_some().then(|| conn.clone())
    }

    fn ready(&self, job: &mut Job) -> Option<Arc<Conn>> {
        let call = &job.call;
        let mut state = self.state.lock();
        let era = state.verdict.last()?;
        if let Some(profile) = lease::needed(call, self.server.isolation, era) {
            job.lease = self.seats.try_take(call.caller.principal(), profile);
            let lease = job.lease.as_ref()?;
            return state.roster.ready(&lease.key()).filter(|conn| conn.is_of(lease.profile())).cloned();
        }
        let key = self.key(&state, call, era);
        let conn = state.roster.ready(&key)?.clone();
        let is_busy = key == Key::Shared && conn.in_flight() >= SHARED_CALLS;
        if is_busy && state.roster.count_of(&key) < SHARED_CONNECTIONS {
            // In the background: the call itself goes out at once.
            let _ = self.begin(&mut state, &key, None);
        }
        Some(conn)
    }

    /// Lets a call wait for a slot, a connection or both, in a task of its own.
    pub(super) fn enqueue(&self, job: Box<Job>, slot: Option<SlotPermit>) {
        let (Ok(place), Some(this)) = (self.slots.queue(), self.this.upgrade()) else {
            return job.responder.fail(Bound::Queue.refusal());
        };
        self.around.tasks.spawn(this.wait(job, slot, place));
    }

    async fn wait(self: Arc<Self>, mut job: Box<Job>, slot: Option<SlotPermit>, place: QueuePermit) {
        let mut slot = slot;
        while job.tries < TRIES {
            job.tries += 1;
            let found = tokio::select! {
                biased; // for a caller that has left nothing is begun
                () = job.responder.cancelled() => return,
                () = self.stop.cancelled() => Err(draining()),
                found = self.find((&job.call, &mut job.lease), slot.take(), &place) => found,
            };
            let (conn, permit) = match found {
                Ok(found) => found,
                Err(error) => return job.responder.fail(error),
            };
            match conn.send(job, permit) {
                Ok(()) => return,
                Err((back, permit)) => (job, slot) = (back, Some(permit)),
            }
        }
        job.responder.fail(self.busy());
    }

    async fn find(
        self: &Arc<Self>,
        (call, lease): (&Call, &mut Option<Lease>),
        slot: Option<SlotPermit>,
        place: &QueuePermit,
    ) -> Result<(Arc<Conn>, SlotPermit), Error> {
        let slot = match slot {
            Some(slot) => slot,
            None => place.slot().await.map_err(Bound::refusal)?,
        };
        let era = self.state.lock().verdict.era();
        let era = match era {
            Some(era) => era,
            None => self.facts().await?.era,
        };
        if let Some(profile) = lease::needed(call, self.server.isolation, era) {
            return Ok((self.leased(call, (lease, profile)).await?, slot));
        }
        *lease = None;
        let key = self.key(&self.state.lock(), call, era);
        self.check(call)?;
        let tenant = match (&key, &call.affinity) {
            (Key::Session(_), Affinity::Session(session)) => {
                Some(Arc::new(Tenant::of_session(session, &call.client)))
            }
            _ => None,
        };
        Ok((self.connection(&key, tenant).await?, slot))
    }

    /// Whose connection a call uses that needs none to itself.
    fn key(&self, state: &State, call: &Call, era: Era) -> Key {
        let key = Key::of(call, self.server.isolation, era);
        if !matches!(key, Key::Principal(_)) || call.method.facts().may_ask {
            return key;
        }
        let (home, _) = lease::home(&self.seats, key.clone(), (&call.client, &call.affinity), era);
        // A process of its own for a completion would be too much.
        if state.roster.ready(&home).is_some() { home } else { key }
    }

    /// The connection of the call's seat, which it may have to wait for.
    async fn leased(
        &self,
        call: &Call,
        (lease, profile): (&mut Option<Lease>, Profile),
    ) -> Result<Arc<Conn>, Error> {
        let lease = match lease.take() {
            Some(held) => lease.insert(held),
            None => {
                let timeout = self.config.slots.queue_timeout;
                let taken = self.seats.take(call.caller.principal(), profile, timeout).await;
                lease.insert(taken.map_err(|bound| {
                    self.around.permits.metrics().hit(bound);
                    bound.refusal()
                })?)
            }
        };
        let (key, tenant) = (lease.key(), Arc::new(Tenant::of_lease(profile)));
        for _ in 0..TRIES {
            let conn = self.connection(&key, Some(tenant.clone())).await?;
            if conn.is_of(profile) {
                return Ok(conn);
            }
            // No other call has the seat; subscriptions on it go on on the next connection.
            conn.close(&unneeded());
        }
        Err(self.busy())
    }

    /// The connection of `key`, opened if there is none. Many may wait for the same attempt, which goes on
    /// when they leave.
    pub(super) async fn connection(
        &self,
        key: &Key,
        tenant: Option<Arc<Tenant>>,
    ) -> Result<Arc<Conn>, Error> {
        let mut opening = {
            let mut state = self.state.lock();
            // One that has just died may not have been taken out yet.
            if let Some(conn) = state.roster.ready(key).filter(|conn| conn.is_open()) {
                return Ok(conn.clone());
            }
            match state.roster.opening(key) {
                Some(opening) => opening,
                None => self.begin(&mut state, key, tenant)?,
            }
        };
        let ended = opening.wait_for(Option::is_some).await.map(|result| (*result).clone());
        match ended {
            Ok(Some(result)) => result,
            // Its task panicked; the next attempt starts afresh.
            Ok(None) | Err(_) => {
                self.state.lock().roster.opened(key, None);
                Err(Error::new(Kind::Lost, Blame::Edge, "the attempt to connect was lost inside the gateway"))
            }
        }
    }

    /// Starts an attempt to open a connection.
    fn begin(&self, state: &mut State, key: &Key, tenant: Option<Arc<Tenant>>) -> Result<Opening, Error> {
        let this = self.this.upgrade().filter(|_| !self.stop.is_cancelled()).ok_or_else(draining)?;
        if let Some(why) = state.health.down() {
            return Err(Error::new(Kind::Unreachable, Blame::Upstream, why));
        }
        // The control connection is beyond the bound: without it nobody would see the server's lists.
        let calls = state.roster.places() - state.roster.count_of(&Key::Control);
        if *key != Key::Control && calls >= self.server.connections {
            self.around.permits.metrics().hit(Bound::ServerConnections);
            return Err(Bound::ServerConnections.refusal());
        }
        let (ended, opening) = watch::channel(None);
        state.roster.open(key.clone(), opening.clone());
        self.around.tasks.spawn(this.open(key.clone(), tenant, ended));
        Ok(opening)
    }

    pub(super) fn unreachable(&self, why: &str) -> Error {
        let message = format!("server `{}` cannot be reached: {why}", self.server.name);
        Error::new(Kind::Unreachable, Blame::Upstream, message)
    }

    pub(super) fn busy(&self) -> Error {
        let name = &self.server.name;
        let message =
            format!("server `{name}` closed the connection before it answered; it is full or fails at start");
        Error::busy(Blame::Upstream, RETRY_AFTER, message)
    }

    pub(super) fn protocol(&self, clause: &str) -> Error {
        Error::new(Kind::Protocol, Blame::Upstream, format!("server `{}`: {clause}", self.server.name))
    }
}

impl Owner for Shared {
    fn returned(&self, job: Box<Job>, slot: SlotPermit, why: &Error) {
        if job.tries < TRIES { self.enqueue(job, Some(slot)) } else { job.responder.fail(why.clone()) }
    }

    fn notice(&self, conn: &Conn, notice: Notice, message: &Message) {
        let session = conn.spec().tenant.as_ref().and_then(|tenant| tenant.session());
        if let Some(session) = session.filter(|_| Changes::default().count(notice)) {
            return self.announced(session, notice);
        }
        if notice == Notice::ResourceUpdated {
            return self.subscriptions.updated(conn.spec().number, message);
        }
        // A call's own connection changes nobody else's view of the server.
        if conn.spec().is_control {
            self.changes.send_if_modified(|changes| changes.count(notice));
        }
    }

    fn left(&self, conn: &Conn, how: Ended) {
        let lost_control = {
            let mut state = self.state.lock();
            let key = state.roster.remove(conn.spec().number);
            if let Some(key) = key.as_ref().filter(|key| state.roster.ready(key).is_none()) {
                self.seats.declared(key, None);
            }
            if how == Ended::Died && key.is_some() {
                state.last_error = Some("its process ended".to_owned());
            }
            let was_control = key == Some(Key::Control);
            if was_control && let Verdict::Assumed(era) = state.verdict {
                state.verdict = Verdict::Open(Some(era));
            }
            if key.is_some() {
                let (server, number) = (&self.server.name, conn.spec().number);
                tracing::info!(%server, conn = number, ?how, "upstream connection ended");
            }
            was_control && how == Ended::Died
        };
        if lost_control {
            self.changes.send_modify(|changes| changes.lost += 1);
        }
    }
}

/// Connections tried for one call: a call that nothing was written of three times has met something systematic.
pub(super) const TRIES: u8 = 3;
/// Calls in flight on each connection of a `shared` server before another one is opened.
const SHARED_CALLS: usize = 8;
/// Connections of a `shared` server: a process answers many calls, but some of them block it.
const SHARED_CONNECTIONS: usize = 4;
