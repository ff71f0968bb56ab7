//! The gateway's own requests: handshakes, lists, log levels, listens, liveness probes.

use std::time::Duration;

use wire::mcp::method::Method;

use super::pending::{Pending, Work};
use super::{Conn, Phase, Queued, State, outgoing};
use crate::call::{Outcome, Reply, Responder, reply};
use crate::error::Error;
use crate::permit;

/// A request of the gateway's own. `params` is a JSON object.
pub(super) struct OwnRequest<'a> {
    pub(super) method: Method,
    pub(super) params: &'a str,
    pub(super) timeout: Duration,
}

impl Conn {
    /// Makes a request of the gateway's own, and waits at most `timeout` for its outcome.
    pub(in crate::upstream) async fn ask(&self, method: Method, params: &str, timeout: Duration) -> Outcome {
        let reply = match self.request(method, params, timeout) {
            Ok(reply) => reply,
            Err(error) => return Outcome::Failed(error),
        };
        match tokio::time::timeout(timeout, reply.outcome()).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Failed(self.timed_out()),
        }
    }

    /// Queues a request of the gateway's own. It is written before everything that is queued later.
    ///
    /// # Errors
    /// When the connection takes none.
    pub(in crate::upstream) fn request(
        &self,
        method: Method,
        params: &str,
        timeout: Duration,
    ) -> Result<Reply, Error> {
        let (responder, reply) = reply();
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Err(self.death());
        }
        let id = state.next_id().ok_or_else(|| permit::Bound::Slots.refusal())?;
        if let Some(this) = self.this.upgrade() {
            responder.on_cancel(this, id.number());
        }
        self.queue_own(&mut state, OwnRequest { method, params, timeout }, responder);
        drop(state);
        self.wake.notify_one();
        Ok(reply)
    }

    /// Puts a request of the gateway's own into the outbox; `false` if the table has no room for it.
    pub(super) fn queue_own(&self, state: &mut State, request: OwnRequest<'_>, responder: Responder) -> bool {
        let OwnRequest { method, params, timeout } = request;
        let State { mux, outbox, requests, .. } = state;
        let Some(vacant) = mux.vacant() else { return false };
        let id = vacant.id();
        *requests += 1;
        vacant.fill(Pending::new(Work::Own { method, responder }, *requests, timeout, timeout));
        outbox.push_back(Queued { id: Some(id), line: outgoing::own(id, method.as_str(), params) });
        // The server does no work for a listen.
        if method != Method::Listen {
            self.count_opened();
        }
        true
    }
}
