//! What a server tells the client of its session.

use wire::Message;
use wire::frame::one_line;
use wire::mcp::level::Level;
use wire::mcp::method::Notice;

use super::Conn;
use crate::call::Event;
use crate::permit::Bound;
use crate::upstream::tenant::Tenant;

/// Whether a notification on a session's own connection is for its client.
pub(super) fn is_the_clients(notice: Notice) -> bool {
    match notice {
        Notice::Message
        | Notice::ToolsChanged
        | Notice::PromptsChanged
        | Notice::ResourcesChanged
        | Notice::ResourceUpdated
        | Notice::ElicitationComplete
        | Notice::TaskStatus => true,
        // For the connection itself, from a client to a server, or unknown in the revisions with a session.
        Notice::Progress
        | Notice::Cancelled
        | Notice::Initialized
        | Notice::RootsChanged
        | Notice::Tasks
        | Notice::Acknowledged
        | Notice::Other => false,
    }
}

impl Conn {
    /// Tells the server what its session's client said, if that is the server's to hear: changed roots if it
    /// was promised to hear of them, and progress of what it asked.
    // MCP 2025-11-25 client/roots, Root List Changes
    pub(in crate::upstream) fn hear(&self, notice: Notice, message: &Message) {
        let promised = self.spec.tenant.as_ref().is_some_and(|tenant| tenant.can.tells_of_roots());
        let passes = match notice {
            Notice::RootsChanged => promised,
            Notice::Progress => self.ask_progressed(message),
            _ => false,
        };
        if passes {
            self.tell(one_line(message.bytes().clone()));
        }
    }

    /// Tells the client: log messages with the oldest call in flight, whose log they most likely are, and
    /// everything else beside all calls. `false` when something had to be dropped for want of room.
    pub(super) fn pass_on(&self, tenant: &Tenant, notice: Notice, message: Message) -> bool {
        let session = &tenant.session;
        let message = self.around.task_ids.show_message(session.number, Some(notice), message);
        if notice != Notice::Message {
            return session.strays.event(Event::Notice(notice, message));
        }
        let wished = session.wishes.change(|wished| wished.level);
        if wished.is_some_and(|least| level(&message).is_some_and(|level| level < least)) {
            return true;
        }
        let state = self.lock();
        let calls = state.mux.iter().filter_map(|(_, pending)| Some((pending.age, pending.work.events()?)));
        match calls.min_by_key(|(age, _)| *age) {
            Some((_, events)) => events.event(Event::Notice(notice, message)),
            None => session.strays.event(Event::Notice(notice, message)),
        }
    }
}

impl Conn {
    /// Tells the one call in flight that asked for log messages, as far as it wants to hear of this one. `false`
    /// when none did, or several: nothing in the message names its call, and it may be somebody else's data.
    // MCP 2026-07-28 basic/transports/stdio has no key for it
    pub(super) fn pass_log(&self, message: Message) -> bool {
        let state = self.lock();
        let asked =
            state.mux.iter().filter_map(|(_, pending)| Some((pending.level?, pending.work.events()?)));
        let mut asked = asked.take(2);
        let (Some((least, events)), None) = (asked.next(), asked.next()) else { return false };
        let wanted = level(&message).is_none_or(|level| level >= least);
        if wanted && !events.event(Event::Notice(Notice::Message, message)) {
            self.around.permits.metrics().hit(Bound::EventBytes);
        }
        true
    }
}

/// How bad the message is; `None` for a level nobody knows, which is not ours to hold back.
fn level(message: &Message) -> Option<Level> {
    Level::parse(&message.param("level")?.as_str()?)
}
