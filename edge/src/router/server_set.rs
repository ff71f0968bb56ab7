//! The configured servers and their order. Each server has a number for good: routes, views and what was seen go by it,
//! and none of them can lead to another server after the configuration has changed.

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

/// See the module.
#[derive(Default)]
pub(super) struct Lineup {
    /// By number; those that are configured no longer leave a gap.
    entries: Vec<Option<Entry>>,
    /// The numbers in the configured order, which is that of their claims to names.
    order: Vec<usize>,
}

impl Lineup {
    /// These servers from now on. Who is the same stays under its number.
    pub(super) fn followed_by(&self, servers: Vec<Entry>) -> Self {
        let mut next = Self { entries: Vec::new(), order: Vec::new() };
        next.entries.resize_with(self.entries.len(), || None);
        for server in servers {
            let same = self.iter().find(|(_, entry)| entry.is_same_as(&server)).map(|(number, _)| number);
            let number = same.unwrap_or(next.entries.len());
            match next.entries.get_mut(number) {
                Some(place) => *place = Some(server),
                None => next.entries.push(Some(server)),
            }
            next.order.push(number);
        }
        next
    }

    /// Whether both say the same of the same servers.
    pub(super) fn says_same(&self, other: &Self) -> bool {
        let prefixes = |lineup: &Self| lineup.iter().map(|(_, entry)| entry.prefix).collect::<Vec<_>>();
        self.order == other.order && prefixes(self) == prefixes(other)
    }

    /// Those of which `keeps` says yes, under their numbers.
    pub(super) fn limited_to(&self, keeps: impl Fn(&ServerName) -> bool) -> Self {
        let kept = |entry: &Option<Entry>| entry.clone().filter(|entry| keeps(&entry.name));
        Self { entries: self.entries.iter().map(kept).collect(), order: self.order.clone() }
    }

    /// A server that is configured.
    pub(super) fn get(&self, number: usize) -> Option<&Entry> {
        self.entries.get(number)?.as_ref()
    }

    /// The servers in the configured order, with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.order.iter().filter_map(|number| Some((*number, self.get(*number)?)))
    }

    /// The number of a configured server.
    pub(super) fn number(&self, name: &str) -> Option<usize> {
        self.iter().find(|(_, entry)| entry.name.as_str() == name).map(|(number, _)| number)
    }

    /// One more than the highest number that was ever given.
    pub(super) fn numbers(&self) -> usize {
        self.entries.len()
    }
}

impl fmt::Debug for Lineup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(_, entry)| entry.name.as_str())).finish()
    }
}

impl Entry {
    fn is_same_as(&self, other: &Self) -> bool {
        self.name == other.name && addr_eq(Arc::as_ptr(&self.server), Arc::as_ptr(&other.server))
    }
}
