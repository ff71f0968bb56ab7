//! Rounds of a call: what a modern server wants first is asked of a client that has a session, and the call is
//! sent again with the answers.
//!
//! ```text
//!           input required                  all answered, or the time is over
//!  Calling ────────────────▶ Asking ─────────────────────────────────────────▶ Calling
//!     │                         └─ refused where there is no word for a no ──▶ Over
//!     ├─ with a state alone ──▶ Resting ── a pause ──────────────────────────▶ Calling
//!     └─ a round too many, or nothing that can be asked ─────────────────────▶ Over (terminal)
//! ```
//! Guarantees: the server gets its state back byte for byte, and an answer to each of its keys; rounds are
//! bounded in number and in time; a call takes room once, for all of its rounds. What is not here: how a
//! question is put to a client and answered (`questions`, `session/ask`).
// MCP 2026-07-28 basic/patterns/mrtr

use std::collections::VecDeque;
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
use crate::call::{Answer, Answered, Ask, Call, InputRequired, Outcome, Reply};
use crate::error::{self, Blame, Error};
use crate::permit::{Bound, Permits};
use crate::router::Gateway;
use crate::seal::Sealer;

/// What the rounds of all calls have in common.
pub(in crate::front) struct Terms {
    pub(in crate::front) gateway: Arc<dyn Gateway>,
    pub(in crate::front) limits: Limits,
    /// Rounds of one call that ask something.
    pub(in crate::front) rounds: usize,
    /// All rounds of one call together, from the first question on.
    pub(in crate::front) time: Duration,
    pub(in crate::front) permits: Permits,
    /// For clients that make their rounds themselves.
    pub(in crate::front) sealer: Sealer,
}

/// The rounds of one call. It begins [`Phase::Calling`].
pub(in crate::front) struct Rounds {
    terms: Arc<Terms>,
    phase: Phase,
    asked: usize,
    pause: Duration,
    /// The end of all rounds, once there was a first.
    ends: Option<Instant>,
}

/// See the drawing above.
enum Phase {
    Calling,
    Asking(Box<Round>),
    Resting(Pin<Box<Sleep>>, Box<(Call, Option<Bytes>)>),
    /// Terminal.
    Over(Outcome),
}

/// One round that asks something.
struct Round {
    call: Call,
    state: Option<Bytes>,
    wanted: Vec<Wanted>,
    /// Not put to the client yet.
    asks: VecDeque<Ask>,
    answers: Arc<Answers>,
    /// Takes all questions back, also when the round is dropped.
    withdrawn: DropGuard,
    /// `None` once it was ready.
    wait: Option<Pin<Box<Sleep>>>,
}

/// What is wanted under one key.
struct Wanted {
    /// The server's own, a JSON string as it stands.
    key: Bytes,
    kind: Kind,
}

/// What happens next.
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart at once; a box would cost an allocation each"
)]
pub(in crate::front) enum Turn {
    /// This is to be asked.
    Ask(Ask),
    /// Questions were taken back.
    Withdrawn,
    /// The call was sent again.
    Again(Reply),
    /// The call ends so.
    Over(Outcome),
}

impl Rounds {
    /// Of a call that was sent for the first time.
    pub(in crate::front) fn new(terms: Arc<Terms>) -> Self {
        Self { terms, phase: Phase::Calling, asked: 0, pause: PAUSE_FIRST, ends: None }
    }

    /// Whether the server has the call now.
    pub(in crate::front) fn is_calling(&self) -> bool {
        matches!(self.phase, Phase::Calling)
    }

    /// The server wants something first.
    pub(in crate::front) fn begin(&mut self, input: InputRequired) {
        self.phase = self.next(input).unwrap_or_else(|error| Phase::Over(Outcome::Failed(error)));
    }

    fn next(&mut self, mut input: InputRequired) -> Result<Phase, Error> {
        let now = Instant::now();
        let ends = *self.ends.get_or_insert(now + self.terms.time);
        if now >= ends {
            return Err(too_late());
        }
        let state = input.state();
        let requests = requests(&input, &self.terms.limits).ok_or_else(unreadable)?;
        input.call.pin = Some(input.server.clone());
        if requests.is_empty() {
            // It asks for timeout alone.
            let pause = self.pause;
            self.pause = (pause * 2).min(PAUSE_LAST);
            let wait = Box::pin(sleep_until(ends.min(now + pause)));
            return Ok(Phase::Resting(wait, Box::new((input.call, state))));
        }
        (self.asked, self.pause) = (self.asked + 1, PAUSE_FIRST);
        if self.asked > self.terms.rounds {
            self.terms.permits.metrics().hit(Bound::Rounds);
            return Err(too_many_rounds(self.terms.rounds));
        }
        let wait = Box::pin(sleep_until(ends));
        Ok(Phase::Asking(Box::new(Round::new(input.call, state, requests, wait))))
    }

    /// The next turn of a call that no server has now.
    pub(in crate::front) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Turn> {
        let retry = match &mut self.phase {
            Phase::Calling | Phase::Over(_) => None,
            Phase::Asking(round) => match ready!(round.poll(context)) {
                Progress::Ask(ask) => return Poll::Ready(Turn::Ask(ask)),
                Progress::Withdrawn => return Poll::Ready(Turn::Withdrawn),
                Progress::Refused(kind) => {
                    round.withdrawn.token().cancel();
                    self.phase = Phase::Over(refused(round.call.method, kind));
                    // First the questions that are still open are taken back.
                    return Poll::Ready(Turn::Withdrawn);
                }
                Progress::Answered(responses) => Some(responses),
            },
            Phase::Resting(wait, _) => {
                ready!(wait.as_mut().poll(context));
                None
            }
        };
        Poll::Ready(match std::mem::replace(&mut self.phase, Phase::Calling) {
            Phase::Asking(round) => self.again(round.call, retry, round.state),
            Phase::Resting(_, rest) => self.again(rest.0, None, rest.1),
            Phase::Over(outcome) => Turn::Over(outcome),
            Phase::Calling => Turn::Withdrawn, // nobody asks for this
        })
    }

    /// Sends the call again: the same params, the answers, and the server's own state or none.
    fn again(&self, call: Call, responses: Option<Bytes>, state: Option<Bytes>) -> Turn {
        match edited(call, responses, state, &self.terms.limits) {
            Ok(call) => Turn::Again(self.terms.gateway.dispatch(call)),
            Err(error) => Turn::Over(Outcome::Failed(error)),
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
        wait: Pin<Box<Sleep>>,
    ) -> Self {
        let answers = Arc::new(Answers::new(requests.len()));
        let withdrawn = CancellationToken::new();
        let (mut wanted, mut asks) = (Vec::new(), VecDeque::new());
        for ((key, kind, request), token) in requests.into_iter().zip(0..) {
            wanted.push(Wanted { key, kind });
            asks.push_back(Ask::new(kind, request, withdrawn.clone(), answers.clone(), token));
        }
        Self { call, state, wanted, asks, answers, withdrawn: withdrawn.drop_guard(), wait: Some(wait) }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Progress> {
        if let Some(ask) = self.asks.pop_front() {
            return Poll::Ready(Progress::Ask(ask));
        }
        if let Some(wait) = &mut self.wait
            && wait.as_mut().poll(context).is_ready()
        {
            self.wait = None;
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
    call.permit.hold_bytes(text.len().saturating_sub(call.request.bytes().len())).map_err(Bound::refusal)?;
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
