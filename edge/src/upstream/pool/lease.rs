//! Connections to a legacy server that one call has to itself, for clients without a session.
//!
//! On stdio a question of a legacy server names no call, so a connection whose client can be asked carries one call
//! that may ask at a time, from its start to its end, the time included in which a person thinks. Each principal has a
//! few seats, each with one such connection at most; who finds none free waits in turn.
//!
//! ```text
//! take ─┬─ a free seat whose connection declares the same ──▶ Lease
//!       ├─ a free seat without one ─────────────────────────▶ Lease (a connection is opened)
//!       ├─ a free seat whose connection declares other things ▶ Lease (that one is closed first)
//!       └─ none ──▶ waits, at most `queue_timeout`
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wire::Era;
use wire::mcp::level::Level;
use wire::mcp::meta;

use super::roster::Key;
use crate::call::{Affinity, Call, Capabilities, Client};
use crate::permit::Bound;
use crate::upstream::settings::Isolation;

/// What a client can be asked, as far as it makes a difference to a server. A legacy server is told once for each
/// connection, so this decides which connection a call can use.
// MCP 2025-11-25 schema, ClientCapabilities
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::upstream) struct Profile(Capabilities);

impl Profile {
    /// Of a client that can do this.
    pub(super) fn of(can: Capabilities) -> Self {
        // Neither changes what a server asks.
        let unheard = Capabilities::ROOTS_CHANGED.with(Capabilities::TASKS);
        Self(can.without(unheard).explicit())
    }

    /// The capabilities that declare it.
    pub(super) fn capabilities(self) -> Capabilities {
        self.0
    }
}

/// The profile of the connection that `call` needs to itself at a server of `era`; `None` if it can share one.
pub(super) fn needed(call: &Call, isolation: Isolation, era: Era) -> Option<Profile> {
    let stateless = matches!(call.affinity, Affinity::Principal);
    if !stateless || era == Era::Modern || isolation == Isolation::Shared || !call.method.facts().may_ask {
        return None;
    }
    let profile = of_client(&call.client);
    // Log messages name no call either.
    (profile != Profile::default() || level(call).is_some()).then_some(profile)
}

/// What `client` can be asked.
fn of_client(client: &Client) -> Profile {
    Profile::of(Capabilities::of(client))
}

/// Whose connection a client uses at a server of `era` for what needs none to itself, if it could be `key`'s: that of a
/// seat, if its calls use seats. So all that it does meets one process, and what its calls change it hears of.
pub(in crate::upstream) fn home(
    seats: &Seats,
    key: Key,
    (client, affinity): (&Client, &Affinity),
    era: Era,
) -> (Key, Option<Profile>) {
    let (Key::Principal(principal), Affinity::Principal, Era::Legacy) = (&key, affinity, era) else {
        return (key, None);
    };
    let profile = of_client(client);
    if profile == Profile::default() {
        return (key, None);
    }
    (Key::Seat(principal.clone(), seats.home(principal, profile)), Some(profile))
}

/// The lowest level of log messages that a call's client wants on its stream.
// MCP 2026-07-28 server/utilities/logging: in each request, and nothing without it
pub(in crate::upstream) fn level(call: &Call) -> Option<Level> {
    Level::parse(&call.request.meta_value(meta::LOG_LEVEL)?.as_str()?)
}

/// The seats of all principals at one server.
pub(in crate::upstream) struct Seats {
    most: usize,
    rows: Mutex<HashMap<Arc<str>, Row>>,
}

/// Those of one principal. Forgotten when nobody sits, no connection is there and nobody waits.
struct Row {
    free: Arc<Semaphore>,
    seats: Vec<Seat>,
}

impl Row {
    fn new(most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), seats: vec![Seat::default(); most] }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seat {
    taken: bool,
    /// What its connection declared, if it has one.
    declared: Option<Profile>,
}

/// A seat of one call. Dropping it gives the seat to the next.
pub(in crate::upstream) struct Lease {
    seats: Arc<Seats>,
    principal: Arc<str>,
    index: usize,
    profile: Profile,
    /// Until it is dropped.
    turn: Option<OwnedSemaphorePermit>,
}

impl Seats {
    /// `most` for each principal.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), rows: Mutex::default() })
    }

    /// A seat, if one is free.
    pub(super) fn try_take(self: &Arc<Self>, principal: &Arc<str>, profile: Profile) -> Option<Lease> {
        let turn = self.turns(principal).try_acquire_owned().ok();
        let lease = turn.and_then(|turn| self.sit(principal, profile, turn));
        if lease.is_none() {
            self.tidy(principal);
        }
        lease
    }

    /// A seat as soon as one is free, for who came first first.
    ///
    /// # Errors
    /// [`Bound::PrincipalConnections`] when none came free within `timeout`.
    pub(super) async fn take(
        self: &Arc<Self>,
        principal: &Arc<str>,
        profile: Profile,
        timeout: Duration,
    ) -> Result<Lease, Bound> {
        let turn = tokio::time::timeout(timeout, self.turns(principal).acquire_owned())
            .await
            .ok()
            .and_then(Result::ok);
        let lease = turn.and_then(|turn| self.sit(principal, profile, turn));
        lease.ok_or_else(|| {
            self.tidy(principal);
            Bound::PrincipalConnections
        })
    }

    fn turns(&self, principal: &Arc<str>) -> Arc<Semaphore> {
        self.rows.lock().entry(principal.clone()).or_insert_with(|| Row::new(self.most)).free.clone()
    }

    /// Whoever has a turn finds a seat: there are as many.
    fn sit(
        self: &Arc<Self>,
        principal: &Arc<str>,
        profile: Profile,
        turn: OwnedSemaphorePermit,
    ) -> Option<Lease> {
        let mut rows = self.rows.lock();
        let row = rows.get_mut(principal)?;
        let fit = |seat: &Seat| match seat.declared {
            Some(declared) if declared == profile => 0,
            None => 1,
            Some(_) => 2,
        };
        let free = row.seats.iter_mut().enumerate().filter(|(_, seat)| !seat.taken);
        let (index, seat) = free.min_by_key(|(_, seat)| fit(seat))?;
        seat.taken = true;
        Some(Lease { seats: self.clone(), principal: principal.clone(), index, profile, turn: Some(turn) })
    }

    /// The seat that clients of this profile use first.
    fn home(&self, principal: &Arc<str>, profile: Profile) -> usize {
        let rows = self.rows.lock();
        let Some(row) = rows.get(principal) else { return 0 };
        let own = row.seats.iter().position(|seat| seat.declared == Some(profile));
        let empty = || row.seats.iter().position(|seat| *seat == Seat::default());
        own.or_else(empty).unwrap_or(0)
    }

    /// A connection of a seat is there, and what it declared; or it is gone.
    pub(super) fn declared(&self, key: &Key, profile: Option<Profile>) {
        let Key::Seat(principal, index) = key else { return };
        {
            let mut rows = self.rows.lock();
            let row = match profile {
                Some(_) => Some(rows.entry(principal.clone()).or_insert_with(|| Row::new(self.most))),
                None => rows.get_mut(principal),
            };
            if let Some(seat) = row.and_then(|row| row.seats.get_mut(*index)) {
                seat.declared = profile;
            }
        }
        self.tidy(principal);
    }

    fn tidy(&self, principal: &Arc<str>) {
        let mut rows = self.rows.lock();
        let is_unused = |row: &Row| {
            Arc::strong_count(&row.free) == 1 && row.seats.iter().all(|seat| *seat == Seat::default())
        };
        if rows.get(principal).is_some_and(is_unused) {
            rows.remove(principal);
        }
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.rows.lock().is_empty()
    }
}

impl Lease {
    /// Whose connection the seat's is.
    pub(super) fn key(&self) -> Key {
        Key::Seat(self.principal.clone(), self.index)
    }

    /// What its connection has to declare.
    pub(super) fn profile(&self) -> Profile {
        self.profile
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        {
            let mut rows = self.seats.rows.lock();
            let seat = rows.get_mut(&self.principal).and_then(|row| row.seats.get_mut(self.index));
            if let Some(seat) = seat {
                seat.taken = false;
            }
        }
        // Whoever is next finds the seat free.
        drop(self.turn.take());
        self.seats.tidy(&self.principal);
    }
}

#[cfg(test)]
mod tests;
