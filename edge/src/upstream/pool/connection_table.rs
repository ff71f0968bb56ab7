//! The connections of one server by isolation key. Pure bookkeeping under the pool's lock; it opens and closes
//! nothing itself.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;

use crate::error::Error;
use crate::upstream::conn::Conn;
use crate::upstream::key::Key;
use crate::upstream::link::address::Endpoint;

/// The result of an attempt to open a connection; `None` while it is under way.
pub(super) type Opening = watch::Receiver<Option<Result<Arc<Conn>, Error>>>;

/// The connections of one server.
#[derive(Default)]
pub(in crate::upstream) struct ConnectionTable {
    entries: HashMap<Key, Entry>,
}

#[derive(Default)]
struct Entry {
    conns: Vec<Arc<Conn>>,
    retired: Vec<Retired>,
    opening: Option<Opening>,
}

/// A connection that takes no new calls, and closes when its calls end.
struct Retired {
    conn: Arc<Conn>,
    /// Whether it may take calls again: its process is unresponsive, and may recover. Not where its address is gone, or its
    /// principal may no longer use the server, be it unresponsive as well.
    may_recover: bool,
}

impl Entry {
    fn all(&self) -> impl Iterator<Item = &Arc<Conn>> {
        self.conns.iter().chain(self.retired.iter().map(|retired| &retired.conn))
    }
}

impl ConnectionTable {
    /// The connection of `key` with the fewest requests in flight.
    pub(super) fn ready(&self, key: &Key) -> Option<&Arc<Conn>> {
        self.entries.get(key)?.conns.iter().min_by_key(|conn| conn.in_flight())
    }

    /// The connection of `key` with this number, if it takes calls.
    pub(super) fn numbered(&self, key: &Key, number: u64) -> Option<&Arc<Conn>> {
        self.entries.get(key)?.conns.iter().find(|conn| conn.spec().number == number && conn.is_open())
    }

    /// The attempt under way for `key`.
    pub(in crate::upstream) fn opening(&self, key: &Key) -> Option<Opening> {
        self.entries.get(key)?.opening.clone()
    }

    /// The attempts under way for seats of this principal.
    pub(super) fn openings_of_seats(&self, principal: &str) -> Vec<Opening> {
        let is_its = |key: &Key| matches!(key, Key::Seat(of, _) if **of == *principal);
        let entries = self.entries.iter().filter(|(key, _)| is_its(key));
        entries.filter_map(|(_, entry)| entry.opening.clone()).collect()
    }

    /// The connections of this principal's seats, also those that take no new calls.
    pub(super) fn of_seats(&self, principal: &str) -> Vec<Arc<Conn>> {
        let is_its = |key: &Key| matches!(key, Key::Seat(of, _) if **of == *principal);
        self.iter().filter(|(key, ..)| is_its(key)).map(|(_, conn, _)| conn.clone()).collect()
    }

    /// How many connections of `key` take calls or are being opened.
    pub(super) fn count_of(&self, key: &Key) -> usize {
        self.entries.get(key).map_or(0, |entry| entry.conns.len() + usize::from(entry.opening.is_some()))
    }

    /// Records that an attempt for `key` is under way.
    pub(super) fn open(&mut self, key: Key, opening: Opening) {
        self.entries.entry(key).or_default().opening = Some(opening);
    }

    /// Records that the attempt for `key` is over, and the connection that it brought.
    pub(super) fn opened(&mut self, key: &Key, conn: Option<Arc<Conn>>) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.opening = None;
            entry.conns.extend(conn);
        }
        self.remove_if_empty(key);
    }

    /// Removes a connection; returns its key.
    pub(super) fn remove(&mut self, number: u64) -> Option<Key> {
        let is_it = |conn: &Arc<Conn>| conn.spec().number == number;
        let key =
            self.entries.iter().find(|(_, entry)| entry.all().any(is_it)).map(|(key, _)| key.clone())?;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.conns.retain(|conn| !is_it(conn));
            entry.retired.retain(|retired| !is_it(&retired.conn));
        }
        self.remove_if_empty(&key);
        Some(key)
    }

    /// Retires the connections for which `is_over` is true for good.
    pub(super) fn retire(&mut self, is_over: impl Fn(&Key, &Conn) -> bool) {
        for (key, entry) in &mut self.entries {
            for retired in entry.retired.iter_mut().filter(|retired| is_over(key, &retired.conn)) {
                retired.may_recover = false;
            }
            let left = entry.conns.extract_if(.., |conn| is_over(key, conn));
            entry.retired.extend(left.map(|conn| Retired { conn, may_recover: false }));
        }
    }

    /// Retires the connections for which `is_unresponsive` is true, until they recover.
    pub(super) fn retire_until_recovery(&mut self, is_unresponsive: impl Fn(&Conn) -> bool) {
        for entry in self.entries.values_mut() {
            let left = entry.conns.extract_if(.., |conn| is_unresponsive(conn));
            entry.retired.extend(left.map(|conn| Retired { conn, may_recover: true }));
        }
    }

    /// Returns connections that have recovered (`is_back`) to use, unless another connection took their place.
    pub(super) fn reinstate(&mut self, is_back: impl Fn(&Conn) -> bool) {
        let mut alone =
            self.entries.values_mut().filter(|entry| entry.conns.is_empty() && entry.opening.is_none());
        for entry in &mut alone {
            let back = entry.retired.iter().position(|retired| retired.may_recover && is_back(&retired.conn));
            entry.conns.extend(back.map(|at| entry.retired.remove(at).conn));
        }
    }

    /// Every connection with its key, and whether it is retired.
    pub(in crate::upstream) fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<Conn>, bool)> {
        self.entries.iter().flat_map(|(key, entry)| {
            let active = entry.conns.iter().map(move |conn| (key, conn, false));
            active.chain(entry.retired.iter().map(move |retired| (key, &retired.conn, true)))
        })
    }

    /// How many connections are open or being opened.
    pub(super) fn len(&self) -> usize {
        self.entries
            .values()
            .map(|entry| entry.conns.len() + entry.retired.len() + usize::from(entry.opening.is_some()))
            .sum()
    }

    /// How many connections count against the server's bound: an unresponsive one that was retired does not.
    pub(super) fn counted(&self) -> usize {
        self.len() - self.iter().filter(|(_, conn, retired)| *retired && conn.is_unresponsive()).count()
    }

    /// How many connections lead to an endpoint.
    pub(super) fn load(&self, endpoint: &Endpoint) -> usize {
        self.iter().filter(|(_, conn, _)| conn.spec().endpoint == *endpoint).count()
    }

    fn remove_if_empty(&mut self, key: &Key) {
        let is_empty =
            |entry: &Entry| entry.conns.is_empty() && entry.retired.is_empty() && entry.opening.is_none();
        if self.entries.get(key).is_some_and(is_empty) {
            self.entries.remove(key);
        }
    }
}
