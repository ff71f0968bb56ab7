//! How much events matter: where there is no room for all, the least important is dropped first.
//!
//! Guarantees: a server's question is never dropped for another event. Pure. It must not know who reads the events.

use wire::mcp::method::Notice;

use super::{Event, Shared};

impl Event {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Progress(message) | Self::Notice(_, message) => message.bytes().len(),
            Self::Ask(ask) => ask.request.bytes().len(),
        }
    }

    pub(super) fn worth(&self) -> Worth {
        match self {
            Self::Progress(_) => Worth::Progress,
            Self::Notice(Notice::Message, _) => Worth::Log,
            Self::Notice(..) => Worth::News,
            Self::Ask(_) => Worth::Ask,
        }
    }
}

/// The importance of an event: when there is no room for all, the least important is dropped first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worth {
    /// The next one says more.
    Progress,
    Log,
    /// Without it the client would keep an outdated list or resource.
    News,
    /// A server waits for the answer.
    Ask,
}

impl Shared {
    /// Drops what matters least, of equals the newest, until so many bytes are free. Nothing goes if all that matters no
    /// more than `worth` would not be enough; an ask never does.
    pub(super) fn make_room(&mut self, bytes: usize, worth: Worth) -> bool {
        // Usually a progress event replaces the one before.
        if let Some(last) =
            self.events.pop_back_if(|last| last.worth() == Worth::Progress && last.bytes() >= bytes)
        {
            self.event_bytes -= last.bytes();
            return true;
        }
        let may_go = |event: &&Event| event.worth() <= worth.min(Worth::News);
        if self.events.iter().filter(may_go).map(Event::bytes).sum::<usize>() < bytes {
            return false;
        }
        let (mut goes, mut free) = (vec![false; self.events.len()], 0);
        for class in [Worth::Progress, Worth::Log, Worth::News] {
            for (event, goes) in self.events.iter().zip(&mut goes).rev() {
                if free < bytes && event.worth() == class {
                    *goes = true;
                    free += event.bytes();
                }
            }
        }
        let mut goes = goes.into_iter();
        self.events.retain(|_| goes.next() != Some(true));
        self.event_bytes -= free;
        true
    }
}
