//! The gateway's listens on a modern server. Each notification names the listen it belongs to, and the server may end
//! a listen.
// MCP 2026-07-28 basic/patterns/subscriptions

use wire::Message;
use wire::mcp::meta;
use wire::mcp::method::{Method, Notice};

use super::mux::WireId;
use super::pending::{Pending, Work};
use super::reader::ours;
use super::{Conn, State};
use crate::call::Event;
use crate::error::{Blame, Error, Kind};
use crate::permit::Bound;

/// The id of the listen that a notification names.
pub(super) fn named(message: &Message) -> Option<WireId> {
    ours(&message.meta_value(meta::SUBSCRIPTION_ID)?)
}

impl Conn {
    /// Delivers a notification to the listen of this id; `false` if there is none.
    pub(super) fn deliver_to_listen(&self, id: WireId, notice: Notice, message: Message) -> bool {
        let mut state = self.state.lock();
        let Some(pending) = state.mux.get_mut(id) else { return false };
        let Work::Own { method: Method::Listen, responder } = &pending.work else { return false };
        if !responder.event(Event::Notice(notice, message)) {
            self.context.permits.metrics().hit(Bound::EventBytes);
        }
        true
    }

    /// Ends a listen that the server cancels.
    // MCP 2026-07-28 basic/patterns/cancellation: servers send `notifications/cancelled` for nothing else
    pub(super) fn listen_cancelled(&self, notice: &Message) {
        let Some(id) = notice.param("requestId").and_then(|id| ours(&id)) else { return };
        let pending = {
            let mut state = self.state.lock();
            if !state.mux.get_mut(id).is_some_and(|pending| pending.work.is_listen()) {
                return;
            }
            state.mux.close(id)
        };
        if let Some(pending) = pending {
            pending.work.fail(Error::new(Kind::Cancelled, Blame::Upstream, "the server ended the listen"));
        }
    }
}

impl State {
    /// Whether something is in flight that keeps the connection open. Listens keep it too, except `but_for_listens`:
    /// the gateway's own listen for changed lists must not keep an unused process.
    pub(super) fn is_busy(&self, but_for_listens: bool) -> bool {
        let counts = |pending: &Pending| !(but_for_listens && pending.work.is_listen());
        self.mux.len() > 0 && self.mux.iter().any(|(_, pending)| counts(pending))
    }
}
