//! One call on its way back: waits for the reply and decides late between one JSON response and a stream.
//!
//! ```text
//!            outcome ────────────────────────▶ JSON
//! dispatched
//!            an event, or a long silence ────▶ stream ──events──▶ outcome ──▶ end
//! ```
//! Late, because a status cannot be taken back once a stream has begun, and one JSON response costs less
//! everywhere. What a client's leaving means is the era's business, said by [`Tie`].

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::time::{Instant, timeout_at};
use wire::id::RequestId;
use wire::mcp::meta;
use wire::mcp::method::Method;
use wire::mcp::version::ProtocolVersion;
use wire::splice::{Parts, Splice};
use wire::{Era, Message};

use super::Front;
use super::asks::park::{Due, Parked, Parking};
use super::asks::questions::Questions;
use super::asks::reissue::Verdict;
use super::asks::relay;
use super::asks::rounds::{self, Rounds, Turn};
use super::asks::steps::Steps;
use super::body::Body;
use super::door::media::Accepts;
use super::downgrade;
use super::metrics::{Metrics, Record, StreamKind, Subject};
use super::reply::{Answer, Manner};
use super::sse::{self, Feed};
use crate::call::{Call, Caller, Event, Next, Outcome, Reply, ServerName};
use crate::error::{Blame, Error, Kind};
use crate::ops::drain::DrainWatch;
use crate::permit::CallPermit;
use crate::session::replay::Delivery;
use crate::session::{InFlight, Said, Source};

/// A call whose client waits.
pub(super) struct Exchange {
    /// What turned the response into a stream.
    first: Option<(Parts, Delivery)>,
    state: State,
}

enum State {
    Waiting(Box<Waiting>),
    /// Terminal: the outcome was taken.
    Over,
}

/// See [`Exchange`].
struct Waiting {
    reply: Reply,
    id: RequestId,
    /// The client's own progress token as JSON; without one it wants no progress.
    progress_token: Option<Bytes>,
    manner: Manner,
    record: Record,
    tie: Tie,
    /// Whether success has no content.
    empty: bool,
    /// Whether the client hears what comes before the outcome.
    heard: bool,
    /// What was asked in the course of the call of a session.
    questions: Option<Questions>,
    /// The same for a client without one, whose call can be parked.
    parking: Option<Parking>,
    /// Room for a call that was parked, which gave its own back.
    _room: Option<CallPermit>,
    terms: Arc<rounds::Terms>,
    /// Once a server wanted something first.
    rounds: Option<Box<Rounds>>,
    steps: Steps,
}

/// A request that takes up a parked call.
pub(super) struct Resumption {
    pub(super) id: RequestId,
    pub(super) caller: Caller,
    pub(super) scope: Option<ServerName>,
    pub(super) parked: Parked,
    pub(super) room: CallPermit,
}

/// What holds a call to its client.
pub(super) enum Tie {
    /// The response itself: when the client closes it, the call is cancelled.
    // MCP 2026-07-28 streamable-http, Cancellation
    /// With how often the call was asked for before, because its user had to go somewhere first.
    Response(usize),
    /// The session: the call goes on when the response breaks, until it ends or is cancelled by a message.
    // MCP 2025-11-25 basic/transports: a disconnection is not a cancellation
    Session(InFlight, DrainWatch),
}

impl Tie {
    /// The session's revision.
    fn version(&self) -> Option<ProtocolVersion> {
        if let Self::Session(call, _) = self { Some(call.session().version()) } else { None }
    }

    /// Whether the stream begins with an event that tells where to resume.
    // MCP 2025-11-25 basic/transports; parsers of older clients stumble over empty data
    fn primes(&self) -> bool {
        self.version() >= Some(ProtocolVersion::V2025_11_25)
    }
}

/// When a stream begins, and what keeps it alive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) stream_after: Duration,
    /// Where the stream tells at once how to come back to it.
    pub(super) resumable_after: Duration,
    pub(super) keep_alive: Duration,
}

enum Step {
    Message(Parts, Delivery),
    End(Answer),
    /// The call goes on without this exchange.
    Leave(Due),
    /// The client itself cancelled the call.
    Cancelled(Answer),
}

impl Waiting {
    /// A call that was dispatched at `started`, as most are: without progress, and of a client that is asked nothing.
    fn new(
        front: &Front,
        (era, method, id): (Era, Method, RequestId),
        (reply, scope): (Reply, Option<ServerName>),
        tie: Tie,
        started: Instant,
    ) -> Self {
        let server = reply.server().cloned().or(scope);
        let subject = Subject { era, method, server: server.clone(), log: front.config.log_calls, started };
        let questions = match &tie {
            Tie::Response(_) => None,
            Tie::Session(in_flight, _) => Some(Questions::new(in_flight.session().clone())),
        };
        Self {
            reply,
            id,
            progress_token: None,
            manner: Manner { era, server },
            record: Record::start(&front.rooms.metrics, subject),
            tie,
            empty: era == Era::Legacy && is_empty(method),
            heard: true,
            questions,
            parking: None,
            _room: None,
            terms: front.rounds.clone(),
            rounds: None,
            steps: Steps::default(),
        }
    }
}

/// The client's progress token in a request.
fn progress_token(request: &Message) -> Option<Bytes> {
    request.meta_value(meta::PROGRESS_TOKEN).map(|token| token.span().slice(request.bytes()))
}

/// Methods whose result is an empty object. SDK clients of the legacy era refuse one that has members, as the
/// canonical form's has.
// MCP 2025-11-25 schema, EmptyResult
fn is_empty(method: Method) -> bool {
    matches!(method, Method::SetLevel | Method::ResourcesSubscribe | Method::ResourcesUnsubscribe)
}

impl Exchange {
    /// Sends a call on its way; `id` and `era` are the client's.
    pub(super) fn start(front: &Front, (era, id): (Era, RequestId), call: Call, tie: Tie) -> Self {
        let (method, scope, started) = (call.method, call.scope.clone(), Instant::now());
        let progress_token = progress_token(&call.request);
        let parking = match tie {
            Tie::Response(rounds) if method.facts().may_ask => Some(Parking::new(front, &call, rounds)),
            Tie::Response(_) | Tie::Session(..) => None,
        };
        let reply = front.rooms.gateway.dispatch(call);
        let waiting = Waiting::new(front, (era, method, id), (reply, scope), tie, started);
        Self::waiting(Waiting { progress_token, parking, ..waiting })
    }

    /// Goes on with a call that was parked; `request` took it up.
    pub(super) fn resume(
        front: &Front,
        (request, method): (&Message, Method),
        resumption: Resumption,
    ) -> Self {
        let Resumption { id, caller, scope, parked, room } = resumption;
        let Parked { inputs, reply, .. } = parked;
        let (call, tie) = ((Era::Modern, method, id), Tie::Response(0));
        let waiting = Waiting::new(front, call, (reply, scope.clone()), tie, Instant::now());
        let parking = Some(Parking::again(front, request.bytes().clone(), (caller, scope), inputs));
        let (progress_token, _room) = (progress_token(request), Some(room));
        Self::waiting(Waiting { progress_token, parking, _room, ..waiting })
    }

    fn waiting(waiting: Waiting) -> Self {
        Self { first: None, state: State::Waiting(Box::new(waiting)) }
    }

    /// The response, once it is known which.
    pub(super) async fn respond(mut self, accepts: Accepts, pace: Pace, metrics: &Metrics) -> Response<Body> {
        if let State::Waiting(waiting) = &mut self.state {
            waiting.heard = accepts.events;
        }
        let step = if accepts.events {
            self.first_step(pace).await
        } else {
            Some(poll_fn(|context| self.poll_step(context)).await)
        };
        match step {
            None | Some(Step::Leave(_)) => {} // of that `poll_step` has made an end
            Some(Step::Message(message, weight)) => self.first = Some((message, weight)),
            // An error with a status of its own is JSON in any case: nothing of a stream was promised yet.
            Some(Step::End(answer)) if !accepts.json && answer.status == StatusCode::OK => {
                return sse::single(&answer.message);
            }
            Some(Step::Cancelled(_)) if accepts.events => return sse::empty(),
            Some(Step::End(answer) | Step::Cancelled(answer)) => return answer.into_json(),
        }
        let count = metrics.stream(StreamKind::Call);
        let (primed, feed) = self.into_feed();
        sse::response(primed, feed, pace.keep_alive, count)
    }

    /// What comes first; `None` when it is time to begin a stream without it.
    async fn first_step(&mut self, pace: Pace) -> Option<Step> {
        let ends = Instant::now() + pace.stream_after;
        // A timer that is due before all others rouses the runtime: only calls that need it have it.
        let pause = if self.can_be_kept() { pace.resumable_after } else { pace.stream_after };
        loop {
            let look = ends.min(Instant::now() + pause);
            // Cancel-safe: what was not returned stays where it is.
            match timeout_at(look, poll_fn(|context| self.poll_step(context))).await {
                Ok(step) => return Some(step),
                Err(_) if look == ends || self.is_better_kept() => return None,
                Err(_) => {}
            }
        }
    }

    /// Whether its client could come back to a stream of it.
    fn can_be_kept(&self) -> bool {
        matches!(&self.state, State::Waiting(waiting) if waiting.tie.primes())
    }

    /// The same, and no status is to be expected any more.
    fn is_better_kept(&self) -> bool {
        self.can_be_kept() && matches!(&self.state, State::Waiting(waiting) if waiting.reply.is_under_way())
    }

    /// How the messages to come reach the client; and before them what tells it where to resume.
    fn into_feed(self) -> (Option<Parts>, Feed) {
        let State::Waiting(waiting) = &self.state else { return (None, Feed::Plain(Box::new(self))) };
        let Tie::Session(in_flight, drain) = &waiting.tie else { return (None, Feed::Plain(Box::new(self))) };
        let (session, drain, lost) = (in_flight.session().clone(), drain.clone(), waiting.lost());
        let primes = waiting.tie.primes();
        let reader = session.stream(Box::new(self), drain, lost);
        (primes.then(|| sse::priming(&reader)), Feed::Kept(reader))
    }

    /// The last message alone, without a stream; `None` for a call that its client cancelled.
    pub(super) async fn answer(mut self) -> Option<Parts> {
        if let State::Waiting(waiting) = &mut self.state {
            waiting.heard = false;
        }
        loop {
            match poll_fn(|context| self.poll_next(context)).await {
                Said::Message(..) => {}
                Said::Last(message) => return Some(message),
                Said::End => return None,
            }
        }
    }

    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        let State::Waiting(waiting) = &mut self.state else { return Poll::Pending };
        let step = ready!(waiting.poll_step(context));
        if matches!(step, Step::Message(..)) {
            return Poll::Ready(step);
        }
        // Booked and given back now, and not when the client has read the last byte.
        match (step, std::mem::replace(&mut self.state, State::Over)) {
            (Step::Leave(due), State::Waiting(waiting)) => Poll::Ready(Step::End(waiting.leave(due))),
            (step, _) => Poll::Ready(step),
        }
    }
}

impl Source for Exchange {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Said> {
        if let Some((message, weight)) = self.first.take() {
            return Poll::Ready(Said::Message(message, weight));
        }
        if matches!(self.state, State::Over) {
            return Poll::Ready(Said::End);
        }
        self.poll_step(context).map(|step| match step {
            Step::Message(message, weight) => Said::Message(message, weight),
            Step::End(answer) => Said::Last(answer.message),
            // MCP 2025-11-25 basic/utilities/cancellation: no response to a cancelled request
            Step::Cancelled(_) | Step::Leave(_) => Said::End,
        })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let State::Waiting(waiting) = std::mem::replace(&mut self.state, State::Over) else { return };
        let Tie::Session(_, drain) = &waiting.tie else { return };
        // A runtime that is going down drops its tasks; there is nothing left to run the call then.
        if tokio::runtime::Handle::try_current().is_ok() {
            drain.clone().spawn(waiting.finish_alone());
        }
    }
}

impl Waiting {
    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        if let Tie::Session(in_flight, _) = &mut self.tie
            && in_flight.poll_cancelled(context).is_ready()
        {
            return Poll::Ready(self.cancelled());
        }
        loop {
            if let Some(questions) = &mut self.questions
                && let Poll::Ready(message) = questions.poll_withdrawn(context)
            {
                return Poll::Ready(Step::Message(message, Delivery::Required));
            }
            let next = match self.rounds.as_mut().filter(|rounds| !rounds.is_calling()) {
                Some(rounds) => match ready!(rounds.poll(context)) {
                    Turn::Ask(ask) => Next::Event(Event::Ask(ask)),
                    Turn::Over(outcome) => Next::Outcome(outcome),
                    Turn::Again(reply) => {
                        self.reply = reply;
                        self.steps.restart();
                        continue;
                    }
                    Turn::Withdrawn => continue,
                },
                None => match self.reply.poll_next(context) {
                    Poll::Ready(next) => next,
                    Poll::Pending => {
                        let due = self.parking.as_mut().map(|parking| parking.poll_due(context));
                        return due.unwrap_or(Poll::Pending).map(Step::Leave);
                    }
                },
            };
            let message = match (next, &self.tie) {
                (Next::Event(event), _) => self.event(event),
                (Next::Outcome(Outcome::InputRequired(input)), Tie::Session(..)) => {
                    let rounds = self.rounds.get_or_insert_with(|| Box::new(Rounds::new(self.terms.clone())));
                    rounds.begin(*input);
                    continue;
                }
                (Next::Outcome(Outcome::InputRequired(input)), Tie::Response(_)) => {
                    let outcome = relay::wrap(&self.terms.sealer, &input);
                    drop(input); // and the room of its call: the next round is another request
                    let Outcome::Result(result) = outcome else { return Poll::Ready(self.end(outcome)) };
                    let answer = self.manner.asking(&self.id, result);
                    self.record.end(answer.ending);
                    return Poll::Ready(Step::End(answer));
                }
                (Next::Outcome(outcome), _) => return Poll::Ready(self.end(outcome)),
            };
            if let Some((message, weight)) = message {
                return Poll::Ready(Step::Message(message, weight));
            }
        }
    }

    fn end(&mut self, outcome: Outcome) -> Step {
        let outcome = match outcome {
            Outcome::Result(_) if self.empty => Outcome::Result(Bytes::from_static(b"{}").into()),
            other => match self.tie.version() {
                Some(version) => downgrade::outcome((self.record.method(), version), other, &self.terms),
                None => other,
            },
        };
        let answer = self.answer(outcome);
        self.record.end(answer.ending);
        Step::End(answer)
    }

    fn answer(&self, outcome: Outcome) -> Answer {
        let (id, manner) = (&self.id, &self.manner);
        let visits = match (&outcome, &self.parking) {
            (Outcome::Refused(error), Some(parking)) => parking.visits(error),
            _ => None,
        };
        match visits {
            None => manner.answer(id, outcome),
            Some(Verdict::Ask(result)) => manner.asking(id, result),
            Some(Verdict::Told(error)) => manner.answer(id, Outcome::Refused(error.to_bytes())),
            Some(Verdict::Failed(error)) => manner.failed(id, &error),
        }
    }

    /// What the client hears of it. An ask that it does not hear is dropped, which refuses it.
    fn event(&mut self, event: Event) -> Option<(Parts, Delivery)> {
        let event = match (event, &mut self.parking) {
            (Event::Ask(ask), Some(parking)) => {
                parking.inputs.put(ask);
                return None;
            }
            (event, _) => event,
        };
        if !self.heard {
            return None;
        }
        match event {
            Event::Progress(message) => Some((self.progress(&message)?, Delivery::BestEffort)),
            Event::Notice(_, message) => Some((message.bytes().clone().into(), Delivery::Required)),
            Event::Ask(ask) => Some((self.questions.as_mut()?.put(ask)?, Delivery::Required)),
        }
    }

    /// The client knows only its own token.
    // MCP 2025-11-25 basic/utilities/progress: the token comes back as it was sent
    fn progress(&mut self, message: &Message) -> Option<Parts> {
        let token = self.progress_token.clone()?;
        let span = message.param(meta::PROGRESS_TOKEN)?.span();
        let mut splice = Splice::new(message.bytes().clone());
        splice.replace(span, token);
        let rises = self.questions.is_none() || self.steps.edit(message, &mut splice);
        rises.then(|| splice.finish())
    }

    /// Lets the call go on without a client that waits; the answer that tells it how to come back.
    fn leave(self, due: Due) -> Answer {
        let Self { reply, id, manner, mut record, parking, .. } = self;
        let lost = || Error::new(Kind::Lost, Blame::Edge, "the call cannot wait for its client");
        let left = parking.ok_or_else(lost).and_then(|parking| match due {
            Due::Park => parking.park(reply),
            Due::Task => parking.adopt(reply, manner.clone()),
        });
        let answer = match (left, due) {
            (Ok(result), Due::Park) => manner.asking(&id, result),
            (Ok(result), Due::Task) => manner.answer(&id, Outcome::Result(result)),
            (Err(error), _) => manner.failed(&id, &error),
        };
        record.end(answer.ending);
        answer
    }

    /// The client has cancelled the call, or its session has ended before it did, which the client has to hear.
    fn cancelled(&mut self) -> Step {
        let ended = match &self.tie {
            Tie::Session(in_flight, drain) if in_flight.session_ended() => Some(drain.is_cut()),
            Tie::Session(..) | Tie::Response(_) => None,
        };
        let error = match ended {
            None => Error::new(Kind::Cancelled, Blame::Downstream, "the client cancelled the call"),
            Some(false) => {
                Error::new(Kind::Cancelled, Blame::Downstream, "the session ended before the call did")
            }
            Some(true) => Error::new(Kind::Draining, Blame::Edge, "this gateway is stopping; connect again"),
        };
        let answer = self.manner.failed(&self.id, &error);
        self.record.end(answer.ending);
        if ended.is_some() { Step::End(answer) } else { Step::Cancelled(answer) }
    }

    /// What a client hears that comes back too late. An answer, because SDK clients do not take the refusal of
    /// a resumption as the end of their request, but wait on until their own time-out.
    fn lost(&self) -> Bytes {
        let message = "the connection broke, and what came meanwhile is no longer kept";
        self.manner.failed(&self.id, &Error::new(Kind::Lost, Blame::Downstream, message)).message.into_bytes()
    }

    /// The client has left before there was anything to come back to; the call goes on.
    async fn finish_alone(mut self: Box<Self>) {
        let Tie::Session(_, drain) = &self.tie else { return };
        let drain = drain.clone();
        (self.heard, self.questions) = (false, None);
        let to_its_end =
            async { while let Step::Message(..) = poll_fn(|context| self.poll_step(context)).await {} };
        tokio::select! {
            () = to_its_end => {}
            () = drain.cut() => {}
        }
    }
}
