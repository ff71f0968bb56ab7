//! The connections to one server: the pool, its state, and what its connections report to it. How a call gets to one of
//! them is in `dispatch`.

pub(super) mod connection_table;
mod deps;
mod dispatch;
pub(super) mod health;
mod keeper;
mod open;
mod sessions;

use std::hash::BuildHasher;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::Message;
use wire::mcp::method::Notice;

use self::connection_table::{ConnectionTable, Opening};
use self::health::Health;
use self::sessions::Sessions;
use super::conn::{Conn, ConnContext, Ended, Job, Owner, draining};
use super::control::Changes;
use super::facts::{Facts, KnownEra};
use super::key::{Key, Target};
use super::lease::Seats;
use super::link::Dialer;
use super::link::process::Command;
use super::metrics::Metrics;
use super::settings::{Config, ServerConfig, TRIES};
use super::subscriptions::registry::Subscriptions;
use super::subscriptions::server_listen::ListenConcurrency;
use super::tasks::TaskIds;
use crate::call::{List, Listing, Server, ServerName, SessionHandle, Subscriber, Subscribing};
use crate::error::{Blame, Error, Kind};
use crate::permit::{Bound, RETRY_AFTER, SlotPermit, Slots};

pub use self::deps::Environment;
pub(super) use self::deps::PoolDeps;

/// One server, as many connections as it needs.
pub struct Pool {
    inner: Arc<PoolInner>,
    pub(super) announcing: Mutex<Option<mpsc::UnboundedReceiver<SessionHandle>>>,
}

impl Pool {
    /// A pool without connections. It stops with `drain`, or when it is dropped.
    pub fn new(
        server: ServerConfig,
        config: Config,
        metrics: &Metrics,
        environment: Environment,
    ) -> Arc<Self> {
        let (metrics, tasks) = (metrics.server(&server.name), TaskTracker::new());
        let command = Command::new(&server, &config, metrics.clone(), tasks.clone());
        let dial = Dialer::new(server.source.clone(), command);
        let deps = PoolDeps { environment, dial: Arc::new(dial), metrics, tasks };
        Self::with(server, config, deps)
    }

    /// A pool that reaches the server by `deps.dial`.
    pub(super) fn with(server: ServerConfig, config: Config, deps: PoolDeps) -> Arc<Self> {
        let seed = std::hash::RandomState::new().hash_one(server.name.as_str());
        let state = PoolState {
            connections: ConnectionTable::default(),
            era: KnownEra::fixed(server.era),
            health: Health::new(Instant::now(), config.health_interval, seed),
            facts: None,
            last_error: None,
            fails_to_open: false,
            closes_at_once: false,
            listen_concurrency: ListenConcurrency::default(),
            next_number: 0,
        };
        // Unbounded, but each open session is in it at most once.
        let (announce, announcing) = mpsc::unbounded_channel();
        let inner = Arc::new_cyclic(|this| PoolInner {
            slots: Slots::new(config.slots, deps.environment.permits.metrics().clone()),
            seats: Seats::new(config.principal_connections),
            subscriptions: Subscriptions::default(),
            sessions: Sessions::default(),
            task_ids: Arc::new(TaskIds::new(
                server.name.clone(),
                config.limits.clone(),
                deps.environment.sealer.clone(),
            )),
            config: Arc::new(config),
            server,
            deps,
            state: Mutex::new(state),
            changes: watch::Sender::default(),
            announce,
            stop: CancellationToken::new(),
            seed,
            this: this.clone(),
        });
        inner.deps.metrics.era(inner.state.lock().era.get());
        keeper::start(&inner);
        Arc::new(Self { inner, announcing: Mutex::new(Some(announcing)) })
    }

    /// The server's slug.
    pub fn name(&self) -> &ServerName {
        &self.inner.server.name
    }

    pub(super) fn inner(&self) -> &Arc<PoolInner> {
        &self.inner
    }
}

impl Server for Pool {
    fn roots_changed(&self, session: &SessionHandle) {
        // Counted first: a connection that is registered from now on sees it.
        session.settings.change(|wished| wished.roots_changes += 1);
        self.inner.send_roots_changed(session);
    }

    fn revoke(&self, is_denied: &dyn Fn(&str) -> bool) {
        self.inner.subscriptions.release_of(is_denied);
        self.inner.sessions.forget_subscriptions(self.name(), is_denied);
        self.inner.state.lock().connections.retire(|key, conn| {
            let session = conn.spec().client.as_ref().and_then(|client| client.session());
            let principal = session.map(|session| session.caller.principal()).or_else(|| key.principal());
            principal.is_some_and(|principal| is_denied(principal))
        });
    }

    fn tell_level(&self, session: &SessionHandle) {
        self.inner.send_level(session);
    }

    fn list(&self, session: &SessionHandle, list: List) -> Listing {
        self.inner.list_of(session, list)
    }

    fn tasks(&self, session: &SessionHandle) -> Pin<Box<dyn Future<Output = Vec<Bytes>> + Send>> {
        self.inner.list_tasks(session)
    }

    fn subscribe(&self, subscriber: Subscriber, uri: String) -> Subscribing {
        Box::pin(self.inner.clone().subscribe(subscriber, uri))
    }
}

impl Pool {
    /// Records how many of the server's lists could not be read.
    pub fn set_lists_unread(&self, lists: usize) {
        self.inner.deps.metrics.lists_unread.set(i64::try_from(lists).unwrap_or(i64::MAX));
    }

    /// Ends every connection, and fails the calls that are still on it.
    pub fn stop(&self) {
        self.inner.stop.cancel();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What the pool shares with its tasks.
pub(super) struct PoolInner {
    pub(super) server: ServerConfig,
    pub(super) config: Arc<Config>,
    pub(super) deps: PoolDeps,
    pub(super) changes: watch::Sender<Changes>,
    pub(super) announce: mpsc::UnboundedSender<SessionHandle>,
    /// Cancelled when the pool stops: it opens no more connections, and ends those it has.
    pub(super) stop: CancellationToken,
    /// For jitter.
    pub(super) seed: u64,
    pub(super) slots: Slots,
    pub(super) seats: Arc<Seats>,
    pub(super) task_ids: Arc<TaskIds>,
    pub(super) subscriptions: Subscriptions,
    pub(super) sessions: Sessions,
    pub(super) state: Mutex<PoolState>,
    this: Weak<Self>,
}

/// The mutable state of a pool. Its lock is taken before a connection's, never after.
pub(super) struct PoolState {
    pub(super) connections: ConnectionTable,
    pub(super) era: KnownEra,
    pub(super) health: Health,
    /// The facts of the last control connection.
    pub(super) facts: Option<Arc<Facts>>,
    pub(super) last_error: Option<String>,
    /// The last connection was accepted and came to nothing while no other took calls: the server closed it, or did not
    /// speak MCP.
    pub(super) fails_to_open: bool,
    /// Whether the server closed two probes in a row, as a process does that ends at a request it does not know.
    pub(super) closes_at_once: bool,
    pub(super) listen_concurrency: ListenConcurrency,
    pub(super) next_number: u64,
}

impl PoolInner {
    pub(super) fn this(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }

    pub(super) fn conn_context(&self) -> ConnContext {
        let owner: Weak<dyn Owner> = self.this.clone();
        ConnContext {
            config: self.config.clone(),
            metrics: self.deps.metrics.clone(),
            permits: self.deps.environment.permits.clone(),
            owner,
            tasks: self.deps.tasks.clone(),
            task_ids: self.task_ids.clone(),
            stop: self.stop.clone(),
        }
    }

    /// The exclusive connection that a session has open, if any.
    pub(super) fn session_conn(&self, session: &SessionHandle) -> Option<Arc<Conn>> {
        let state = self.state.lock();
        let conn = state.connections.ready(&Key::Session(session.number))?;
        conn.spec().client.is_some().then(|| conn.clone())
    }

    /// The connection of the target's key, opened if there is none. Several callers may wait for one attempt, which
    /// goes on when they leave.
    pub(super) async fn connection(&self, target: &Target) -> Result<Arc<Conn>, Error> {
        let key = &target.key;
        let mut opening = {
            let mut state = self.state.lock();
            // A connection that has just died may not have been removed yet.
            if let Some(conn) = state.connections.ready(key).filter(|conn| conn.is_open()) {
                return Ok(conn.clone());
            }
            match state.connections.opening(key) {
                Some(opening) => opening,
                None => self.begin(&mut state, target)?,
            }
        };
        let ended = opening.wait_for(Option::is_some).await.map(|result| (*result).clone());
        match ended {
            Ok(Some(result)) => result,
            // Its task panicked; the next attempt starts afresh.
            Ok(None) | Err(_) => {
                self.state.lock().connections.opened(key, None);
                Err(Error::new(Kind::Lost, Blame::Edge, "the attempt to connect was lost inside the gateway"))
            }
        }
    }

    /// Starts an attempt to open a connection.
    fn begin(&self, state: &mut PoolState, target: &Target) -> Result<Opening, Error> {
        let this = self.this.upgrade().filter(|_| !self.stop.is_cancelled()).ok_or_else(draining)?;
        if let Some(why) = state.health.down() {
            return Err(Error::new(Kind::Unreachable, Blame::Upstream, why));
        }
        // The control connection does not count: without it nobody would see the server's lists.
        let counted = state.connections.counted() - state.connections.count_of(&Key::Control);
        if target.key != Key::Control && counted >= self.server.connections {
            self.deps.environment.permits.metrics().hit(Bound::ServerConnections);
            return Err(Bound::ServerConnections.refusal());
        }
        let (ended, opening) = watch::channel(None);
        state.connections.open(target.key.clone(), opening.clone());
        self.deps.tasks.spawn(this.open(target.clone(), ended));
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

impl Owner for PoolInner {
    fn returned(&self, job: Box<Job>, slot: SlotPermit, why: &Error) {
        if job.tries < TRIES { self.enqueue(job, Some(slot)) } else { job.responder.fail(why.clone()) }
    }

    fn notice(&self, conn: &Conn, notice: Notice, message: &Message) {
        let session = conn.spec().client.as_ref().and_then(|client| client.session());
        if let Some(session) = session.filter(|_| Changes::default().count(notice)) {
            return self.announced(session, notice);
        }
        if notice == Notice::ResourceUpdated {
            return self.subscriptions.publish(conn.spec().number, message);
        }
        // What other connections announce does not change what everybody sees of the server.
        if conn.spec().is_control {
            self.changes.send_if_modified(|changes| changes.count(notice));
        }
    }

    fn ended(&self, conn: &Conn, how: Ended) {
        let lost_control = {
            let mut state = self.state.lock();
            let key = state.connections.remove(conn.spec().number);
            if let Some(key) = key.as_ref().filter(|key| state.connections.ready(key).is_none()) {
                self.seats.set_declared(key, None);
            }
            if how == Ended::Died && key.is_some() {
                state.last_error = Some("its process ended".to_owned());
            }
            let was_control = key == Some(Key::Control);
            if was_control && let KnownEra::Assumed(era) = state.era {
                state.era = KnownEra::Open(Some(era));
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
