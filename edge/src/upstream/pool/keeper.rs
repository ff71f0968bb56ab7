//! The periodic work of a pool: deadlines, liveness, idle connections, addresses that are gone, the health of a
//! server without connections, and the end of the pool.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::PoolInner;
use super::open::CONNECT_MOST;
use crate::error::Error;
use crate::upstream::conn::Conn;
use crate::upstream::key::Key;
use crate::upstream::link::address::Endpoint;
use crate::upstream::settings::{SWEEP, Source};

/// Starts the keeper's two tasks. The one that keeps deadlines never waits for the network.
pub(super) fn start(pool: &Arc<PoolInner>) {
    let drain = &pool.deps.environment.drain;
    drain.spawn(sweep(pool.clone()));
    pool.deps.tasks.spawn(watch(pool.clone()));
}

/// Sweeps until the pool stops; then ends its connections and waits for all of its tasks.
async fn sweep(pool: Arc<PoolInner>) {
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let drain = &pool.deps.environment.drain;
    loop {
        tokio::select! {
            now = tick.tick() => pool.sweep(now),
            () = pool.stop.cancelled() => break,
            () = drain.cut() => break,
            () = finished(&pool) => break,
        }
    }
    pool.stop.cancel();
    pool.deps.tasks.close();
    pool.deps.tasks.wait().await;
}

/// Resolves when the gateway is stopping and no call is in flight any more.
async fn finished(pool: &PoolInner) {
    pool.deps.environment.drain.stopping().await;
    while !pool.slots.is_idle() {
        sleep(LAST_CALLS).await;
    }
}

/// Follows the server's addresses and health until the pool stops.
async fn watch(pool: Arc<PoolInner>) {
    tokio::select! {
        () = pool.stop.cancelled() => {}
        () = pool.follow_server() => {}
    }
}

impl PoolInner {
    fn sweep(&self, now: Instant) {
        self.retire_unresponsive(now); // before their calls fail: a retry must get another connection
        let conns: Vec<_> = {
            let state = self.state.lock();
            let stays = |key: &Key, retired: bool| key.outlives_idleness() && !retired;
            state
                .connections
                .iter()
                .map(|(key, conn, retired)| (conn.clone(), stays(key, retired), retired))
                .collect()
        };
        for (conn, stays, retired) in conns {
            conn.sweep(now);
            let stays = stays || (!retired && self.subscriptions.are_on(conn.spec().number));
            let idle = if retired { Duration::ZERO } else { self.config.idle_timeout };
            if !stays && let Some(before) = now.checked_sub(idle) {
                conn.close_idle(before, retired);
            }
        }
    }

    async fn follow_server(self: &Arc<Self>) {
        let mut tick = interval(SWEEP);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut resolved = Instant::now();
        loop {
            let now = tick.tick().await;
            if now - resolved >= self.config.resolve_interval {
                self.follow_addresses().await;
                resolved = Instant::now();
            }
            self.check_health(now).await;
        }
    }

    /// Retires connections whose process became unresponsive. Calls in flight there keep their time, and are answered
    /// if the process recovers; then its connection takes calls again, or closes if another one took its place.
    fn retire_unresponsive(&self, now: Instant) {
        let conns: Vec<_> = {
            let mut state = self.state.lock();
            state.connections.reinstate(Conn::recover);
            let active = state.connections.iter().filter(|(_, _, retired)| !retired);
            active.map(|(_, conn, _)| conn.clone()).collect()
        };
        let unresponsive: Vec<u64> =
            conns.iter().filter(|conn| conn.check_liveness(now)).map(|conn| conn.spec().number).collect();
        let Some((conn, others)) = unresponsive.split_first() else { return };
        // One line per sweep: what stops one process often stops all of them.
        let others = others.len();
        tracing::warn!(server = %self.server.name, conn, others, "server says nothing any more: its connection is replaced");
        self.deps.metrics.silent.inc_by(unresponsive.len() as u64);
        let mut state = self.state.lock();
        state.connections.retire_until_recovery(|conn| unresponsive.contains(&conn.spec().number));
        state.last_error = Some("its process did not answer in time".to_owned());
    }

    /// Retires connections to addresses that the server's names no longer lead to; they close when their calls end.
    async fn follow_addresses(&self) {
        let has_names =
            matches!(self.server.source, Source::Endpoints(_)) && self.state.lock().connections.len() > 0;
        if !has_names {
            return;
        }
        let found = self.deps.dial.endpoints(Instant::now() + RESOLVE_TIMEOUT).await;
        if found.endpoints.is_empty() {
            return;
        }
        let stay: HashSet<Endpoint> = found.endpoints.into_iter().chain(found.unsure).collect();
        self.state.lock().connections.retire(|_, conn| !stay.contains(&conn.spec().endpoint));
    }

    /// Checks whether a server that is down, or has no connection, takes connections.
    async fn check_health(self: &Arc<Self>, now: Instant) {
        let is_due = {
            let state = self.state.lock();
            let sleeps = state.health.is_up() && state.connections.len() == 0;
            state.health.is_due(now) && (sleeps || state.health.is_down())
        };
        if !is_due {
            return;
        }
        match self.check_endpoints().await {
            Ok(Checked::Reachable) => self.reached(),
            Ok(Checked::Unknown) => self.may_be_back(),
            Err(error) => self.not_reached(&error.message),
        }
    }

    /// Whether any endpoint takes connections. They are tried concurrently: one that does not even refuse must not
    /// delay the check of those that work.
    async fn check_endpoints(self: &Arc<Self>) -> Result<Checked, Error> {
        let mut endpoints = self.endpoints(Instant::now() + RESOLVE_TIMEOUT).await?.into_iter();
        let (mut checks, mut failure) = (JoinSet::new(), None);
        loop {
            while checks.len() < CONCURRENT_CHECKS
                && let Some(endpoint) = endpoints.next()
            {
                checks.spawn(self.clone().check_endpoint(endpoint));
            }
            match checks.join_next().await {
                Some(Ok(Ok(checked))) => return Ok(checked),
                Some(Ok(Err(error))) => failure = Some(error),
                Some(Err(error)) => failure = Some(self.unreachable(&error.to_string())),
                None => return Err(failure.unwrap_or_else(|| self.no_address())),
            }
        }
    }

    async fn check_endpoint(self: Arc<Self>, endpoint: Endpoint) -> Result<Checked, Error> {
        let Some(check) = self.deps.dial.check(&endpoint) else { return Ok(Checked::Unknown) };
        self.in_time(Instant::now() + CONNECT_MOST, check).await.map(|()| Checked::Reachable)
    }
}

/// The result of a check that did not fail.
enum Checked {
    Reachable,
    /// A local command: only starting it would show.
    Unknown,
}

/// How long names are resolved at one check. 2 s: the next check is not far.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Endpoints checked concurrently. 8: a server has few, and each is an open file for a moment.
const CONCURRENT_CHECKS: usize = 8;
/// How soon the end of the last call is noticed while the gateway stops. 50 ms: little of the time to stop.
const LAST_CALLS: Duration = Duration::from_millis(50);
