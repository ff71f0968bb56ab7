//! The configured servers and their order. Each server keeps its [`ServerIndex`] for the life of the process: routes,
//! views and remembered URIs refer to servers by it, and a new configuration never gives it to another server.

use std::fmt;
use std::ptr::addr_eq;
use std::sync::Arc;

use super::names::Prefix;
use crate::call::{Server, ServerName};

/// One configured server as the router sees it.
#[derive(Clone)]
pub struct Entry {
    /// Its slug.
    pub name: ServerName,
    /// How its names become public.
    pub prefix: Prefix,
    /// Where its calls go.
    pub server: Arc<dyn Server>,
}

/// Identifies a server of this process. It is never reused, not even after the server has left the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerIndex(usize);

impl ServerIndex {
    /// How many indexes there are up to this one.
    pub(super) fn count(self) -> usize {
        self.0 + 1
    }

    #[cfg(test)]
    pub(super) fn new(index: usize) -> Self {
        Self(index)
    }
}

/// One value for each [`ServerIndex`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerServer<T>(Vec<T>);

impl<T> Default for PerServer<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> PerServer<T> {
    /// `make()` for each of so many servers.
    pub(super) fn filled(servers: usize, make: impl FnMut() -> T) -> Self {
        Self(std::iter::repeat_with(make).take(servers).collect())
    }

    /// The value of a server; `None` if the server is newer than these values.
    pub fn get(&self, index: ServerIndex) -> Option<&T> {
        self.0.get(index.0)
    }

    pub(super) fn get_mut(&mut self, index: ServerIndex) -> Option<&mut T> {
        self.0.get_mut(index.0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ServerIndex, &T)> {
        self.0.iter().enumerate().map(|(index, value)| (ServerIndex(index), value))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ServerIndex, &mut T)> {
        self.0.iter_mut().enumerate().map(|(index, value)| (ServerIndex(index), value))
    }

    pub(super) fn map<U>(&self, convert: impl FnMut((ServerIndex, &T)) -> U) -> PerServer<U> {
        PerServer(self.iter().map(convert).collect())
    }

    /// The number of servers.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds values until there is one for each of so many servers.
    pub(super) fn grow(&mut self, servers: usize, make: impl Fn(&Self, ServerIndex) -> T) {
        for index in self.0.len()..servers {
            self.0.push(make(self, ServerIndex(index)));
        }
    }
}

#[cfg(test)]
impl<T> std::ops::Index<usize> for PerServer<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        &self.0[index]
    }
}

/// The configured servers, in their order.
#[derive(Default)]
pub(super) struct ServerSet {
    /// Servers that are no longer configured leave a gap.
    entries: PerServer<Option<Entry>>,
    /// The configured order. Where two servers claim one name, the earlier server gets it.
    order: Vec<ServerIndex>,
}

impl ServerSet {
    /// The set after a new configuration. Servers that are still the same keep their index.
    pub(super) fn followed_by(&self, servers: Vec<Entry>) -> Self {
        let mut next = Self { entries: PerServer::filled(self.entries.len(), || None), order: Vec::new() };
        for server in servers {
            let same = self.iter().find(|(_, entry)| entry.is_same_as(&server)).map(|(index, _)| index);
            let index = same.unwrap_or(ServerIndex(next.entries.len()));
            match next.entries.get_mut(index) {
                Some(place) => *place = Some(server),
                None => next.entries.0.push(Some(server)),
            }
            next.order.push(index);
        }
        next
    }

    /// Whether both have the same servers in the same order, with the same prefixes.
    pub(super) fn is_equivalent(&self, other: &Self) -> bool {
        let prefixes = |set: &Self| set.iter().map(|(_, entry)| entry.prefix).collect::<Vec<_>>();
        self.order == other.order && prefixes(self) == prefixes(other)
    }

    /// The servers for which `keeps` returns true. They keep their index.
    pub(super) fn filtered(&self, keeps: impl Fn(&ServerName) -> bool) -> Self {
        let kept = |(_, entry): (_, &Option<Entry>)| entry.clone().filter(|entry| keeps(&entry.name));
        Self { entries: self.entries.map(kept), order: self.order.clone() }
    }

    /// A server of the set.
    pub(super) fn get(&self, index: ServerIndex) -> Option<&Entry> {
        self.entries.get(index)?.as_ref()
    }

    /// The servers in the configured order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ServerIndex, &Entry)> {
        self.order.iter().filter_map(|index| Some((*index, self.get(*index)?)))
    }

    /// The index of the server with this slug.
    pub(super) fn index_of(&self, name: &str) -> Option<ServerIndex> {
        self.iter().find(|(_, entry)| entry.name.as_str() == name).map(|(index, _)| index)
    }

    /// How many indexes were ever given out, those of servers that left included.
    pub(super) fn indexes(&self) -> usize {
        self.entries.len()
    }
}

impl fmt::Debug for ServerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(_, entry)| entry.name.as_str())).finish()
    }
}

impl Entry {
    fn is_same_as(&self, other: &Self) -> bool {
        self.name == other.name && addr_eq(Arc::as_ptr(&self.server), Arc::as_ptr(&other.server))
    }
}
