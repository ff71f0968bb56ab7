//! Leases of connections to a legacy server, each for one call of a client without a session.
//!
//! On stdio a question of a legacy server names no call. A connection whose client can be asked therefore carries one
//! call that may ask at a time, from its start to its end, including the time in which a person thinks. Each
//! principal has a few seats at a server, each with at most one such connection; a call that finds none free waits
//! for its turn.
//!
//! ```text
//! take ─┬─ a free seat whose connection declared the same profile ─▶ Lease
//!       ├─ a free seat without a connection ───────────────────────▶ Lease (a connection is opened)
//!       ├─ a free seat whose connection declared another profile ──▶ Lease (that connection is closed first)
//!       └─ none ──▶ waits, as long as the caller has patience
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wire::Era;

use super::key::Key;
use super::settings::Isolation;
use crate::call::{Affinity, Call, Capabilities, Client};
use crate::permit::Bound;

/// What a client can be asked and shown, as far as a server treats it differently. It is declared to a legacy server once per
/// connection, so it decides which connections a call can use.
// MCP 2025-11-25 schema, ClientCapabilities
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Profile(Capabilities);

impl Profile {
    /// The profile of a client with these capabilities.
    pub(super) fn of(can: Capabilities) -> Self {
        // These do not change what a server asks or shows.
        let irrelevant = Capabilities::ROOTS_CHANGED.with(Capabilities::TASKS);
        Self(can.without(irrelevant).explicit())
    }

    /// The capabilities that declare this profile.
    pub(super) fn capabilities(self) -> Capabilities {
        self.0
    }

    /// Whether a server may ask something of the client. That it shows apps alone is not worth a process: without it a
    /// server answers in text.
    fn can_be_asked(self) -> bool {
        self.0.without(Capabilities::APPS) != Capabilities::default()
    }
}

/// The profile of the connection that `call` has to lease at a server of `era`; `None` if it can share one.
pub(super) fn needed(call: &Call, isolation: Isolation, era: Era) -> Option<Profile> {
    let stateless = matches!(call.affinity, Affinity::Principal);
    if !stateless || era == Era::Modern || isolation == Isolation::Shared || !call.method.facts().may_ask {
        return None;
    }
    let profile = of_client(&call.client);
    // Log messages name no call either, but they are not worth a process: clients want them with every call. See
    // `conn::notifications` for who gets them.
    profile.can_be_asked().then_some(profile)
}

/// The profile of a client.
fn of_client(client: &Client) -> Profile {
    Profile::of(Capabilities::of(client))
}

/// The connection that a client uses at a server of `era` for requests that need no lease, such as subscriptions.
/// Instead of that of `key` it is the connection of a seat if the client's calls use seats: then all its requests
/// meet one process, and it is notified of what its calls change.
pub(super) fn home(
    seats: &Seats,
    key: Key,
    client: &Client,
    affinity: &Affinity,
    era: Era,
) -> (Key, Option<Profile>) {
    let (Key::Principal(principal), Affinity::Principal, Era::Legacy) = (&key, affinity, era) else {
        return (key, None);
    };
    let profile = of_client(client);
    if !profile.can_be_asked() {
        return (key, None);
    }
    (Key::Seat(principal.clone(), seats.home(principal, profile)), Some(profile))
}

/// The seats of all principals at one server.
pub(super) struct Seats {
    most: usize,
    rows: Mutex<HashMap<Arc<str>, Row>>,
}

/// The seats of one principal. Removed when none is taken, none has a connection and no call waits.
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
    /// The profile that its connection declared, if it has one.
    declared: Option<Profile>,
}

/// The right of one call to a seat. Dropping it frees the seat.
pub(super) struct Lease {
    seats: Arc<Seats>,
    principal: Arc<str>,
    index: usize,
    profile: Profile,
    /// `None` only while it is dropped.
    permit: Option<OwnedSemaphorePermit>,
}

impl Seats {
    /// `most` seats for each principal.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), rows: Mutex::default() })
    }

    /// Leases a seat, if one is free.
    pub(super) fn try_take(self: &Arc<Self>, principal: &Arc<str>, profile: Profile) -> Option<Lease> {
        let permit = self.permits(principal).try_acquire_owned().ok();
        let lease = permit.and_then(|permit| self.assign(principal, profile, permit));
        if lease.is_none() {
            self.remove_if_unused(principal);
        }
        lease
    }

    /// Leases a seat as soon as one is free, in the order of the callers.
    ///
    /// # Errors
    /// [`Bound::PrincipalConnections`] when none becomes free before `patience` ends.
    pub(super) async fn take(
        self: &Arc<Self>,
        principal: &Arc<str>,
        profile: Profile,
        patience: impl Future<Output = ()>,
    ) -> Result<Lease, Bound> {
        let permit = tokio::select! {
            biased; // a seat that is free is taken
            permit = self.permits(principal).acquire_owned() => permit.ok(),
            () = patience => None,
        };
        let lease = permit.and_then(|permit| self.assign(principal, profile, permit));
        lease.ok_or_else(|| {
            self.remove_if_unused(principal);
            Bound::PrincipalConnections
        })
    }

    fn permits(&self, principal: &Arc<str>) -> Arc<Semaphore> {
        self.rows.lock().entry(principal.clone()).or_insert_with(|| Row::new(self.most)).free.clone()
    }

    /// Assigns a free seat. There are as many permits as seats, so the holder of one finds a seat.
    fn assign(
        self: &Arc<Self>,
        principal: &Arc<str>,
        profile: Profile,
        permit: OwnedSemaphorePermit,
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
        Some(Lease {
            seats: self.clone(),
            principal: principal.clone(),
            index,
            profile,
            permit: Some(permit),
        })
    }

    /// The seat that clients of this profile use first.
    fn home(&self, principal: &Arc<str>, profile: Profile) -> usize {
        let rows = self.rows.lock();
        let Some(row) = rows.get(principal) else { return 0 };
        let own = row.seats.iter().position(|seat| seat.declared == Some(profile));
        let empty = || row.seats.iter().position(|seat| *seat == Seat::default());
        own.or_else(empty).unwrap_or(0)
    }

    /// Records the profile that the connection of a seat declared, or that the seat has no connection any more.
    pub(super) fn set_declared(&self, key: &Key, profile: Option<Profile>) {
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
        self.remove_if_unused(principal);
    }

    fn remove_if_unused(&self, principal: &Arc<str>) {
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
    /// The key of the seat's connection.
    pub(super) fn key(&self) -> Key {
        Key::Seat(self.principal.clone(), self.index)
    }

    /// The profile that the seat's connection has to declare.
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
        // Only now, so that the next call finds the seat free.
        drop(self.permit.take());
        self.seats.remove_if_unused(&self.principal);
    }
}

#[cfg(test)]
mod tests;
