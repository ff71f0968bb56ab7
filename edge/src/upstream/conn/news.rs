//! What a server tells the client of its session.

use wire::Message;
use wire::mcp::level::Level;
use wire::mcp::method::{Method, Notice};
use wire::splice::Parts;

use super::pending::Work;
use super::{Conn, Queued, State, outgoing};
use crate::call::{Call, Event, SessionHandle, reply};
use crate::permit::Bound;
use crate::upstream::pool::lease;
use crate::upstream::pool::tenant::Tenant;
use crate::upstream::wishes;

/// Whether a notification on a connection of this tenant's is for its client alone. Clients without a session listen
/// for all but log messages.
pub(super) fn is_told_by(tenant: &Tenant, notice: Notice) -> bool {
    match notice {
        Notice::Message => true,
        _ => tenant.session().is_some() && is_the_clients(notice),
    }
}

fn is_the_clients(notice: Notice) -> bool {
    match notice {
        Notice::Message | Notice::ResourceUpdated | Notice::ElicitationComplete | Notice::TaskStatus => true,
        // Its client is told of changed lists when they have been looked at.
        Notice::ToolsChanged | Notice::PromptsChanged | Notice::ResourcesChanged => false,
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
    /// Tells the server that its client's roots changed, if it was promised to hear of that. One such message waits at
    /// most: it says all that several would.
    // MCP 2025-11-25 client/roots, Root List Changes
    pub(in crate::upstream) fn roots_changed(&self) {
        if !self.spec.tenant.as_ref().is_some_and(|tenant| tenant.tells_of_roots()) {
            return;
        }
        let told = |queued: &Queued| queued.line.iter().next() == Some(&outgoing::ROOTS_CHANGED);
        if !self.state.lock().outbox.iter().any(told) {
            self.pass_client(outgoing::ROOTS_CHANGED.into());
        }
    }

    /// Passes on what the client says unasked. A server that does not read misses it, before it misses anything else.
    pub(super) fn pass_client(&self, line: Parts) {
        if !self.note(line, CLIENT_NOTES) {
            self.around.permits.metrics().hit(Bound::Outbox);
        }
    }

    /// Asks the server for the level of log messages that the client of `call` wants, before the call, if it was last
    /// asked for another one. No level needs no asking: then its messages are dropped here.
    // MCP 2025-11-25 server/utilities/logging, Setting Log Level
    pub(super) fn ask_level(&self, state: &mut State, call: &Call) {
        let Some(level) = lease::level(call).filter(|level| state.level != Some(*level)) else { return };
        if self.can("logging") {
            state.level = Some(level);
            let params = wishes::level_params(level);
            // What the server says to that helps nobody.
            let (responder, _) = reply();
            let timeout = self.around.config.handshake_timeout;
            self.queue_own(state, (Method::SetLevel, &params), responder, timeout);
        }
    }

    /// Tells the client what is its to hear. `false` when something had to be dropped for want of room.
    pub(super) fn pass_on(&self, tenant: &Tenant, notice: Notice, message: Message) -> bool {
        match tenant.session() {
            Some(session) => self.tell_session(session, notice, message),
            None => self.tell_caller(message),
        }
    }

    /// Log messages go to the one call that may have caused them, if it asked for such.
    // MCP 2026-07-28 server/utilities/logging
    fn tell_caller(&self, message: Message) -> bool {
        let state = self.state.lock();
        let Some((_, pending)) = state.mux.iter().find(|(_, pending)| pending.work.may_ask()) else {
            return true;
        };
        let Work::Call { job, .. } = &pending.work else { return true };
        let heard =
            lease::level(&job.call).is_some_and(|least| level(&message).is_none_or(|level| level >= least));
        !heard || job.responder.event(Event::Notice(Notice::Message, message))
    }

    /// Log messages with the oldest call in flight, whose log they most likely are, and everything else beside all
    /// calls.
    fn tell_session(&self, session: &SessionHandle, notice: Notice, message: Message) -> bool {
        let message = self.around.task_ids.show_message(session.number, Some(notice), message);
        if notice != Notice::Message {
            return session.unsolicited.event(Event::Notice(notice, message));
        }
        let wished = session.settings.level();
        if wished.is_some_and(|least| level(&message).is_some_and(|level| level < least)) {
            return true;
        }
        let state = self.state.lock();
        let calls = state.mux.iter().filter_map(|(_, pending)| Some((pending.age, pending.work.events()?)));
        match calls.min_by_key(|(age, _)| *age) {
            Some((_, events)) => events.event(Event::Notice(notice, message)),
            None => session.unsolicited.event(Event::Notice(notice, message)),
        }
    }
}

impl Conn {
    /// Tells the one call in flight that asked for log messages, as far as it wants to hear of this one. `false`
    /// when none did, or several: nothing in the message names its call, and it may be somebody else's data.
    // MCP 2026-07-28 basic/transports/stdio has no key for it
    pub(super) fn pass_log(&self, message: Message) -> bool {
        let state = self.state.lock();
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

/// What waits to be written to a server when its client's notifications are left out. 64: one for each question that may
/// be open, and little of the 1,024 that cancels and answers have.
const CLIENT_NOTES: usize = 64;
