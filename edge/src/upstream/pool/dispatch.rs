//! How a call gets a slot and a connection.
//!
//! The fast path looks a ready connection up under a lock and queues the call on it. A call that needs anything else (a
//! slot, a connection, the server's era) waits for it in a task of its own; the queue bounds how many do.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use wire::Era;

use super::{Pool, PoolInner, PoolState};
use crate::call::{Affinity, Call, Dispatch, Reply, reply};
use crate::error::Error;
use crate::permit::{Bound, QueuePermit, SlotPermit};
use crate::upstream::conn::{Conn, Job, draining, unneeded};
use crate::upstream::exclusive_client::ExclusiveClient;
use crate::upstream::key::{Key, Target};
use crate::upstream::lease::{self, Lease, Profile};
use crate::upstream::session_settings::is_subscription;
use crate::upstream::settings::TRIES;

impl Dispatch for Pool {
    fn dispatch(&self, mut call: Call) -> Reply {
        let of_task = match self.inner.task_ids.resolve(&mut call) {
            Ok(of_task) => of_task,
            Err(error) => return Reply::failed(error),
        };
        let (responder, reply) = reply();
        let job = Box::new(Job { call, responder, lease: None, of_task, tries: 0 });
        if is_subscription(job.call.method) {
            self.inner.take_subscription(job);
        } else {
            self.inner.take(job);
        }
        reply
    }
}

impl PoolInner {
    /// Sends the call if a connection is ready for it; otherwise it waits for one.
    pub(super) fn take(&self, mut job: Box<Job>) {
        let Some(conn) = self.ready(&mut job) else { return self.enqueue(job, None) };
        let Some(slot) = self.slots.try_take() else { return self.enqueue(job, None) };
        if let Err((job, slot)) = conn.send(job, slot) {
            self.enqueue(job, Some(slot));
        }
    }

    fn ready(&self, job: &mut Job) -> Option<Arc<Conn>> {
        let call = &job.call;
        let mut state = self.state.lock();
        let era = state.era.last()?;
        if let Some(profile) = lease::needed(call, self.server.isolation, era) {
            job.lease = self.seats.try_take(call.caller.principal(), profile);
            let lease = job.lease.as_ref()?;
            return state
                .connections
                .ready(&lease.key())
                .filter(|conn| conn.has_declared(lease.profile()))
                .cloned();
        }
        let key = self.key(&state, call, era);
        let of_task = job.of_task.and_then(|number| state.connections.numbered(&key, number));
        let conn = of_task.or_else(|| state.connections.ready(&key))?.clone();
        let is_busy = key == Key::Shared && conn.in_flight() >= SHARED_CALLS;
        if is_busy && state.connections.count_of(&key) < SHARED_CONNECTIONS {
            // In the background: the call itself is sent on the busy connection.
            let _ = self.begin(&mut state, &Target::shared(key));
        }
        Some(conn)
    }

    /// Starts a task in which the call waits for a slot, a connection or both.
    pub(in crate::upstream) fn enqueue(&self, job: Box<Job>, slot: Option<SlotPermit>) {
        let (Ok(place), Some(this)) = (self.slots.queue(), self.this.upgrade()) else {
            return job.responder.fail(Bound::Queue.refusal());
        };
        self.deps.tasks.spawn(this.wait(job, slot, place));
    }

    async fn wait(self: Arc<Self>, mut job: Box<Job>, slot: Option<SlotPermit>, place: QueuePermit) {
        let mut slot = slot;
        while job.tries < TRIES {
            job.tries += 1;
            let Job { call, responder, lease, of_task, .. } = &mut *job;
            let found = tokio::select! {
                biased; // starts nothing for a caller that is gone
                () = responder.cancelled() => return,
                () = self.stop.cancelled() => Err(draining()),
                found = self.find((call, *of_task), lease, slot.take(), &place) => found,
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
        (call, of_task): (&Call, Option<u64>),
        lease: &mut Option<Lease>,
        slot: Option<SlotPermit>,
        place: &QueuePermit,
    ) -> Result<(Arc<Conn>, SlotPermit), Error> {
        let slot = match slot {
            Some(slot) => slot,
            None => place.slot().await.map_err(Bound::refusal)?,
        };
        let era = self.era().await?;
        if let Some(profile) = lease::needed(call, self.server.isolation, era) {
            return Ok((self.leased(call, lease, profile).await?, slot));
        }
        *lease = None;
        let (key, of_task) = {
            let state = self.state.lock();
            let key = self.key(&state, call, era);
            let of_task = of_task.and_then(|number| state.connections.numbered(&key, number)).cloned();
            (key, of_task)
        };
        if let Some(conn) = of_task {
            return Ok((conn, slot));
        }
        self.check_subscription(call)?;
        let target = match (&key, &call.affinity) {
            (Key::Session(_), Affinity::Session(session)) => {
                Target::exclusive(key, ExclusiveClient::of_session(session, &call.client))
            }
            _ => Target::shared(key),
        };
        let conn = self.connection(&target).await?;
        self.check_can_subscribe(call, &conn)?;
        Ok((conn, slot))
    }

    /// The server's era; opens the control connection to find it out if it is unknown.
    pub(in crate::upstream) async fn era(&self) -> Result<Era, Error> {
        let era = self.state.lock().era.get();
        match era {
            Some(era) => Ok(era),
            None => Ok(self.facts().await?.era),
        }
    }

    /// The key of the connection of a call that needs no lease.
    fn key(&self, state: &PoolState, call: &Call, era: Era) -> Key {
        let key = Key::of(call, self.server.isolation, era);
        if !matches!(key, Key::Principal(_)) || call.method.facts().may_ask {
            return key;
        }
        let (home, _) = lease::home(&self.seats, key.clone(), &call.client, &call.affinity, era);
        // A completion alone is not worth a process of its own.
        if state.connections.ready(&home).is_some() { home } else { key }
    }

    /// The connection of the call's seat; waits for a seat if the call has none yet.
    async fn leased(
        &self,
        call: &Call,
        lease: &mut Option<Lease>,
        profile: Profile,
    ) -> Result<Arc<Conn>, Error> {
        let lease = match lease.take() {
            Some(held) => lease.insert(held),
            None => {
                let principal = call.caller.principal();
                let taken = tokio::select! {
                    biased; // gives up no call for a seat that is free
                    taken = self.seats.take(principal, profile, self.patience(principal)) => taken,
                    never = self.reclaim_seats(principal) => match never {},
                };
                lease.insert(taken.map_err(|bound| {
                    self.deps.environment.permits.metrics().hit(bound);
                    bound.refusal()
                })?)
            }
        };
        let target = Target::exclusive(lease.key(), ExclusiveClient::of_lease(profile));
        for _ in 0..TRIES {
            let conn = self.connection(&target).await?;
            if conn.has_declared(profile) {
                return Ok(conn);
            }
            // No other call has the seat, and subscriptions on it move to the next connection.
            conn.close(&unneeded());
        }
        Err(self.busy())
    }

    /// Ends when a call of this principal has waited long enough for a seat: `queue_timeout`, not counted while the
    /// process of a seat starts, which may take longer than that by itself and is no use of the seat. Starts do not
    /// prolong the wait by more than `handshake_timeout`, which is as long as one of them takes.
    async fn patience(&self, principal: &Arc<str>) {
        let queue_timeout = self.config.slots.queue_timeout;
        let seats_in_use = async {
            loop {
                let mut starts = self.state.lock().connections.openings_of_seats(principal);
                for start in &mut starts {
                    let _ = start.wait_for(Option::is_some).await; // its result is for the call that has the seat
                }
                sleep(queue_timeout).await;
                if self.state.lock().connections.openings_of_seats(principal).is_empty() {
                    return;
                }
            }
        };
        let _ = timeout(queue_timeout.saturating_add(self.config.handshake_timeout), seats_in_use).await;
    }

    /// Frees seats for a call of this principal that waits for one: whenever a call has been parked there for
    /// [`PARKED_LEAST`], the one that was parked longest is given up. Many clients never come back to a call that asks.
    async fn reclaim_seats(&self, principal: &str) -> Infallible {
        loop {
            let conns = self.state.lock().connections.of_seats(principal);
            let parked = conns.iter().filter_map(|conn| Some((conn.parked_since()?, conn)));
            let longest = parked.min_by_key(|(since, _)| *since);
            let now = Instant::now();
            match longest {
                Some((since, conn)) if since + PARKED_LEAST <= now => {
                    conn.give_up_parked(since);
                    // The seat is this call's now, unless another waited before it: then the next one is due.
                    yield_now().await;
                }
                // A call that is parked from now on is not due before then either.
                _ => sleep_until(longest.map_or(now, |(since, _)| since) + PARKED_LEAST).await,
            }
        }
    }
}

/// How long a parked call keeps its seat while others wait for one. 60 s: a person who is there mostly answers within it,
/// and most SDKs give up a request after as long.
const PARKED_LEAST: Duration = Duration::from_secs(60);
/// Calls in flight on each connection of a `shared` server before another one is opened. 8: most servers answer calls
/// one after the other, so more would wait.
const SHARED_CALLS: usize = 8;
/// Connections of a `shared` server. 4: a process answers many calls, but some calls block it.
const SHARED_CONNECTIONS: usize = 4;
