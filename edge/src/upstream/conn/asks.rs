//! The questions of a server to the client of its session, until they are answered.
//!
//! ```text
//!          ┌─ answered by the client, or dropped ───▶ the server gets the answer
//!  Open ───┼─ timed out, or its call is cancelled ──▶ withdrawn; the server gets an error
//!          └─ cancelled by the server, or it died ──▶ withdrawn
//! ```
//! Nothing in a question names the call that it serves: each call in flight that may ask could have asked it. So a
//! question ends with a cancelled call only when no other such call is left, and it extends the deadline of all of them.
//! The end of a call does not end it: the client may still answer.
// MCP 2025-11-25 basic/transports, Sending Messages

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::Message;
use wire::id::RequestId;
use wire::limits::Limits;
use wire::mcp::invoke::BLOCKS;
use wire::mcp::meta;
use wire::mcp::method::Ask as Kind;
use wire::mcp::version::ProtocolVersion;
use wire::object::{self, Object};
use wire::span::Span;
use wire::splice::Splice;

use super::mux::Mux;
use super::pending::Pending;
use super::{Conn, NOTES, Phase, State, outgoing};
use crate::call::{Answer, Answered, Ask, Capabilities, Event, EventReader, Responder, SessionHandle};
use crate::permit::Bound;
use crate::upstream::exclusive_client::ExclusiveClient;

/// The open questions of one connection.
pub(super) struct Asks {
    // Few, and searched rarely: no map.
    open: Vec<Open>,
    max: usize,
    last_token: u64,
}

/// An open question.
pub(super) struct Open {
    token: u64,
    /// The server's own.
    id: RequestId,
    kind: Kind,
    /// The number of the latest request in flight that was written when it came. A later one did not ask it.
    asked_at: u64,
    pub(super) withdrawn: CancellationToken,
    /// The token under which the server gets progress, as JSON.
    progress: Option<Bytes>,
    deadline: Instant,
    /// The latest deadline, however often the client reports progress.
    limit: Instant,
}

impl Asks {
    /// Room for `max` questions.
    pub(super) fn new(max: usize) -> Self {
        Self { open: Vec::new(), max, last_token: 0 }
    }

    /// The token of a new question; `None` when the bound is reached.
    fn vacant(&mut self) -> Option<u64> {
        if self.open.len() >= self.max {
            return None;
        }
        self.last_token += 1;
        Some(self.last_token)
    }

    /// Takes out the questions that are `over`.
    pub(super) fn take(&mut self, over: impl Fn(&Open) -> bool) -> Vec<Open> {
        self.open.extract_if(.., |ask| over(ask)).collect()
    }
}

impl Open {
    /// Whether the server may have asked it for this request; not for one that still waited to be written.
    fn may_come_from(&self, pending: &Pending) -> bool {
        pending.work.may_ask() && pending.number <= self.asked_at
    }
}

impl State {
    /// Whether the server may be working on a call that waits for its client. A question that outlived its calls is no
    /// reason for the server to say nothing.
    pub(super) fn waits_for_client(&self) -> bool {
        let calls = || self.mux.iter().map(|(_, pending)| pending);
        self.asks.open.iter().any(|ask| calls().any(|pending| ask.may_come_from(pending)))
    }

    /// Takes out questions that have ended. For calls that wait for no other question the timeout begins anew, and the
    /// time in which the process has to say something: it has its answer, and goes on.
    fn end_asks(&mut self, reads: u64, call_timeout: Duration, over: impl Fn(&Open) -> bool) -> Vec<Open> {
        let Self { asks, mux, liveness, .. } = self;
        let ended = asks.take(over);
        let waits = |pending: &Pending| asks.open.iter().any(|ask| ask.may_come_from(pending));
        for pending in mux.iter_mut() {
            if ended.iter().any(|ask| ask.may_come_from(pending)) && !waits(pending) {
                pending.renew(call_timeout);
                liveness.call_written(reads, pending.liveness_deadline(call_timeout));
            }
        }
        ended
    }

    /// Takes out the questions that only a call which was just cancelled can have asked.
    pub(super) fn asks_of_cancelled(&mut self, cancelled: &Pending) -> Vec<Open> {
        let mux = &self.mux;
        let others = |ask: &Open| mux.iter().any(|(_, other)| ask.may_come_from(other));
        self.asks.take(|ask| ask.may_come_from(cancelled) && !others(ask))
    }

    /// The reply that a question goes out with: of the oldest call that may ask and whose client reads what comes
    /// before the outcome; else the session's own stream, if its client reads that. Where nobody reads, a call whose
    /// client may come back to it goes before the session's own stream. Calls that take the outcome alone come last: they
    /// refuse it at once. `None` where there is nobody to ask.
    fn ask_place<'a>(&'a self, session: Option<&'a SessionHandle>) -> Option<&'a Responder> {
        let calls = self.mux.iter().filter(|(_, pending)| pending.work.may_ask());
        let calls = calls.filter_map(|(_, pending)| Some((pending.work.events()?, pending.number)));
        let call = calls
            .map(|(events, number)| (events.reader(), number, events))
            .min_by_key(|call| (call.0, call.1));
        let own = session.map(|session| &*session.unsolicited);
        let own_is_read = own.is_some_and(|own| own.reader() == EventReader::Present);
        match call {
            Some((EventReader::Present, _, call)) => Some(call),
            Some((EventReader::Absent | EventReader::Unwanted, _, call)) if !own_is_read => Some(call),
            Some((_, _, call)) => Some(own.unwrap_or(call)),
            None => own,
        }
    }
}

impl Conn {
    /// Puts a question to the client, on the stream that [`State::ask_place`] finds.
    pub(super) fn relay(&self, client: &ExclusiveClient, kind: Kind, (id, request): (RequestId, Message)) {
        let Some(this) = self.this.upgrade() else { return };
        let request = self.task_ids().show_to(client, None, request);
        let config = &self.context.config;
        let rejected = {
            let mut state = self.state.lock();
            if state.phase != Phase::Open {
                return;
            }
            if state.ask_place(client.session()).is_none() {
                drop(state);
                self.queue_note(outgoing::answer(&id, unattributed(kind)), NOTES);
                return;
            }
            let Some(token) = state.asks.vacant() else {
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
            let written = state.mux.iter().filter(|(_, pending)| pending.written);
            let asked_at = written.map(|(_, pending)| pending.number).max().unwrap_or_default();
            let open = Open { token, id, kind, asked_at, withdrawn, progress, deadline, limit };
            extend_askers(&mut state.mux, &open, config.call_timeout);
            state.asks.open.push(open);
            match state.ask_place(client.session()) {
                Some(events) => events.offer(Event::Ask(ask)),
                None => Err(Event::Ask(ask)),
            }
        };
        if !matches!(rejected, Ok(true)) {
            self.context.permits.metrics().hit(Bound::EventBytes);
        }
        // After the lock: dropping the question answers it.
        drop(rejected);
    }

    /// Records with the call that may have asked, if there is exactly one, that its client lacks a capability.
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
            pending.missing = Capabilities::needed(kind, request);
        }
    }

    fn end_asks(&self, over: impl Fn(&Open) -> bool) -> Vec<Open> {
        let (reads, mut state) = (self.reads(), self.state.lock());
        state.end_asks(reads, self.context.config.call_timeout, over)
    }

    /// Withdraws a question that the server has cancelled; the server gets no answer.
    // MCP 2025-11-25 basic/utilities/cancellation
    pub(super) fn ask_cancelled(&self, notice: &Message) {
        let id = notice.param("requestId").and_then(|id| RequestId::parse(id.raw()));
        let Some(id) = id else { return };
        let ended = self.end_asks(|ask| ask.id == id);
        for ask in ended {
            ask.withdrawn.cancel();
        }
    }

    /// Withdraws the questions that have timed out.
    pub(super) fn sweep_asks(&self, now: Instant) {
        let late = self.end_asks(|ask| ask.deadline <= now);
        late.iter().for_each(|_| self.context.permits.metrics().hit(Bound::AskTimeout));
        self.withdraw(late);
    }

    /// Withdraws questions from the client; the server gets an answer that says so.
    pub(super) fn withdraw(&self, asks: Vec<Open>) {
        for ask in asks {
            ask.withdrawn.cancel();
            self.answer_ask(&ask, Answer::Nobody);
        }
    }

    // Answers have room of their own, which pings cannot take: there are never more than questions.
    fn answer_ask(&self, ask: &Open, answer: Answer) {
        let line = match answer {
            Answer::Result(value) => {
                let session = self.spec.client.as_ref().and_then(|client| client.session());
                let value = match session {
                    Some(session) => self.context.task_ids.own_in_answer(session.number, value),
                    None => value,
                };
                let takes_one = self.facts.get().is_some_and(|facts| facts.version < SEVERAL_BLOCKS_SINCE);
                match if takes_one && ask.kind == Kind::Sampling { one_block(value) } else { Some(value) } {
                    Some(value) => outgoing::relayed(&ask.id, "result", value),
                    None => outgoing::answer(&ask.id, SEVERAL_BLOCKS),
                }
            }
            Answer::Refused(value) => outgoing::relayed(&ask.id, "error", value),
            Answer::Nobody => outgoing::answer(&ask.id, unanswered(ask.kind)),
        };
        self.queue_note(line, NOTES.saturating_add(self.context.config.asks));
    }
}

impl Answered for Conn {
    fn answered(&self, token: u64, answer: Answer) {
        let ended = self.end_asks(|ask| ask.token == token);
        for ask in ended {
            self.answer_ask(&ask, answer.clone());
        }
    }

    /// The timeouts of the question and of the calls that may have asked it begin anew; the server gets the progress under
    /// its own token.
    // MCP 2025-11-25 basic/utilities/progress: either side may send it
    fn progressed(&self, token: u64, notice: &Message) {
        let (now, config) = (Instant::now(), &self.context.config);
        let mut state = self.state.lock();
        let State { asks, mux, .. } = &mut *state;
        let Some(ask) = asks.open.iter_mut().find(|ask| ask.token == token) else { return };
        let line = ask.progress.as_ref().and_then(|token| outgoing::progress(token, notice));
        let Some(line) = line else { return };
        ask.deadline = (now + config.ask_timeout).min(ask.limit);
        extend_askers(mux, ask, config.call_timeout);
        drop(state);
        self.queue_from_client(line);
    }

    /// A call whose client has left is passed over, and so is the session's own stream while nobody reads it.
    fn pass_on(&self, ask: Ask) -> Option<Ask> {
        let session = self.spec.client.as_ref().and_then(|client| client.session());
        let is_read = |session: &&SessionHandle| session.unsolicited.reader() == EventReader::Present;
        let state = self.state.lock();
        let place = state.ask_place(session.filter(is_read));
        let Some(place) = place.filter(|place| place.reader() <= EventReader::Absent) else {
            return Some(ask);
        };
        match place.offer(Event::Ask(ask)) {
            Err(Event::Ask(ask)) => Some(ask),
            Ok(true) | Err(_) => None,
            Ok(false) => {
                self.context.permits.metrics().hit(Bound::EventBytes);
                None
            }
        }
    }
}

/// Extends the deadlines of the calls that may have asked `ask`: none of them ends while the client thinks.
fn extend_askers(mux: &mut Mux<Pending>, ask: &Open, call_timeout: Duration) {
    for pending in mux.iter_mut().filter(|pending| ask.may_come_from(pending)) {
        let extended = (ask.deadline + call_timeout).min(pending.limit);
        pending.deadline = pending.deadline.max(extended);
    }
}

/// A sample with its content as revisions before 2025-11-25 have it, where it is one block: the only one of a list, or the
/// texts of several in one. `None` where one block cannot say the same.
// MCP 2025-06-18 schema, CreateMessageResult
fn one_block(value: Bytes) -> Option<Bytes> {
    let limits = Limits::default();
    let object = |at: Span| Object::scan(&value, at, &limits).ok();
    let content = object(Span::all(&value)).and_then(|result| result.get(&value, "content"));
    let Some(content) = content.filter(|content| content.of(&value).first() == Some(&b'[')) else {
        return Some(value);
    };
    let blocks = object::elements(&value, content, &limits, BLOCKS).ok()?;
    let block = match blocks[..] {
        [] => return None,
        [only] => only.slice(&value),
        _ => {
            let mut joined = Vec::from(br#"{"type":"text","text":""#);
            for (number, block) in blocks.iter().enumerate() {
                let block = object(*block).filter(|block| {
                    block.get(&value, "type").is_some_and(|kind| kind.of(&value) == br#""text""#)
                })?;
                // What is put together are the insides of JSON strings, which is one again.
                let text = block.get(&value, "text")?.of(&value);
                let text = text.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
                joined.extend_from_slice(if number == 0 { b"" } else { br"\n" });
                joined.extend_from_slice(text);
            }
            joined.extend_from_slice(br#""}"#);
            joined.into()
        }
    };
    let mut splice = Splice::new(value.clone());
    splice.replace(content, block);
    Some(splice.finish().into_bytes())
}

/// The response to a question where there is no client to ask; the rest of it, from its comma on.
pub(super) fn unattributed(kind: Kind) -> &'static str {
    match kind {
        Kind::Ping => PONG,
        Kind::Roots => NO_ROOTS,
        Kind::Sampling | Kind::Elicitation | Kind::Other => NOBODY_TO_ASK,
    }
}

/// The response to a question that nobody answers; the rest of it, from its comma on.
fn unanswered(kind: Kind) -> &'static str {
    match kind {
        // MCP 2025-11-25 client/elicitation, Response Actions: dismissed without a choice
        Kind::Elicitation => r#","result":{"action":"cancel"}}"#,
        _ => r#","error":{"code":-32603,"message":"the client did not answer"}}"#,
    }
}

// MCP 2025-11-25 basic/utilities/ping
pub(super) const PONG: &str = r#","result":{}}"#;
// Real servers ask for roots right after `initialized`, when there is no client to ask.
const NO_ROOTS: &str = r#","result":{"roots":[]}}"#;
// MCP 2025-11-25 client/sampling and client/elicitation: requests must be associated with one of the client's.
const NOBODY_TO_ASK: &str =
    r#","error":{"code":-32602,"message":"this request is not associated with a request of a client"}}"#;

// MCP 2025-11-25 changelog: tools in sampling, for which `content` may be a list
const SEVERAL_BLOCKS_SINCE: ProtocolVersion = ProtocolVersion::V2025_11_25;
const SEVERAL_BLOCKS: &str = r#","error":{"code":-32603,"message":"the client's sample has several blocks, and the server's revision takes one"}}"#;

/// The longest progress token that is accepted from a server. 256: SDKs count, and a UUID has 38.
const TOKEN_BYTES: usize = 256;

const TOO_MANY: &str = r#","error":{"code":-32603,"message":"too many requests of this server are waiting for the client; `asks` is the bound"}}"#;
