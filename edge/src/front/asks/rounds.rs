//! Rounds of a call: what a modern server wants first is asked of a client that has a session, and the call is
//! sent again with the answers.
//!
//! ```text
//!           input required                  all answered, or the time is over
//!  Calling ────────────────▶ Asking ─────────────────────────────────────────▶ Calling
//!     │                         └─ refused where there is no word for a no ──▶ Over
//!     ├─ with a state alone ──▶ Pausing ── a pause ──────────────────────────▶ Calling
//!     └─ a round too many, or nothing that can be asked ─────────────────────▶ Over (terminal)
//! ```
//! Guarantees: the server gets its state back byte for byte, and an answer to each of its keys; rounds are
//! bounded in number and in time; a call takes room once, for all of its rounds. What is not here: how a
//! question is put to a client and answered (`questions`, `session/ask`).
// MCP 2026-07-28 basic/patterns/mrtr

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};
use wire::Message;
use wire::limits::Limits;
use wire::mcp::method::{Ask as Kind, Method};
use wire::object::Object;
use wire::span::Span;
use wire::splice::Splice;

use super::inputs::too_many_rounds;
use crate::call::{Answer, Answered, Ask, Call, Event, EventReader, InputRequired, Next, Outcome, Reply};
use crate::error::{self, Blame, Error};
use crate::permit::{Bound, NoRoom, Permits};
use crate::router::Gateway;
use crate::seal::Sealer;

/// What the rounds of all calls share.
pub(in crate::front) struct RoundContext {
    pub(in crate::front) gateway: Arc<dyn Gateway>,
    pub(in crate::front) limits: Limits,
    /// Rounds of one call that ask something.
    pub(in crate::front) rounds_max: usize,
    /// All rounds of one call together, from the first question on.
    pub(in crate::front) timeout: Duration,
    pub(in crate::front) permits: Permits,
    /// For clients that make their rounds themselves.
    pub(in crate::front) sealer: Sealer,
}

/// The reply of a call over all of its rounds. Dropping it cancels the call and withdraws its questions.
pub(in crate::front) struct MultiRoundReply {
    /// Of the current round.
    reply: Reply,
    /// Whether the client reads the events, in this round and the next ones.
    reader: EventReader,
    context: Arc<RoundContext>,
    phase: Phase,
    /// Rounds so far that asked something.
    asked: usize,
    pause: Duration,
    /// Of all rounds; set by the first.
    deadline: Option<Instant>,
}

/// What happens in a call.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart at once; a box would cost an allocation each"
)]
pub(in crate::front) enum RoundEvent {
    /// Of the call, or a question of a round.
    Event(Event),
    /// Questions were withdrawn: whoever holds them drops them.
    Withdrawn,
    /// The call was sent again; its progress begins anew.
    Redispatched,
    /// The end; never [`Outcome::InputRequired`].
    Outcome(Outcome),
}

/// See the drawing above.
enum Phase {
    Calling,
    Asking(Box<Round>),
    Pausing(Pin<Box<Sleep>>, Box<(Call, Option<Bytes>)>),
    /// Terminal.
    Over(Outcome),
}

/// One round that asks something.
struct Round {
    call: Call,
    state: Option<Bytes>,
    wanted: Vec<Wanted>,
    /// Not yielded yet.
    asks: VecDeque<Ask>,
    answers: Arc<Answers>,
    /// Withdraws all questions, also when the round is dropped.
    withdrawn: DropGuard,
    /// `None` once it was ready.
    timeout: Option<Pin<Box<Sleep>>>,
}

/// What is wanted under one key.
struct Wanted {
    /// The server's own, a JSON string as it stands.
    key: Bytes,
    kind: Kind,
}

impl MultiRoundReply {
    /// Of a call that was dispatched for the first time.
    pub(in crate::front) fn new(reply: Reply, context: Arc<RoundContext>) -> Self {
        let (reader, phase, pause) = (EventReader::Present, Phase::Calling, PAUSE_FIRST);
        Self { reply, reader, context, phase, asked: 0, pause, deadline: None }
    }

    /// Whether a connection has the call.
    pub(in crate::front) fn is_under_way(&self) -> bool {
        self.reply.is_under_way()
    }

    /// Says whether the client reads the events from now on.
    pub(in crate::front) fn set_reader(&mut self, reader: EventReader) {
        self.reader = reader;
        self.reply.set_reader(reader);
    }

    /// The next question that the server has already asked; other events are dropped.
    pub(in crate::front) fn take_queued_ask(&mut self) -> Option<Ask> {
        let mut context = Context::from_waker(Waker::noop());
        while let (Phase::Calling, true) = (&self.phase, self.reply.is_ready()) {
            match self.reply.poll_next(&mut context) {
                Poll::Ready(Next::Event(Event::Ask(ask))) => return Some(ask),
                Poll::Ready(Next::Event(_)) => {}
                Poll::Ready(Next::Outcome(_)) | Poll::Pending => return None,
            }
        }
        None
    }

    /// The next event, or the outcome.
    ///
    /// Cancel-safe: what was not returned stays queued.
    pub(in crate::front) async fn next(&mut self) -> RoundEvent {
        poll_fn(|context| self.poll(context)).await
    }

    /// The poll form of [`MultiRoundReply::next`].
    pub(in crate::front) fn poll(&mut self, context: &mut Context<'_>) -> Poll<RoundEvent> {
        loop {
            let responses = match &mut self.phase {
                Phase::Calling => match ready!(self.reply.poll_next(context)) {
                    Next::Event(event) => return Poll::Ready(RoundEvent::Event(event)),
                    Next::Outcome(Outcome::InputRequired(input)) => {
                        self.begin_round(*input);
                        continue;
                    }
                    Next::Outcome(outcome) => return Poll::Ready(RoundEvent::Outcome(outcome)),
                },
                Phase::Asking(round) => match ready!(round.poll(context)) {
                    Progress::Ask(ask) => return Poll::Ready(RoundEvent::Event(Event::Ask(ask))),
                    Progress::Withdrawn => return Poll::Ready(RoundEvent::Withdrawn),
                    Progress::Refused(kind) => {
                        let outcome = refused(round.call.method, kind);
                        self.phase = Phase::Over(outcome); // which withdraws the questions that are still open
                        return Poll::Ready(RoundEvent::Withdrawn);
                    }
                    Progress::Answered(responses) => Some(responses),
                },
                Phase::Pausing(pause, _) => {
                    ready!(pause.as_mut().poll(context));
                    None
                }
                Phase::Over(_) => None,
            };
            match std::mem::replace(&mut self.phase, Phase::Calling) {
                Phase::Asking(round) => {
                    return Poll::Ready(self.dispatch(round.call, responses, round.state));
                }
                Phase::Pausing(_, rest) => return Poll::Ready(self.dispatch(rest.0, None, rest.1)),
                Phase::Over(outcome) => return Poll::Ready(RoundEvent::Outcome(outcome)),
                Phase::Calling => {}
            }
        }
    }

    fn begin_round(&mut self, input: InputRequired) {
        self.phase = self.next_phase(input).unwrap_or_else(|error| Phase::Over(Outcome::Failed(error)));
    }

    fn next_phase(&mut self, mut input: InputRequired) -> Result<Phase, Error> {
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert(now + self.context.timeout);
        if now >= deadline {
            return Err(too_late());
        }
        let state = input.state();
        let requests = requests(&input, &self.context.limits).ok_or_else(unreadable)?;
        input.call.pin = Some(input.server.clone());
        if requests.is_empty() {
            // The server only wants to be called again later.
            let pause = self.pause;
            self.pause = (pause * 2).min(PAUSE_LAST);
            let sleep = Box::pin(sleep_until(deadline.min(now + pause)));
            return Ok(Phase::Pausing(sleep, Box::new((input.call, state))));
        }
        (self.asked, self.pause) = (self.asked + 1, PAUSE_FIRST);
        if self.asked > self.context.rounds_max {
            self.context.permits.metrics().hit(Bound::Rounds);
            return Err(too_many_rounds(self.context.rounds_max));
        }
        let timeout = Box::pin(sleep_until(deadline));
        Ok(Phase::Asking(Box::new(Round::new(input.call, state, requests, timeout))))
    }

    /// Sends the call again: the same params, the answers, and the server's own state or none.
    fn dispatch(&mut self, call: Call, responses: Option<Bytes>, state: Option<Bytes>) -> RoundEvent {
        match edited(call, responses, state, &self.context.limits) {
            Ok(call) => {
                self.reply = self.context.gateway.dispatch(call);
                self.reply.set_reader(self.reader);
                RoundEvent::Redispatched
            }
            Err(error) => RoundEvent::Outcome(Outcome::Failed(error)),
        }
    }
}

/// What comes of a round.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart at once; a box would cost an allocation each"
)]
enum Progress {
    Ask(Ask),
    Withdrawn,
    /// There will be no answer, and no word to tell the server so.
    Refused(Kind),
    /// `inputResponses`, a JSON object.
    Answered(Bytes),
}

impl Round {
    fn new(
        call: Call,
        state: Option<Bytes>,
        requests: Vec<(Bytes, Kind, Message)>,
        timeout: Pin<Box<Sleep>>,
    ) -> Self {
        let answers = Arc::new(Answers::new(requests.len()));
        let withdrawn = CancellationToken::new();
        let (mut wanted, mut asks) = (Vec::new(), VecDeque::new());
        for ((key, kind, request), token) in requests.into_iter().zip(0..) {
            wanted.push(Wanted { key, kind });
            asks.push_back(Ask::new(kind, request, withdrawn.clone(), answers.clone(), token));
        }
        Self { call, state, wanted, asks, answers, withdrawn: withdrawn.drop_guard(), timeout: Some(timeout) }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Progress> {
        if let Some(ask) = self.asks.pop_front() {
            return Poll::Ready(Progress::Ask(ask));
        }
        if let Some(timeout) = &mut self.timeout
            && timeout.as_mut().poll(context).is_ready()
        {
            self.timeout = None;
            self.withdrawn.token().cancel();
            // Whoever holds the questions may notice late that they are withdrawn, or never.
            self.answers.give_up();
            return Poll::Ready(Progress::Withdrawn);
        }
        let mut answers = self.answers.0.lock();
        let given = self.wanted.iter().zip(&answers.given);
        for (Wanted { kind, .. }, answer) in given.clone() {
            if let (Some(Answer::Refused(_) | Answer::Nobody), true) = (answer, *kind != Kind::Elicitation) {
                return Poll::Ready(Progress::Refused(*kind));
            }
        }
        if answers.given.iter().any(Option::is_none) {
            answers.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut object = vec![b'{'];
        for (Wanted { key, .. }, answer) in given {
            if object.len() > 1 {
                object.push(b',');
            }
            object.extend_from_slice(key);
            object.push(b':');
            match answer {
                Some(Answer::Result(result)) => object.extend_from_slice(result),
                // MCP 2025-11-25 client/elicitation, Response Actions: dismissed without a choice
                _ => object.extend_from_slice(br#"{"action":"cancel"}"#),
            }
        }
        object.push(b'}');
        Poll::Ready(Progress::Answered(object.into()))
    }
}

/// The answers of one round, as they come.
struct Answers(Mutex<Given>);

struct Given {
    given: Vec<Option<Answer>>,
    waker: Option<Waker>,
}

impl Answers {
    fn new(count: usize) -> Self {
        Self(Mutex::new(Given { given: vec![None; count], waker: None }))
    }

    /// Nobody answers what is still open.
    fn give_up(&self) {
        for place in self.0.lock().given.iter_mut().filter(|place| place.is_none()) {
            *place = Some(Answer::Nobody);
        }
    }
}

impl Answered for Answers {
    fn answered(&self, token: u64, answer: Answer) {
        let waker = {
            let mut answers = self.0.lock();
            if let Some(place) = usize::try_from(token).ok().and_then(|token| answers.given.get_mut(token)) {
                *place = Some(answer);
            }
            answers.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// What a server wants, each with its key and as a request of its own; `None` if it is not of the kinds that may
/// stand here.
fn requests(input: &InputRequired, limits: &Limits) -> Option<Vec<(Bytes, Kind, Message)>> {
    let Some(requests) = input.requests() else { return Some(Vec::new()) };
    let bytes = input.answer().bytes();
    let object = Object::scan(bytes, requests.span(), limits).ok()?;
    let request = |span: Span| {
        let request = Object::scan(bytes, span, limits).ok()?;
        let mut text = br#"{"jsonrpc":"2.0","id":0,"method":"#.to_vec();
        text.extend_from_slice(request.get(bytes, "method")?.of(bytes));
        text.extend_from_slice(br#","params":"#);
        text.extend_from_slice(request.get(bytes, "params").map_or(b"{}", |params| params.of(bytes)));
        text.push(b'}');
        let message = Message::scan(text.into(), limits).ok()?;
        let kind = Kind::parse(message.method());
        matches!(kind, Kind::Sampling | Kind::Roots | Kind::Elicitation).then_some((kind, message))
    };
    object
        .members()
        .map(|member| {
            let (kind, message) = request(member.value)?;
            Some((member.key.slice(bytes), kind, message))
        })
        .collect()
}

/// The same call with other answers and another state.
fn edited(
    mut call: Call,
    responses: Option<Bytes>,
    state: Option<Bytes>,
    limits: &Limits,
) -> Result<Call, Error> {
    let mut splice = Splice::new(call.request.bytes().clone());
    // A method that may want input has params, or no server would have got it.
    let params = call.request.params().ok_or_else(unreadable)?;
    let mut edit = splice.object(params);
    for (key, value) in [("inputResponses", responses), ("requestState", state)] {
        match value {
            Some(value) => edit.set(key, value),
            None => edit.remove(key),
        }
    }
    edit.done();
    let text = splice.finish().into_bytes();
    call.permit.hold_bytes(text.len().saturating_sub(call.request.bytes().len())).map_err(NoRoom::refusal)?;
    call.request = Message::scan(text, limits).map_err(|_| {
        let message = "what the client answered cannot be passed on: it is nested too deeply";
        Error::new(error::Kind::InvalidParams, Blame::Downstream, message)
    })?;
    call.rename = None;
    Ok(call)
}

/// A question that the client will not answer, where an answer can only be the thing itself. A tool's caller is a
/// model, which can act on it; SDK clients do the same.
fn refused(method: Method, kind: Kind) -> Outcome {
    let message = format!(
        "the server asked this client for {}, and got none; without it the call cannot go on",
        match kind {
            Kind::Sampling => "a sample of its model (sampling/createMessage)",
            _ => "its roots (roots/list)",
        }
    );
    if method == Method::ToolsCall {
        let result = json!({ "content": [{ "type": "text", "text": message }], "isError": true });
        return Outcome::Result(Bytes::from(result.to_string()).into());
    }
    Outcome::Failed(Error::new(error::Kind::Cancelled, Blame::Downstream, message))
}

fn unreadable() -> Error {
    let message = "the server wants input that no client can give";
    Error::new(error::Kind::Protocol, Blame::Upstream, message)
}

fn too_late() -> Error {
    let message = "what the server wanted first did not come in time";
    Error::new(error::Kind::Timeout, Blame::Downstream, message)
}

/// The first pause where a server asks for timeout alone: most of what is waited for is done by then.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// The longest: what takes minutes may be noticed this much later.
const PAUSE_LAST: Duration = Duration::from_secs(5);
