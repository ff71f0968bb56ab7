//! The sessions that had a connection of their own to one server, whose subscriptions are taken up again on the next, and
//! those that subscribed on a common one.
//!
//! Guarantees: it keeps no session alive, and its memory is bounded by twice the sessions there are. It must not know of
//! connections: a session whose process has died has none, and is here all the same.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::call::{ServerName, SessionHandle, SessionSettings};

#[derive(Default)]
pub(in crate::upstream) struct Sessions {
    by_number: Mutex<HashMap<u64, Known>>,
}

struct Known {
    principal: Arc<str>,
    settings: Weak<SessionSettings>,
}

impl Sessions {
    /// The session has a connection of its own, or subscribes on a common one.
    pub(in crate::upstream) fn note(&self, session: &SessionHandle) {
        let mut by_number = self.by_number.lock();
        // Those that have ended are looked for once in as many new sessions as there are old ones.
        if by_number.len() == by_number.capacity() {
            by_number.retain(|_, known| known.settings.strong_count() > 0);
            let alive = by_number.len();
            by_number.reserve(alive.max(1));
        }
        let (principal, settings) = (session.caller.principal().clone(), Arc::downgrade(&session.settings));
        by_number.insert(session.number, Known { principal, settings });
    }

    /// Principals that are denied may no longer use the server: if they may again later, their clients have to subscribe
    /// again.
    pub(super) fn forget_subscriptions(&self, server: &ServerName, is_denied: &dyn Fn(&str) -> bool) {
        for known in self.by_number.lock().values().filter(|known| is_denied(&known.principal)) {
            if let Some(settings) = known.settings.upgrade() {
                settings.change(|wished| wished.subscriptions.retain(|(of, _)| of != server));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;
    use wire::mcp::version::ProtocolVersion;

    use super::*;
    use crate::call::{Caller, reply};

    #[test]
    fn sessions_that_have_ended_are_forgotten() {
        let sessions = Sessions::default();
        for number in 0..10_000 {
            sessions.note(&SessionHandle {
                number,
                caller: Caller::new("ann"),
                version: ProtocolVersion::V2025_11_25,
                ended: CancellationToken::new(),
                unsolicited: Arc::new(reply().0),
                settings: Arc::default(),
                pending_list_changes: Arc::default(),
            });
        }
        assert!(sessions.by_number.lock().len() < 100);
    }
}
