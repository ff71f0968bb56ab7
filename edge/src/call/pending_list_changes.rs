//! List changes that a session's own connections announced and whose lists have not been read again yet.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use wire::mcp::method::Notice;

use super::ServerName;

/// The pending list changes of one session: at most three notifications of each configured server.
#[derive(Debug, Default)]
pub struct PendingListChanges {
    waiting: Mutex<BTreeMap<ServerName, Waiting>>,
    any: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    notices: Vec<Notice>,
    /// How many read lists again because of earlier notifications.
    looking: usize,
    /// A follower reads lists again until nothing is pending.
    followed: bool,
}

impl Waiting {
    fn is_unknown(&self) -> bool {
        self.looking > 0 || !self.notices.is_empty()
    }
}

impl PendingListChanges {
    /// Notes a changed list of `server`. `true` when there is no follower: then the caller must start one, which reads the
    /// lists again until it may leave ([`left`](Self::left)).
    pub fn note(&self, server: &ServerName, notice: Notice) -> bool {
        let mut all = self.waiting.lock();
        let waiting = all.entry(server.clone()).or_default();
        if !waiting.notices.contains(&notice) {
            waiting.notices.push(notice);
        }
        self.any.store(true, Ordering::Release);
        !std::mem::replace(&mut waiting.followed, true)
    }

    /// `true` when nothing of `server` is pending or being read: the follower leaves, and the next notification needs
    /// another one.
    pub fn left(&self, server: &ServerName) -> bool {
        let mut all = self.waiting.lock();
        let has_left = all.get(server).is_none_or(|waiting| !waiting.is_unknown());
        if has_left {
            all.remove(server);
        }
        has_left
    }

    /// Drops what is pending of `server`, because another server has its name now.
    pub fn forget(&self, server: &ServerName) {
        let mut all = self.waiting.lock();
        if let Some(waiting) = all.get_mut(server) {
            (waiting.notices, waiting.followed) = (Vec::new(), false);
            if waiting.looking == 0 {
                all.remove(server);
            }
        }
        self.any.store(all.values().any(Waiting::is_unknown), Ordering::Release);
    }

    /// Whether anything is pending or being read. Costs one atomic load.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// The servers of which something is pending or being read.
    pub fn servers(&self) -> Vec<ServerName> {
        let all = self.waiting.lock();
        all.iter().filter(|(_, waiting)| waiting.is_unknown()).map(|(server, _)| server.clone()).collect()
    }

    /// Takes what is pending of `server`. It is pending again unless it is [finished](TakenListChanges::finish).
    pub fn take<'a>(&'a self, server: &'a ServerName) -> TakenListChanges<'a> {
        let mut waiting = self.waiting.lock();
        let waiting = waiting.entry(server.clone()).or_default();
        waiting.looking += 1;
        TakenListChanges { pending: self, server, notices: std::mem::take(&mut waiting.notices) }
    }
}

/// List changes whose lists are being read.
#[derive(Debug)]
pub struct TakenListChanges<'a> {
    pending: &'a PendingListChanges,
    server: &'a ServerName,
    notices: Vec<Notice>,
}

impl TakenListChanges<'_> {
    /// The notifications of the changes.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// Marks the lists as read, but for those of `unread`, which are pending again.
    pub fn finish(mut self, unread: &[Notice]) {
        self.notices.retain(|notice| unread.contains(notice));
    }
}

impl Drop for TakenListChanges<'_> {
    fn drop(&mut self) {
        let mut all = self.pending.waiting.lock();
        if let Some(waiting) = all.get_mut(self.server) {
            waiting.looking -= 1;
            self.notices.retain(|notice| !waiting.notices.contains(notice));
            waiting.notices.append(&mut self.notices);
            if !waiting.is_unknown() && !waiting.followed {
                all.remove(self.server);
            }
        }
        self.pending.any.store(all.values().any(Waiting::is_unknown), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_looked_at_to_the_end_waits_again() {
        let (pending, server) = (PendingListChanges::default(), ServerName::parse("a").unwrap());
        assert!(pending.take(&server).notices().is_empty() && !pending.any());
        assert!(pending.note(&server, Notice::ToolsChanged));
        assert!(!pending.note(&server, Notice::ToolsChanged) && pending.any());
        let look = pending.take(&server);
        assert!(pending.any(), "what is looked at is not known yet");
        pending.note(&server, Notice::PromptsChanged);
        drop(look);
        assert_eq!(pending.servers(), std::slice::from_ref(&server));
        let look = pending.take(&server);
        assert_eq!(look.notices(), [Notice::PromptsChanged, Notice::ToolsChanged]);
        look.finish(&[Notice::ToolsChanged]);
        assert!(pending.any());
        let look = pending.take(&server);
        assert_eq!(look.notices(), [Notice::ToolsChanged]);
        look.finish(&[]);
        assert!(!pending.any() && pending.servers().is_empty());
    }

    #[test]
    fn one_follows_until_nothing_waits() {
        let (pending, server) = (PendingListChanges::default(), ServerName::parse("a").unwrap());
        assert!(pending.note(&server, Notice::ToolsChanged));
        let look = pending.take(&server);
        assert!(!pending.note(&server, Notice::PromptsChanged), "whoever looks, one follows already");
        look.finish(&[]);
        assert!(!pending.left(&server), "the prompts wait");
        let look = pending.take(&server);
        assert!(!pending.left(&server), "who looks may give it up");
        look.finish(&[]);
        assert!(pending.left(&server));
        assert!(pending.note(&server, Notice::ToolsChanged), "the next one");
    }
}
