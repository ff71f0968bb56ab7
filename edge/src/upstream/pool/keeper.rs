//! What has to be looked at now and then: deadlines, idle connections, addresses that left, the health of a
//! server that sleeps, and the end of it all.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::Shared;
use super::open::CONNECT_MOST;
use crate::error::Error;
use crate::upstream::conn::Conn;
use crate::upstream::link::address::Endpoint;
use crate::upstream::settings::{SWEEP, Source};

/// Starts the keeper's two tasks: one never waits for the network, so that no deadline is late for it.
pub(super) fn start(shared: &Arc<Shared>) {
    let drain = &shared.around.drain;
    drain.spawn(sweep(shared.clone()));
    shared.around.tasks.spawn(watch(shared.clone()));
}

/// Sweeps until the pool stops, and its connections with it.
async fn sweep(shared: Arc<Shared>) {
    let mut tick = interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let drain = &shared.around.drain;
    loop {
        tokio::select! {
            now = tick.tick() => shared.sweep(now),
            () = shared.stop.cancelled() => break,
            () = drain.cut() => break,
            () = finished(&shared) => break,
        }
    }
    shared.stop.cancel();
    shared.around.tasks.close();
    shared.around.tasks.wait().await;
}

/// Resolves when the process is stopping and nothing is in flight any more.
async fn finished(shared: &Shared) {
    shared.around.drain.stopping().await;
    while !shared.slots.is_idle() {
        sleep(LAST_CALLS).await;
    }
}

/// Looks at addresses and health until the pool stops, also in the middle of a look.
async fn watch(shared: Arc<Shared>) {
    tokio::select! {
        () = shared.stop.cancelled() => {}
        () = shared.watch() => {}
    }
}

impl Shared {
    fn sweep(&self, now: Instant) {
        self.retire_unresponsive(now); // before their calls fail: a retry must get another connection
        let conns: Vec<_> = {
            let state = self.state.lock();
            let stays = |key: &super::roster::Key, retired: bool| key.outlives_idleness() && !retired;
            state
                .roster
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

    async fn watch(self: &Arc<Self>) {
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

    /// Retires connections whose process became unresponsive. Calls in flight there keep their time, and are answered if the
    /// process recovers; then its connection takes calls again, or closes if another one took its place.
    fn retire_unresponsive(&self, now: Instant) {
        let conns: Vec<_> = {
            let mut state = self.state.lock();
            state.roster.reinstate(Conn::recover);
            let active = state.roster.iter().filter(|(_, _, retired)| !retired);
            active.map(|(_, conn, _)| conn.clone()).collect()
        };
        let unresponsive: Vec<u64> =
            conns.iter().filter(|conn| conn.check_liveness(now)).map(|conn| conn.spec().number).collect();
        let Some((conn, others)) = unresponsive.split_first() else { return };
        // One line per sweep: what stops one process often stops all of them.
        let others = others.len();
        tracing::warn!(server = %self.server.name, conn, others, "server says nothing any more: its connection is replaced");
        self.around.metrics.silent.inc_by(unresponsive.len() as u64);
        let mut state = self.state.lock();
        state.roster.retire(|_, conn| unresponsive.contains(&conn.spec().number));
        state.last_error = Some("its process did not answer in time".to_owned());
    }

    /// Gives no new call to an address that left; its connections close when their calls end.
    async fn follow_addresses(&self) {
        let has_names =
            matches!(self.server.source, Source::Endpoints(_)) && self.state.lock().roster.len() > 0;
        if !has_names {
            return;
        }
        let found = self.around.dial.endpoints(Instant::now() + LOOK_UP).await;
        if found.endpoints.is_empty() {
            return;
        }
        let stay: HashSet<Endpoint> = found.endpoints.into_iter().chain(found.unsure).collect();
        self.state.lock().roster.retire(|_, conn| !stay.contains(&conn.spec().endpoint));
    }

    /// Looks whether a server that sleeps, or is down, takes connections.
    async fn check_health(self: &Arc<Self>, now: Instant) {
        let is_due = {
            let state = self.state.lock();
            let sleeps = state.health.is_up() && state.roster.len() == 0;
            state.health.is_due(now) && (sleeps || state.health.is_down())
        };
        if !is_due {
            return;
        }
        match self.look().await {
            Ok(Seen::Yes) => self.reached(),
            Ok(Seen::CannotLook) => self.may_be_back(),
            Err(error) => self.not_reached(&error.message),
        }
    }

    /// Whether any endpoint takes connections. They are tried beside each other: one that does not even refuse must
    /// not take the time of those that work.
    async fn look(self: &Arc<Self>) -> Result<Seen, Error> {
        let mut endpoints = self.endpoints(Instant::now() + LOOK_UP).await?.into_iter();
        let (mut looks, mut failure) = (JoinSet::new(), None);
        loop {
            while looks.len() < LOOKS
                && let Some(endpoint) = endpoints.next()
            {
                looks.spawn(self.clone().look_at(endpoint));
            }
            match looks.join_next().await {
                Some(Ok(Ok(seen))) => return Ok(seen),
                Some(Ok(Err(error))) => failure = Some(error),
                Some(Err(error)) => failure = Some(self.unreachable(&error.to_string())),
                None => return Err(failure.unwrap_or_else(|| self.nowhere())),
            }
        }
    }

    async fn look_at(self: Arc<Self>, endpoint: Endpoint) -> Result<Seen, Error> {
        let Some(check) = self.around.dial.check(&endpoint) else { return Ok(Seen::CannotLook) };
        self.in_time(Instant::now() + CONNECT_MOST, check).await.map(|()| Seen::Yes)
    }
}

/// What a look at a server showed, if it was no failure.
enum Seen {
    Yes,
    /// A local command: only starting it would tell.
    CannotLook,
}

/// A look at a name server. The next one is not far.
const LOOK_UP: Duration = Duration::from_secs(2);
/// Endpoints looked at beside each other. 8: a server has few, and each is an open file for a moment.
const LOOKS: usize = 8;
/// How soon the end of the last call is noticed while the process stops.
const LAST_CALLS: Duration = Duration::from_millis(50);
