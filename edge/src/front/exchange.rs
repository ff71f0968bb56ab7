//! One call in flight: waits for the reply and decides late between one JSON response and a stream.
//!
//! ```text
//!            outcome ────────────────────────▶ JSON
//! dispatched
//!            an event, or a long silence ────▶ stream ──events──▶ outcome ──▶ end
//! ```
//! Late, because a status cannot be taken back once a stream has begun, and one JSON response costs less
//! everywhere. What it means when a client leaves depends on its era (`exchange/waiting`).

mod session_call;
mod stateless_call;
mod waiting;

use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Response, StatusCode};
use tokio::time::{Instant, timeout_at};
use wire::Message;
use wire::id::RequestId;
use wire::mcp::level::Level;
use wire::mcp::method::Method;
use wire::splice::Parts;

use self::session_call::SessionCall;
use self::stateless_call::StatelessCall;
use self::waiting::{CallEvent, Downstream, Request, Waiting};
use super::Front;
use super::asks::park::{Parked, Parking};
use super::body::Body;
use super::door::media::Accepts;
use super::metrics::{Metrics, StreamKind};
use super::reply::Answer;
use super::requester::Requester;
use super::sse::{self, Feed};
use crate::call::{Call, EventReader};
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
    /// Terminal: the last message was taken.
    Over,
}

/// A retry that continues a parked call.
pub(super) struct Resumption {
    pub(super) id: RequestId,
    pub(super) requester: Requester,
    pub(super) parked: Parked,
    pub(super) permit: CallPermit,
}

/// When a stream begins, and what keeps it alive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) stream_after: Duration,
    /// For a stream that can be resumed from its first event on.
    pub(super) resumable_after: Duration,
    pub(super) keep_alive: Duration,
}

/// What is sent next.
enum Step {
    Message(Parts, Delivery),
    /// The last message.
    Last(Answer),
    /// Nothing more: the client itself cancelled the call. The answer is for a client that takes nothing but JSON.
    Cancelled(Answer),
}

impl Exchange {
    /// Dispatches a call of a session's client.
    pub(super) fn in_session(front: &Front, id: RequestId, call: Call, in_flight: InFlight) -> Self {
        let request = Request::of(&call, id);
        let reply = front.rooms.gateway.dispatch(call);
        let server = reply.server().cloned();
        let downstream = Downstream::Session(SessionCall::new(front, in_flight, reply));
        Self::waiting(Waiting::new(front, request, server, downstream))
    }

    /// Dispatches a call of a client without a session; `rounds` is how often its user was sent to a URL for it before.
    pub(super) fn stateless(front: &Front, id: RequestId, call: Call, rounds: usize) -> Self {
        let request = Request::of(&call, id);
        let parking = call.method.facts().may_ask.then(|| Parking::new(front, &call, rounds));
        let reply = front.rooms.gateway.dispatch(call);
        let server = reply.server().cloned();
        let downstream = Downstream::Stateless(StatelessCall::new(front, reply, parking));
        Self::waiting(Waiting::new(front, request, server, downstream))
    }

    /// Continues a call that was parked; `request` is the retry.
    pub(super) fn resume(
        front: &Front,
        (request, method): (&Message, Method),
        resumption: Resumption,
    ) -> Self {
        let Resumption { id, requester, parked, permit } = resumption;
        let Parked { inputs, reply, .. } = parked;
        let server = reply.server().cloned();
        let scope = requester.scope.clone();
        let parking = Parking::again(front, (request.bytes().clone(), method), requester, inputs);
        let call =
            StatelessCall::new(front, reply, Some(parking)).continued(permit, Level::wanted_by(request));
        let request = Request::new(request, method, scope, id);
        Self::waiting(Waiting::new(front, request, server, Downstream::Stateless(call)))
    }

    fn waiting(waiting: Waiting) -> Self {
        Self { first: None, state: State::Waiting(Box::new(waiting)) }
    }

    /// The response, once it is known which.
    pub(super) async fn respond(mut self, accepts: Accepts, pace: Pace, metrics: &Metrics) -> Response<Body> {
        let step = if accepts.events {
            self.first_step(pace).await
        } else {
            self.send_outcome_only();
            Some(poll_fn(|context| self.poll_step(context)).await)
        };
        match step {
            None => {}
            Some(Step::Message(message, delivery)) => self.first = Some((message, delivery)),
            // An error with a status of its own is JSON in any case: nothing of a stream was promised yet.
            Some(Step::Last(answer)) if !accepts.json && answer.status == StatusCode::OK => {
                return sse::single(&answer.message);
            }
            Some(Step::Cancelled(_)) if accepts.events => return sse::empty(),
            Some(Step::Last(answer) | Step::Cancelled(answer)) => return answer.into_json(),
        }
        let count = metrics.stream(StreamKind::Call);
        let (primed, feed) = self.into_feed();
        sse::response(primed, feed, pace.keep_alive, count)
    }

    /// What comes first; `None` when it is time to begin a stream without it.
    async fn first_step(&mut self, pace: Pace) -> Option<Step> {
        let ends = Instant::now() + pace.stream_after;
        // A timer that is due before all others wakes the runtime: only calls that need it get it.
        let pause = if self.is_resumable() { pace.resumable_after } else { pace.stream_after };
        loop {
            let look = ends.min(Instant::now() + pause);
            // Cancel-safe: what was not returned stays where it is.
            match timeout_at(look, poll_fn(|context| self.poll_step(context))).await {
                Ok(step) => return Some(step),
                Err(_) if look == ends || self.is_better_streamed() => return None,
                Err(_) => {}
            }
        }
    }

    /// Whether its client could resume a stream of it.
    fn is_resumable(&self) -> bool {
        self.session_call().is_some_and(SessionCall::is_resumable)
    }

    /// Whether a stream that its client can resume may begin: no error with a status of its own is to be expected.
    fn is_better_streamed(&self) -> bool {
        self.session_call().is_some_and(|call| call.is_resumable() && call.is_under_way())
    }

    fn session_call(&self) -> Option<&SessionCall> {
        match &self.state {
            State::Waiting(waiting) => waiting.session_call(),
            State::Over => None,
        }
    }

    /// The priming event, for a stream that can be resumed, and the messages to come.
    fn into_feed(self) -> (Option<Parts>, Feed) {
        let State::Waiting(waiting) = &self.state else { return (None, Feed::Plain(Box::new(self))) };
        let Some(call) = waiting.session_call() else { return (None, Feed::Plain(Box::new(self))) };
        let (session, drain, lost) = (call.session().clone(), call.drain().clone(), waiting.lost());
        let is_resumable = call.is_resumable();
        let reader = session.stream(Box::new(self), drain, lost);
        (is_resumable.then(|| sse::priming(&reader)), Feed::Kept(reader))
    }

    /// The last message alone, without a stream; `None` for a call that its client cancelled.
    pub(super) async fn answer(mut self) -> Option<Parts> {
        self.send_outcome_only();
        loop {
            match poll_fn(|context| self.poll_next(context)).await {
                Said::Message(..) => {}
                Said::Last(message) => return Some(message),
                Said::End => return None,
            }
        }
    }

    fn send_outcome_only(&mut self) {
        if let State::Waiting(waiting) = &mut self.state {
            waiting.send_outcome_only();
        }
    }

    fn poll_step(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        let State::Waiting(waiting) = &mut self.state else { return Poll::Pending };
        let end = match ready!(waiting.poll(context)) {
            CallEvent::Message(message, delivery) => return Poll::Ready(Step::Message(message, delivery)),
            CallEvent::End(end) => end,
        };
        // Recorded and given back now, and not when the client has read the last byte.
        match std::mem::replace(&mut self.state, State::Over) {
            State::Waiting(waiting) => Poll::Ready(waiting.finish(end)),
            State::Over => Poll::Pending,
        }
    }
}

impl Source for Exchange {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Said> {
        if let Some((message, delivery)) = self.first.take() {
            return Poll::Ready(Said::Message(message, delivery));
        }
        if matches!(self.state, State::Over) {
            return Poll::Ready(Said::End);
        }
        self.poll_step(context).map(|step| match step {
            Step::Message(message, delivery) => Said::Message(message, delivery),
            Step::Last(answer) => Said::Last(answer.message),
            // MCP 2025-11-25 basic/utilities/cancellation: no response to a cancelled request
            Step::Cancelled(_) => Said::End,
        })
    }

    fn set_reader(&mut self, reader: EventReader) {
        if let State::Waiting(waiting) = &mut self.state {
            waiting.set_reader(reader);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let State::Waiting(waiting) = std::mem::replace(&mut self.state, State::Over) else { return };
        let Some(call) = waiting.session_call() else { return };
        // A runtime that is going down drops its tasks; there is nothing left to run the call then.
        if tokio::runtime::Handle::try_current().is_ok() {
            let drain = call.drain().clone();
            drain.clone().spawn(waiting.finish_alone(drain));
        }
    }
}
