//! Who uses which connection: the connections of one server by isolation key. Pure bookkeeping under the
//! pool's lock; it opens and closes nothing itself.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use wire::Era;

use crate::call::{Affinity, Call};
use crate::error::Error;
use crate::upstream::conn::Conn;
use crate::upstream::link::address::Endpoint;
use crate::upstream::settings::Isolation;

/// Whose connection it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) enum Key {
    /// The gateway's own: lists, discovery, health.
    Control,
    /// One legacy session's.
    Session(u64),
    /// One principal's.
    Principal(Arc<str>),
    /// That of the call which has this seat of the principal's.
    Seat(Arc<str>, usize),
    /// Everybody's.
    Shared,
}

impl Key {
    /// Whose connection `call` uses at a server of `era`.
    pub(in crate::upstream) fn of(call: &Call, isolation: Isolation, era: Era) -> Self {
        Self::of_caller((call.caller.principal(), &call.affinity), isolation, era)
    }

    /// The same for who makes no call: subscriptions go where calls go.
    pub(in crate::upstream) fn of_caller(
        (principal, affinity): (&Arc<str>, &Affinity),
        isolation: Isolation,
        era: Era,
    ) -> Self {
        let isolation = match (isolation, era) {
            (Isolation::Auto, Era::Legacy) => Isolation::Session,
            (Isolation::Auto, Era::Modern) => Isolation::Principal,
            (fixed, _) => fixed,
        };
        match (isolation, affinity) {
            (Isolation::Shared, _) => Self::Shared,
            (Isolation::Session, Affinity::Session(session)) => Self::Session(session.number),
            _ => Self::Principal(principal.clone()),
        }
    }

    /// The principal whose alone it is, as far as the key says.
    pub(super) fn principal(&self) -> Option<&Arc<str>> {
        match self {
            Self::Principal(principal) | Self::Seat(principal, _) => Some(principal),
            Self::Control | Self::Session(_) | Self::Shared => None,
        }
    }

    /// Whether its connection holds state that somebody counts on as long as they live.
    pub(super) fn outlives_idleness(&self) -> bool {
        matches!(self, Self::Session(_))
    }
}

/// How an attempt to open a connection ended; `None` while it lasts.
pub(super) type Opening = watch::Receiver<Option<Result<Arc<Conn>, Error>>>;

/// The connections of one server.
#[derive(Default)]
pub(in crate::upstream) struct Roster {
    entries: HashMap<Key, Entry>,
}

#[derive(Default)]
struct Entry {
    conns: Vec<Arc<Conn>>,
    /// Take no new call: their address left, their process says nothing any more, or their principal may use the server no
    /// longer.
    retired: Vec<Arc<Conn>>,
    opening: Option<Opening>,
}

impl Roster {
    /// The connection of `key` with the least in flight.
    pub(super) fn ready(&self, key: &Key) -> Option<&Arc<Conn>> {
        self.entries.get(key)?.conns.iter().min_by_key(|conn| conn.in_flight())
    }

    /// The attempt under way for `key`.
    pub(in crate::upstream) fn opening(&self, key: &Key) -> Option<Opening> {
        self.entries.get(key)?.opening.clone()
    }

    /// Connections of `key`, open or being opened.
    pub(super) fn count_of(&self, key: &Key) -> usize {
        self.entries.get(key).map_or(0, |entry| entry.conns.len() + usize::from(entry.opening.is_some()))
    }

    /// Notes an attempt for `key`.
    pub(super) fn open(&mut self, key: Key, opening: Opening) {
        self.entries.entry(key).or_default().opening = Some(opening);
    }

    /// The attempt for `key` is over.
    pub(super) fn opened(&mut self, key: &Key, conn: Option<Arc<Conn>>) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.opening = None;
            entry.conns.extend(conn);
        }
        self.forget_empty(key);
    }

    /// Takes a connection out, and says whose it was.
    pub(super) fn remove(&mut self, number: u64) -> Option<Key> {
        let is_it = |conn: &Arc<Conn>| conn.spec().number == number;
        let key = self
            .entries
            .iter()
            .find(|(_, entry)| entry.conns.iter().chain(&entry.retired).any(is_it))
            .map(|(key, _)| key.clone())?;
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.conns.retain(|conn| !is_it(conn));
            entry.retired.retain(|conn| !is_it(conn));
        }
        self.forget_empty(&key);
        Some(key)
    }

    /// Gives no new call to connections of which `is_over` says yes; they close when their calls end.
    pub(super) fn retire(&mut self, is_over: impl Fn(&Key, &Conn) -> bool) {
        for (key, entry) in &mut self.entries {
            let left = entry.conns.extract_if(.., |conn| is_over(key, conn));
            entry.retired.extend(left);
        }
    }

    /// Gives calls again to retired connections of which `is_back` says yes, where no other has their place.
    pub(super) fn reinstate(&mut self, is_back: impl Fn(&Conn) -> bool) {
        let mut alone =
            self.entries.values_mut().filter(|entry| entry.conns.is_empty() && entry.opening.is_none());
        for entry in &mut alone {
            let back = entry.retired.iter().position(|conn| is_back(conn));
            entry.conns.extend(back.map(|at| entry.retired.remove(at)));
        }
    }

    /// Every connection with its key, and whether it is retired.
    pub(in crate::upstream) fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<Conn>, bool)> {
        self.entries.iter().flat_map(|(key, entry)| {
            let active = entry.conns.iter().map(move |conn| (key, conn, false));
            active.chain(entry.retired.iter().map(move |conn| (key, conn, true)))
        })
    }

    /// Connections open or being opened.
    pub(super) fn len(&self) -> usize {
        self.entries
            .values()
            .map(|entry| entry.conns.len() + entry.retired.len() + usize::from(entry.opening.is_some()))
            .sum()
    }

    /// The same without those that are only given time to end: what hangs takes nobody's place.
    pub(super) fn places(&self) -> usize {
        self.len() - self.iter().filter(|(_, conn, retired)| *retired && conn.is_unresponsive()).count()
    }

    /// Connections to one endpoint.
    pub(super) fn load(&self, endpoint: &Endpoint) -> usize {
        self.iter().filter(|(_, conn, _)| conn.spec().endpoint == *endpoint).count()
    }

    fn forget_empty(&mut self, key: &Key) {
        let is_empty =
            |entry: &Entry| entry.conns.is_empty() && entry.retired.is_empty() && entry.opening.is_none();
        if self.entries.get(key).is_some_and(is_empty) {
            self.entries.remove(key);
        }
    }
}
