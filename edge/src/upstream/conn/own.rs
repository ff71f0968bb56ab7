//! Requests of the gateway's own: handshakes, lists, levels, listens.

use std::time::Duration;

use tokio::time::Instant;
use wire::mcp::method::Method;

use super::pending::{Pending, Work};
use super::{Conn, Phase, Queued, State, outgoing};
use crate::call::{Outcome, Reply, Responder, reply};
use crate::error::Error;
use crate::permit;

impl Conn {
    /// Makes a request of our own and waits for its raw result, at most `timeout`.
    pub(in crate::upstream) async fn ask(&self, method: Method, params: &str, timeout: Duration) -> Outcome {
        let reply = match self.request(method, params, timeout) {
            Ok(reply) => reply,
            Err(error) => return Outcome::Failed(error),
        };
        match tokio::time::timeout(timeout, reply.outcome()).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Failed(self.silent()),
        }
    }

    /// The same without waiting: it goes out before whatever is sent after it.
    pub(in crate::upstream) fn request(
        &self,
        method: Method,
        params: &str,
        timeout: Duration,
    ) -> Result<Reply, Error> {
        let (responder, reply) = reply();
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Err(self.died());
        }
        let id = state.next_id().ok_or_else(|| permit::Bound::Slots.refusal())?;
        if let Some(this) = self.this.upgrade() {
            responder.on_cancel(this, id.number());
        }
        self.queue_own(&mut state, (method, params), responder, timeout);
        drop(state);
        self.wake.notify_one();
        Ok(reply)
    }

    /// Puts a request of our own into the outbox, if the table has room for it.
    pub(super) fn queue_own(
        &self,
        state: &mut State,
        (method, params): (Method, &str),
        responder: Responder,
        timeout: Duration,
    ) {
        let State { mux, outbox, requests, .. } = state;
        let Some(vacant) = mux.vacant() else { return };
        let (id, limit) = (vacant.id(), Instant::now() + timeout);
        *requests += 1;
        let work = Work::Own { method, responder };
        vacant.fill(Pending {
            work,
            age: *requests,
            level: None,
            written: false,
            missing: None,
            deadline: limit,
            limit,
        });
        outbox.push_back(Queued { id: Some(id), line: outgoing::own(id, method.as_str(), params) });
        if method != Method::Listen {
            self.opened(); // the server is not at work on it
        }
    }
}
