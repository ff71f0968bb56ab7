//! Remembers which server showed which URI to whom: the route of resources that no list names.
//!
//! Tools return `resource_link`s and embedded resources that are in no list. Their URIs are remembered for each principal,
//! so that nobody can read what only another principal was shown. The number is bounded: the oldest are forgotten first.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use parking_lot::Mutex;

use super::server_set::ServerIndex;

/// URIs remembered in all. 65,536 hashes of 8 bytes with their bookkeeping are about 4 MB.
pub(super) const SEEN_URIS: usize = 65_536;

/// A bounded map (principal, URI) → server.
#[derive(Debug)]
pub(super) struct ShownUris {
    room: usize,
    hashing: RandomState,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    servers: HashMap<u64, ServerIndex>,
    order: VecDeque<u64>,
}

impl ShownUris {
    /// Remembers up to `room` URIs.
    pub(super) fn new(room: usize) -> Self {
        Self { room, hashing: RandomState::new(), inner: Mutex::default() }
    }

    /// Remembers that `server` showed `uri` to `principal`. The latest server counts.
    pub(super) fn remember(&self, principal: &Arc<str>, uri: &str, server: ServerIndex) {
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
    pub(super) fn server(&self, principal: &Arc<str>, uri: &str) -> Option<ServerIndex> {
        let inner = self.inner.lock();
        inner.servers.get(&self.key(principal, uri)).copied()
    }

    // If two hashes collide, a read goes to a server that answers "not found". That grants nothing: a principal may read
    // every resource of a server that it may use, and the router drops servers that it may not use.
    fn key(&self, principal: &Arc<str>, uri: &str) -> u64 {
        self.hashing.hash_one((principal, uri))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_per_principal_and_forgets_the_oldest() {
        let seen = ShownUris::new(2);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        seen.remember(&a, "x://1", ServerIndex::new(0));
        seen.remember(&a, "x://1", ServerIndex::new(1));
        assert_eq!(seen.server(&a, "x://1"), Some(ServerIndex::new(1)));
        assert_eq!(seen.server(&b, "x://1"), None);
        seen.remember(&a, "x://2", ServerIndex::new(0));
        seen.remember(&b, "x://3", ServerIndex::new(0));
        assert_eq!(seen.server(&a, "x://1"), None);
        assert_eq!(
            (seen.server(&a, "x://2"), seen.server(&b, "x://3")),
            (Some(ServerIndex::new(0)), Some(ServerIndex::new(0)))
        );
    }
}
