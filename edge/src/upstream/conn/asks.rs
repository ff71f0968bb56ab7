//! What a server asks the client of its session, until the answer is there.
//!
//! ```text
//!          ┌─ answered by the client, or by nobody ─▶ the server gets the answer
//!  Open ───┼─ its time is over, its call cancelled ─▶ withdrawn; the server gets an error
//!          └─ cancelled by the server, dead ────────▶ withdrawn
//! ```

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::Message;
use wire::id::RequestId;
use wire::mcp::meta;
use wire::mcp::method::Ask as Kind;

use super::mux::WireId;
use super::{Conn, NOTES, Phase, State, outgoing};
use crate::call::{Answer, Answered, Ask, Event};
use crate::permit::Bound;
use crate::upstream::exclusive_client::{self, ExclusiveClient};

/// The questions of one connection that wait.
pub(super) struct Asks {
    // Few, and looked through rarely: no map.
    open: Vec<Open>,
    most: usize,
    last_token: u64,
}

/// One of them.
pub(super) struct Open {
    token: u64,
    /// The server's own.
    id: RequestId,
    kind: Kind,
    /// The call it came with, if any was in flight.
    pub(super) call: Option<WireId>,
    pub(super) withdrawn: CancellationToken,
    /// Under which the server wants to hear of progress, as JSON.
    progress: Option<Bytes>,
    deadline: Instant,
    /// The end of it, however often the client tells of progress.
    limit: Instant,
}

impl Asks {
    /// Room for `most`.
    pub(super) fn new(most: usize) -> Self {
        Self { open: Vec::new(), most, last_token: 0 }
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The token of a new one; `None` when as many wait as may.
    fn vacant(&mut self) -> Option<u64> {
        if self.open.len() >= self.most {
            return None;
        }
        self.last_token += 1;
        Some(self.last_token)
    }

    /// Takes out those that `over` says yes to.
    pub(super) fn take(&mut self, over: impl Fn(&Open) -> bool) -> Vec<Open> {
        self.open.extract_if(.., |ask| over(ask)).collect()
    }
}

impl State {
    /// Takes out what ended without its call. The silence of that call counts from now on again.
    fn end_asks(&mut self, call_timeout: Duration, over: impl Fn(&Open) -> bool) -> Vec<Open> {
        let ended = self.asks.take(over);
        for id in ended.iter().filter_map(|ask| ask.call) {
            let waits = self.asks.open.iter().any(|ask| ask.call == Some(id));
            if let Some(pending) = self.mux.get_mut(id).filter(|_| !waits) {
                pending.renew(call_timeout);
            }
        }
        ended
    }
}

impl Conn {
    /// Puts a question to the client: with the oldest call in flight that may ask, for nothing tells which it
    /// belongs to; else beside all calls, where a session has a place for it.
    pub(super) fn relay(&self, tenant: &ExclusiveClient, kind: Kind, (id, request): (RequestId, Message)) {
        let Some(this) = self.this.upgrade() else { return };
        let request = self.context.task_ids.show_to(tenant, None, request);
        let config = &self.context.config;
        let unheard = {
            let mut state = self.state.lock();
            let State { phase: Phase::Open, mux, asks, .. } = &mut *state else { return };
            let asking = mux.iter().filter(|(_, pending)| pending.work.may_ask());
            let call = asking.min_by_key(|(_, pending)| pending.age).map(|(id, _)| id);
            let beside = tenant.session().map(|session| &session.unsolicited);
            if call.is_none() && beside.is_none() {
                drop(state);
                self.queue_note(outgoing::answer(&id, unattributed(kind)), NOTES);
                return;
            }
            let Some(token) = asks.vacant() else {
                drop(state);
                self.context.permits.metrics().hit(Bound::Asks);
                self.queue_note(outgoing::answer(&id, TOO_MANY), NOTES);
                return;
            };
            let (now, withdrawn) = (Instant::now(), CancellationToken::new());
            let (deadline, limit) = (now + config.ask_timeout, now + config.call_timeout_max);
            let progress = request.meta_value(meta::PROGRESS_TOKEN);
            let progress = progress.map(|token| token.raw()).filter(|token| token.len() <= TOKEN_BYTES);
            let progress = progress.map(Bytes::copy_from_slice);
            let ask = Ask::new(kind, request, withdrawn.clone(), this, token);
            asks.open.push(Open { token, id, kind, call, withdrawn, progress, deadline, limit });
            let pending = call.and_then(|id| mux.get_mut(id));
            let events = pending.and_then(|pending| {
                let extended = (deadline + config.call_timeout).min(pending.limit);
                pending.deadline = pending.deadline.max(extended);
                pending.work.events()
            });
            let beside = beside.map(|unsolicited| &**unsolicited);
            match events.or(beside) {
                Some(events) => events.offer(Event::Ask(ask)),
                None => Err(Event::Ask(ask)),
            }
        };
        if !matches!(unheard, Ok(true)) {
            self.context.permits.metrics().hit(Bound::EventBytes);
        }
        // After the lock: dropping the question answers it.
        drop(unheard);
    }

    /// Notes with the call in flight, if it can be but one, that its client lacks what the server asks for.
    pub(super) fn lacks(&self, kind: Kind, request: &Message) {
        let mut state = self.state.lock();
        let asking: Vec<_> = state
            .mux
            .iter()
            .filter(|(_, pending)| pending.work.may_ask())
            .map(|(id, _)| id)
            .take(2)
            .collect();
        let pending = match asking[..] {
            [only] => state.mux.get_mut(only),
            _ => None,
        };
        if let Some(pending) = pending {
            pending.missing = exclusive_client::required(kind, request);
        }
    }

    /// The server takes a question back; it wants no answer then.
    // MCP 2025-11-25 basic/utilities/cancellation
    pub(super) fn ask_cancelled(&self, notice: &Message) {
        let id = notice.param("requestId").and_then(|id| RequestId::parse(id.raw()));
        let Some(id) = id else { return };
        let ended = self.state.lock().end_asks(self.context.config.call_timeout, |ask| ask.id == id);
        for ask in ended {
            ask.withdrawn.cancel();
        }
    }

    /// Withdraws the questions whose time is over.
    pub(super) fn sweep_asks(&self, now: Instant) {
        let late = self.state.lock().end_asks(self.context.config.call_timeout, |ask| ask.deadline <= now);
        late.iter().for_each(|_| self.context.permits.metrics().hit(Bound::AskTimeout));
        self.withdraw(late);
    }

    /// Takes questions back from the client; the server learns that there will be no answer.
    pub(super) fn withdraw(&self, asks: Vec<Open>) {
        for ask in asks {
            ask.withdrawn.cancel();
            self.answer_ask(&ask, Answer::Nobody);
        }
    }

    // Answers have a room of their own, so that pings cannot take it: there are never more than questions.
    fn answer_ask(&self, ask: &Open, answer: Answer) {
        let line = match answer {
            Answer::Result(value) => {
                let session = self.spec.client.as_ref().and_then(|tenant| tenant.session());
                let value = match session {
                    Some(session) => self.context.task_ids.own_in_answer(session.number, value),
                    None => value,
                };
                outgoing::relayed(&ask.id, "result", value)
            }
            Answer::Refused(value) => outgoing::relayed(&ask.id, "error", value),
            Answer::Nobody => outgoing::answer(&ask.id, unanswered(ask.kind)),
        };
        self.queue_note(line, NOTES.saturating_add(self.context.config.asks));
    }
}

impl Answered for Conn {
    fn answered(&self, token: u64, answer: Answer) {
        let ended = self.state.lock().end_asks(self.context.config.call_timeout, |ask| ask.token == token);
        for ask in ended {
            self.answer_ask(&ask, answer.clone());
        }
    }

    /// The question has its time anew, and so has its call; the server hears it under its own token.
    // MCP 2025-11-25 basic/utilities/progress: either side may tell of it
    fn progressed(&self, token: u64, notice: &Message) {
        let (now, config) = (Instant::now(), &self.context.config);
        let mut state = self.state.lock();
        let State { asks, mux, .. } = &mut *state;
        let Some(ask) = asks.open.iter_mut().find(|ask| ask.token == token) else { return };
        let line = ask.progress.as_ref().and_then(|token| outgoing::progress(token, notice));
        let Some(line) = line else { return };
        ask.deadline = (now + config.ask_timeout).min(ask.limit);
        if let Some(pending) = ask.call.and_then(|id| mux.get_mut(id)) {
            let extended = (ask.deadline + config.call_timeout).min(pending.limit);
            pending.deadline = pending.deadline.max(extended);
        }
        drop(state);
        self.queue_from_client(line);
    }
}

/// What a server hears that asks where there is no client to ask: the rest of the response, from its comma on.
pub(super) fn unattributed(kind: Kind) -> &'static str {
    match kind {
        Kind::Ping => PONG,
        Kind::Roots => NO_ROOTS,
        Kind::Sampling | Kind::Elicitation | Kind::Other => NOBODY_TO_ASK,
    }
}

/// What the server hears when nobody answers: the rest of the response, from its comma on.
fn unanswered(kind: Kind) -> &'static str {
    match kind {
        // MCP 2025-11-25 client/elicitation, Response Actions: dismissed without a choice
        Kind::Elicitation => r#","result":{"action":"cancel"}}"#,
        _ => r#","error":{"code":-32603,"message":"the client did not answer"}}"#,
    }
}

// MCP 2025-11-25 basic/utilities/ping
pub(super) const PONG: &str = r#","result":{}}"#;
// Real servers ask for roots right after `initialized`, when there is no client to pass the question to.
const NO_ROOTS: &str = r#","result":{"roots":[]}}"#;
// MCP 2025-11-25 client/sampling and client/elicitation: requests must be associated with one of the client's.
const NOBODY_TO_ASK: &str =
    r#","error":{"code":-32602,"message":"this request belongs to no request of a client"}}"#;

/// The longest token under which a server hears of progress. 256: SDKs count, and a UUID has 38.
const TOKEN_BYTES: usize = 256;

const TOO_MANY: &str = r#","error":{"code":-32603,"message":"too many requests of this server wait for the client; `asks` bounds them"}}"#;
