//! Changed lists that a session's own connections announced, and that nobody has looked at yet.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use wire::mcp::method::Notice;

use super::ServerName;

/// See the module. At most three notices of each configured server.
#[derive(Debug, Default)]
pub struct Announced {
    waiting: Mutex<BTreeMap<ServerName, Waiting>>,
    any: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    notices: Vec<Notice>,
    /// Somebody looks at earlier ones.
    looking: usize,
    /// Somebody looks until nothing waits any more.
    followed: bool,
}

impl Waiting {
    fn is_unknown(&self) -> bool {
        self.looking > 0 || !self.notices.is_empty()
    }
}

impl Announced {
    /// Notes a changed list of `server`; `true` when nobody follows: then somebody has to look until [`left`](Self::left).
    pub fn note(&self, server: &ServerName, notice: Notice) -> bool {
        let mut all = self.waiting.lock();
        let waiting = all.entry(server.clone()).or_default();
        if !waiting.notices.contains(&notice) {
            waiting.notices.push(notice);
        }
        self.any.store(true, Ordering::Release);
        !std::mem::replace(&mut waiting.followed, true)
    }

    /// Who follows may leave, for nothing of `server` waits or is looked at; the next notice wants another one.
    pub fn left(&self, server: &ServerName) -> bool {
        let mut all = self.waiting.lock();
        let has_left = all.get(server).is_none_or(|waiting| !waiting.is_unknown());
        if has_left {
            all.remove(server);
        }
        has_left
    }

    /// Nobody looks at what waits of `server`, for it is another one by now.
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

    /// Whether anything waits or is looked at. Costs one load.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// The servers of which something waits or is looked at.
    pub fn servers(&self) -> Vec<ServerName> {
        let all = self.waiting.lock();
        all.iter().filter(|(_, waiting)| waiting.is_unknown()).map(|(server, _)| server.clone()).collect()
    }

    /// Takes what waits of `server`. It waits again unless the look is [finished](Look::finish).
    pub fn take<'a>(&'a self, server: &'a ServerName) -> Look<'a> {
        let mut waiting = self.waiting.lock();
        let waiting = waiting.entry(server.clone()).or_default();
        waiting.looking += 1;
        Look { announced: self, server, notices: std::mem::take(&mut waiting.notices) }
    }
}

/// What somebody looks at.
#[derive(Debug)]
pub struct Look<'a> {
    announced: &'a Announced,
    server: &'a ServerName,
    notices: Vec<Notice>,
}

impl Look<'_> {
    /// What was announced.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// The lists have been read, all but those of `unread`, which wait again.
    pub fn finish(mut self, unread: &[Notice]) {
        self.notices.retain(|notice| unread.contains(notice));
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        let mut all = self.announced.waiting.lock();
        if let Some(waiting) = all.get_mut(self.server) {
            waiting.looking -= 1;
            self.notices.retain(|notice| !waiting.notices.contains(notice));
            waiting.notices.append(&mut self.notices);
            if !waiting.is_unknown() && !waiting.followed {
                all.remove(self.server);
            }
        }
        self.announced.any.store(all.values().any(Waiting::is_unknown), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_looked_at_to_the_end_waits_again() {
        let (announced, server) = (Announced::default(), ServerName::parse("a").unwrap());
        assert!(announced.take(&server).notices().is_empty() && !announced.any());
        assert!(announced.note(&server, Notice::ToolsChanged));
        assert!(!announced.note(&server, Notice::ToolsChanged) && announced.any());
        let look = announced.take(&server);
        assert!(announced.any(), "what is looked at is not known yet");
        announced.note(&server, Notice::PromptsChanged);
        drop(look);
        assert_eq!(announced.servers(), std::slice::from_ref(&server));
        let look = announced.take(&server);
        assert_eq!(look.notices(), [Notice::PromptsChanged, Notice::ToolsChanged]);
        look.finish(&[Notice::ToolsChanged]);
        assert!(announced.any());
        let look = announced.take(&server);
        assert_eq!(look.notices(), [Notice::ToolsChanged]);
        look.finish(&[]);
        assert!(!announced.any() && announced.servers().is_empty());
    }

    #[test]
    fn one_follows_until_nothing_waits() {
        let (announced, server) = (Announced::default(), ServerName::parse("a").unwrap());
        assert!(announced.note(&server, Notice::ToolsChanged));
        let look = announced.take(&server);
        assert!(!announced.note(&server, Notice::PromptsChanged), "whoever looks, one follows already");
        look.finish(&[]);
        assert!(!announced.left(&server), "the prompts wait");
        let look = announced.take(&server);
        assert!(!announced.left(&server), "who looks may give it up");
        look.finish(&[]);
        assert!(announced.left(&server));
        assert!(announced.note(&server, Notice::ToolsChanged), "the next one");
    }
}
