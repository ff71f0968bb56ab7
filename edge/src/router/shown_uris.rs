//! Which server sent whom which URI: the route of resources that no list names.
//!
//! Tools hand out `resource_link`s and embedded resources that are in no list. Their URIs are remembered
//! per principal, so that one cannot read what only another was shown, and bounded: the oldest go first.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;

/// URIs remembered in all. 65,536 hashes of 8 bytes with their bookkeeping are about 4 MB.
pub(super) const SEEN_URIS: usize = 65_536;

/// A bounded map (principal, URI) → server.
#[derive(Debug)]
pub(super) struct Seen {
    room: usize,
    hashing: RandomState,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    servers: HashMap<u64, usize>,
    order: VecDeque<u64>,
}

impl Seen {
    /// Room for `room` URIs.
    pub(super) fn new(room: usize) -> Self {
        Self { room, hashing: RandomState::new(), inner: Mutex::default() }
    }

    /// `server` showed `uri` to `principal`. The latest word counts.
    pub(super) fn remember(&self, principal: &Arc<str>, uri: &str, server: usize) {
        let key = self.key(principal, uri);
        let mut inner = self.inner.lock();
        if inner.servers.insert(key, server).is_none() {
            inner.order.push_back(key);
        }
        while inner.order.len() > self.room {
            if let Some(oldest) = inner.order.pop_front() {
                inner.servers.remove(&oldest);
            }
        }
    }

    /// The server that showed `uri` to `principal`.
    pub(super) fn server(&self, principal: &Arc<str>, uri: &str) -> Option<usize> {
        let inner = self.inner.lock();
        inner.servers.get(&self.key(principal, uri)).copied()
    }

    // A collision of two hashes sends a read to a server that answers "not found"; it grants nothing, because a principal
    // may use every resource of a server that it may use, and no other server is taken from here.
    fn key(&self, principal: &Arc<str>, uri: &str) -> u64 {
        self.hashing.hash_one((principal, uri))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_per_principal_and_forgets_the_oldest() {
        let seen = Seen::new(2);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        seen.remember(&a, "x://1", 0);
        seen.remember(&a, "x://1", 1);
        assert_eq!(seen.server(&a, "x://1"), Some(1));
        assert_eq!(seen.server(&b, "x://1"), None);
        seen.remember(&a, "x://2", 0);
        seen.remember(&b, "x://3", 0);
        assert_eq!(seen.server(&a, "x://1"), None);
        assert_eq!((seen.server(&a, "x://2"), seen.server(&b, "x://3")), (Some(0), Some(0)));
    }
}
