//! The rounds of a call: what a modern server requires is asked of the client, one that has a session or polls a task,
//! and the call is sent again with the answers.
//!
//! ```text
//!           input required                  all answered, or timed out
//!  Calling ────────────────▶ Asking ─────────────────────────────────────────▶ Calling
//!     │                         └─ refused, and the protocol has no refusal ─▶ Over
//!     ├─ with a state alone ──▶ Pausing ── a pause ──────────────────────────▶ Calling
//!     └─ a round too many, or nothing that can be asked ─────────────────────▶ Over (terminal)
//! ```
//! Guarantees: the server gets its state back byte for byte, and an answer to each of its keys; rounds are
//! bounded in number and in time; a call takes its permit once, for all of its rounds. What is not here: how a
//! question is sent to a client and answered (`questions`, `session/ask`).
// MCP 2026-07-28 basic/patterns/mrtr

mod round;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::time::{Instant, Sleep, sleep_until};
use wire::Message;
use wire::limits::Limits;
use wire::mcp::method::{Ask as Kind, Method};
use wire::splice::Splice;

use self::round::{Purpose, Round, Step};
use super::inputs::too_many_rounds;
use super::reissue::{self, Visit};
use crate::call::{
    Affinity, Ask, Call, Capabilities, Client, Event, EventReader, InputRequired, Next, Outcome, Question,
    Reply,
};
use crate::error::{self, Blame, Error};
use crate::front::requester::Requester;
use crate::permit::{Bound, Permits};
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
    /// Whether the call is a task's, in this round and the next ones.
    is_detached: bool,
    context: Arc<RoundContext>,
    phase: Phase,
    /// Rounds so far that asked something.
    asked: usize,
    pause: Duration,
    /// Of all rounds; set by the first.
    deadline: Option<Instant>,
    /// For a client that visits URLs between two calls of a legacy server.
    reissue: Option<Box<Reissue>>,
}

/// What it takes to make the call of a client without a session anew.
pub(in crate::front) struct Reissue {
    pub(in crate::front) requester: Requester,
    pub(in crate::front) client: Arc<Client>,
    pub(in crate::front) method: Method,
    pub(in crate::front) request: Message,
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

impl MultiRoundReply {
    /// Of a call that was dispatched for the first time.
    pub(in crate::front) fn new(reply: Reply, context: Arc<RoundContext>) -> Self {
        let (reader, phase, pause) = (EventReader::Present, Phase::Calling, PAUSE_FIRST);
        let (asked, deadline, reissue) = (0, None, None);
        Self { reply, reader, is_detached: false, context, phase, asked, pause, deadline, reissue }
    }

    /// Asks the client to visit the URLs that a legacy server's error names (−32042), and then makes the call anew.
    // MCP 2025-11-25 client/elicitation, URL Elicitation Required Error
    pub(in crate::front) fn with_reissue(self, reissue: Reissue) -> Self {
        Self { reissue: Some(Box::new(reissue)), ..self }
    }

    /// What its rounds share with those of other calls.
    pub(in crate::front) fn context(&self) -> &RoundContext {
        &self.context
    }

    /// Says that nobody reads on before a person has answered something.
    pub(in crate::front) fn park(&self) {
        self.reply.park();
    }

    /// Says that no client waits at a connection for the outcome, in this round and the next ones.
    pub(in crate::front) fn detach(&mut self) {
        self.is_detached = true;
        self.reply.detach();
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

    /// Whether the client reads the events, as it was last said.
    pub(in crate::front) fn reader(&self) -> EventReader {
        self.reader
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
                    Next::Outcome(Outcome::Refused(error)) => match self.begin_visits(&error) {
                        None => return Poll::Ready(RoundEvent::Outcome(Outcome::Refused(error))),
                        Some(phase) => {
                            self.phase = phase.unwrap_or_else(|error| Phase::Over(Outcome::Failed(error)));
                            continue;
                        }
                    },
                    Next::Outcome(outcome) => return Poll::Ready(RoundEvent::Outcome(outcome)),
                },
                Phase::Asking(round) => match ready!(round.poll(context)) {
                    Step::Ask(ask) => return Poll::Ready(RoundEvent::Event(Event::Ask(ask))),
                    Step::Withdrawn => return Poll::Ready(RoundEvent::Withdrawn),
                    Step::Refused(kind) => {
                        let outcome = refused(round.call.method, kind);
                        self.phase = Phase::Over(outcome); // which withdraws the questions that are still open
                        return Poll::Ready(RoundEvent::Withdrawn);
                    }
                    Step::Answered(responses) => Some(responses),
                },
                Phase::Pausing(pause, _) => {
                    ready!(pause.as_mut().poll(context));
                    None
                }
                Phase::Over(_) => None,
            };
            match std::mem::replace(&mut self.phase, Phase::Calling) {
                Phase::Asking(round) => return Poll::Ready(self.end_round(*round, responses)),
                Phase::Pausing(_, rest) => return Poll::Ready(self.redispatch(rest.0, None, rest.1)),
                Phase::Over(outcome) => return Poll::Ready(RoundEvent::Outcome(outcome)),
                Phase::Calling => {}
            }
        }
    }

    fn begin_round(&mut self, input: InputRequired) {
        self.phase = self.next_phase(input).unwrap_or_else(|error| Phase::Over(Outcome::Failed(error)));
    }

    fn next_phase(&mut self, mut input: InputRequired) -> Result<Phase, Error> {
        let deadline = self.deadline()?;
        let state = input.state();
        let questions = input
            .questions(&self.context.limits)
            .filter(|all| all.iter().all(is_known))
            .ok_or_else(unreadable)?;
        input.call.pin = Some(input.server.clone());
        if questions.is_empty() {
            // The server only wants to be called again later.
            let pause = self.pause;
            self.pause = (pause * 2).min(PAUSE_LAST);
            let sleep = Box::pin(sleep_until(deadline.min(Instant::now() + pause)));
            return Ok(Phase::Pausing(sleep, Box::new((input.call, state))));
        }
        self.count_round()?;
        let round = Round::new(input.call, Purpose::Input(state), questions, sleep_until(deadline));
        Ok(Phase::Asking(Box::new(round)))
    }

    /// When the last round ends; the first one sets it.
    fn deadline(&mut self) -> Result<Instant, Error> {
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert(now + self.context.timeout);
        if now >= deadline { Err(too_late()) } else { Ok(deadline) }
    }

    fn count_round(&mut self) -> Result<(), Error> {
        (self.asked, self.pause) = (self.asked + 1, PAUSE_FIRST);
        if self.asked > self.context.rounds_max {
            self.context.permits.metrics().hit(Bound::Rounds);
            return Err(too_many_rounds(self.context.rounds_max));
        }
        Ok(())
    }

    /// A round that sends the user to URLs; `None` where the error is another one, or calls are not made anew.
    fn begin_visits(&mut self, error: &Bytes) -> Option<Result<Phase, Error>> {
        let (reissue, visits) = (self.reissue.as_ref()?, reissue::urls(error)?);
        if !Capabilities::of(&reissue.client).has(Capabilities::URL) {
            return Some(Err(reissue::lacks_urls()));
        }
        let call = reissue.call(&self.context);
        Some(call.and_then(|call| self.visit_phase(call, &visits)))
    }

    fn visit_phase(&mut self, call: Call, visits: &[Visit]) -> Result<Phase, Error> {
        let deadline = self.deadline()?;
        let mut questions = Vec::new();
        for (index, visit) in visits.iter().enumerate() {
            let request = Message::scan(visit.request(), &self.context.limits).map_err(|_| unreadable())?;
            questions.push(Question { key: Visit::key(index).into(), kind: Kind::Elicitation, request });
        }
        self.count_round()?;
        let round = Round::new(call, Purpose::Visit, questions, sleep_until(deadline));
        Ok(Phase::Asking(Box::new(round)))
    }

    fn end_round(&mut self, round: Round, responses: Option<Bytes>) -> RoundEvent {
        let is_accepted = round.is_accepted();
        match round.purpose {
            Purpose::Input(state) => self.redispatch(round.call, responses, state),
            Purpose::Visit if is_accepted => self.dispatch(round.call),
            Purpose::Visit => RoundEvent::Outcome(reissue::declined(&round.call.request)),
        }
    }

    /// Sends the call again: the same params, the answers, and the server's own state or none.
    fn redispatch(&mut self, call: Call, responses: Option<Bytes>, state: Option<Bytes>) -> RoundEvent {
        match edited(call, responses, state, &self.context.limits) {
            Ok(call) => self.dispatch(call),
            Err(error) => RoundEvent::Outcome(Outcome::Failed(error)),
        }
    }

    fn dispatch(&mut self, call: Call) -> RoundEvent {
        self.reply = self.context.gateway.dispatch(call);
        self.reply.set_reader(self.reader);
        if self.is_detached {
            self.reply.detach();
        }
        RoundEvent::Redispatched
    }
}

impl Reissue {
    /// The call anew. Its bytes count; it is not counted as a call in flight, neither while the user visits a URL nor after
    /// that, as with the task's first call.
    fn call(&self, context: &RoundContext) -> Result<Call, Error> {
        let requester = &self.requester;
        let mut permit = context.permits.call(requester.caller.principal()).map_err(Bound::refusal)?;
        permit.hold_bytes(self.request.bytes().len()).map_err(Bound::refusal)?;
        permit.release();
        Ok(Call {
            caller: requester.caller.clone(),
            client: self.client.clone(),
            affinity: Affinity::Principal,
            scope: requester.scope.clone(),
            method: self.method,
            request: self.request.clone(),
            pin: None,
            rename: None,
            permit,
        })
    }
}

/// The same call with other answers and another state.
fn edited(
    mut call: Call,
    responses: Option<Bytes>,
    state: Option<Bytes>,
    limits: &Limits,
) -> Result<Call, Error> {
    let mut splice = Splice::new(call.request.bytes().clone());
    // The methods that may require input have params.
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
    call.permit.hold_bytes(text.len().saturating_sub(call.request.bytes().len())).map_err(Bound::refusal)?;
    call.request = Message::scan(text, limits).map_err(|_| {
        let message = "the client's answers cannot be relayed: they are nested too deeply";
        Error::new(error::Kind::InvalidParams, Blame::Downstream, message)
    })?;
    call.rename = None;
    Ok(call)
}

/// The outcome when the client refuses a question for which `inputResponses` has no refusal. For a tool it is a result,
/// which the model can act on; SDK clients do the same.
fn refused(method: Method, kind: Kind) -> Outcome {
    let message = format!(
        "the server asked this client for {}, which it did not provide; the call cannot continue without it",
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

fn is_known(question: &Question) -> bool {
    matches!(question.kind, Kind::Sampling | Kind::Roots | Kind::Elicitation)
}

fn unreadable() -> Error {
    let message = "the server requires input of a kind that no client can provide";
    Error::new(error::Kind::Protocol, Blame::Upstream, message)
}

fn too_late() -> Error {
    let message = "the client did not provide in time the input that the server requires";
    Error::new(error::Kind::Timeout, Blame::Downstream, message)
}

/// The first pause where a server only asks to be called again: most of what it waits for is done by then.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// The longest pause: what takes minutes may be noticed this much later.
const PAUSE_LAST: Duration = Duration::from_secs(5);
