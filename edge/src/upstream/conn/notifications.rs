//! Notifications between a server and the client of its connection.

use wire::mcp::level::Level;
use wire::mcp::method::{Method, Notice};
use wire::splice::Parts;
use wire::{Era, Message};

use super::own::OwnRequest;
use super::pending::Work;
use super::{Conn, Job, Queued, State, outgoing};
use crate::call::{Affinity, Event, SessionHandle, reply};
use crate::permit::Bound;
use crate::upstream::exclusive_client::ExclusiveClient;
use crate::upstream::modern;
use crate::upstream::session_settings::level_params;

/// Whether a notification on an exclusive connection is for its client alone. Clients without a session get all but
/// log messages through their listens.
pub(super) fn is_for_client(client: &ExclusiveClient, notice: Notice) -> bool {
    match notice {
        Notice::Message => true,
        _ => client.session().is_some() && is_for_session(notice),
    }
}

fn is_for_session(notice: Notice) -> bool {
    match notice {
        Notice::Message | Notice::ResourceUpdated | Notice::ElicitationComplete | Notice::TaskStatus => true,
        // The router notifies the client once it has compared the lists.
        Notice::ToolsChanged | Notice::PromptsChanged | Notice::ResourcesChanged => false,
        // For the connection itself, sent by clients only, or unknown in the revisions with a session.
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
    /// Notifies the server that its client's roots changed, if that was declared. At most one such notification waits
    /// to be written, because a second one would say the same.
    // MCP 2025-11-25 client/roots, Root List Changes
    pub(in crate::upstream) fn roots_changed(&self) {
        if !self.spec.client.as_ref().is_some_and(|client| client.notifies_of_roots()) {
            return;
        }
        let is_queued = |queued: &Queued| queued.line.iter().next() == Some(&outgoing::ROOTS_CHANGED);
        if !self.state.lock().outbox.iter().any(is_queued) {
            self.queue_from_client(outgoing::ROOTS_CHANGED.into());
        }
    }

    /// Queues a notification of the client. If the server does not read, these are dropped before anything else.
    pub(super) fn queue_from_client(&self, line: Parts) {
        if !self.queue_note(line, CLIENT_NOTES) {
            self.context.permits.metrics().hit(Bound::Outbox);
        }
    }

    /// The lowest level of log messages that a call gets on this connection; `None` if it gets none.
    pub(super) fn log_level(&self, job: &Job) -> Option<Level> {
        modern::level(&job.call).filter(|_| self.gets_logs(job))
    }

    /// Whether a call that names a level gets log messages on this connection. A legacy server has one level for all of its
    /// calls, so on a connection of several principals no call gets the messages.
    pub(super) fn gets_logs(&self, job: &Job) -> bool {
        match (self.spec.era, &job.call.affinity) {
            (Era::Modern, _) => true,
            (Era::Legacy, Affinity::Principal) => job.lease.is_some() || self.spec.logs_to_calls,
            // The level of a session is set at its own connection when the client sets it.
            (Era::Legacy, Affinity::Session(_)) => false,
        }
    }

    /// Queues a request for the log level that a call wants, ahead of the call, or of the answer it goes on with. A call that
    /// has the connection to itself gets its own level. For one among others the level is set only if it lets more through
    /// than before: what the others do not want is left out on arrival. Nobody waits for the answer, and a level that is
    /// refused counts as told: the server is not asked for it again before every call.
    ///
    /// It wakes the writer itself: the call may not be queued after all, and the level counts as told from here on.
    // MCP 2025-11-25 server/utilities/logging, Setting Log Level
    pub(super) fn queue_level(&self, state: &mut State, wanted: Level, is_alone: bool) {
        let will_do = |told: Level| if is_alone { told == wanted } else { told <= wanted };
        // A modern server is told with each request.
        if self.spec.era == Era::Modern || state.level.is_some_and(will_do) || !self.can("logging") {
            return;
        }
        let params = level_params(wanted);
        let request = OwnRequest {
            method: Method::SetLevel,
            params: &params,
            timeout: self.context.config.handshake_timeout,
        };
        let (responder, _) = reply();
        if self.queue_own(state, request, responder) {
            state.level = Some(wanted);
            self.wake.notify_one();
        }
    }

    /// Delivers a notification to the connection's client; `false` if something had to be dropped for lack of room.
    pub(super) fn deliver(&self, client: &ExclusiveClient, notice: Notice, message: Message) -> bool {
        match client.session() {
            Some(session) => self.deliver_to_session(session, notice, message),
            None => self.deliver_log_to_lease(message),
        }
    }

    /// Delivers a log message to the call that leases the connection, if it asked for this level.
    // MCP 2026-07-28 server/utilities/logging
    fn deliver_log_to_lease(&self, message: Message) -> bool {
        let state = self.state.lock();
        let Some((_, pending)) = state.mux.iter().find(|(_, pending)| pending.work.may_ask()) else {
            return true;
        };
        let Work::Call { job, .. } = &pending.work else { return true };
        let is_wanted = pending.level.is_some_and(|least| least.lets_through(&message));
        !is_wanted || job.responder.event(Event::Notice(Notice::Message, message))
    }

    /// Delivers a log message with the session's oldest call in flight, which most likely caused it, and everything
    /// else outside calls.
    fn deliver_to_session(&self, session: &SessionHandle, notice: Notice, message: Message) -> bool {
        let message = self.task_ids().show_message(session.number, Some(notice), message);
        if notice != Notice::Message {
            return session.unsolicited.event(Event::Notice(notice, message));
        }
        let wished = session.settings.level();
        if wished.is_some_and(|least| !least.lets_through(&message)) {
            return true;
        }
        let state = self.state.lock();
        let calls =
            state.mux.iter().filter_map(|(_, pending)| Some((pending.number, pending.work.events()?)));
        match calls.min_by_key(|(number, _)| *number) {
            Some((_, events)) => events.event(Event::Notice(notice, message)),
            None => session.unsolicited.event(Event::Notice(notice, message)),
        }
    }

    /// Delivers a log message to the one call in flight that asked for log messages. `false` if no call did, or several:
    /// nothing in the message names its call, and it may hold another client's data.
    // MCP 2026-07-28 basic/transports/stdio has no key for it; 2025-11-25 neither
    pub(super) fn deliver_log(&self, message: Message) -> bool {
        let state = self.state.lock();
        let asked =
            state.mux.iter().filter_map(|(_, pending)| Some((pending.level?, pending.work.events()?)));
        let mut asked = asked.take(2);
        let (Some((least, events)), None) = (asked.next(), asked.next()) else { return false };
        let wanted = least.lets_through(&message);
        if wanted && !events.event(Event::Notice(Notice::Message, message)) {
            self.context.permits.metrics().hit(Bound::EventBytes);
        }
        true
    }
}

/// How many messages may wait to be written before a client's notifications are dropped. 64: one for each question
/// that may be open, and few of the 1,024 that cancellations and answers may take.
const CLIENT_NOTES: usize = 64;
