//! What the calls of clients with and without a session have in common: their request, and how they end.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::Instant;
use wire::id::RequestId;
use wire::mcp::meta;
use wire::mcp::method::Method;
use wire::splice::Parts;
use wire::{Era, Message};

use super::Step;
use super::session_call::SessionCall;
use super::stateless_call::StatelessCall;
use crate::call::{Call, EventReader, Outcome, ServerName};
use crate::error::{Blame, Error, Kind};
use crate::front::Front;
use crate::front::asks::park::Detachment;
use crate::front::metrics::{Record, Subject};
use crate::front::reply::ResponseEncoding;
use crate::ops::drain::DrainWatch;
use crate::session::replay::Delivery;

/// A call in flight.
pub(super) struct Waiting {
    id: RequestId,
    /// The client's own progress token as JSON; without one it gets no progress.
    progress_token: Option<Bytes>,
    encoding: ResponseEncoding,
    record: Record,
    downstream: Downstream,
}

/// What ties a call to its client.
pub(super) enum Downstream {
    /// The session: the call continues when the response breaks, until it ends or is cancelled by a message.
    // MCP 2025-11-25 basic/transports: a disconnection is not a cancellation
    Session(SessionCall),
    /// The response: when the client closes it, the call is cancelled.
    // MCP 2026-07-28 streamable-http, Cancellation
    Stateless(StatelessCall),
}

/// What comes of a call next.
pub(super) enum CallEvent {
    /// A message of the stream; more follows.
    Message(Parts, Delivery),
    /// The end of the exchange; nothing follows.
    End(CallEnd),
}

/// How an exchange ends.
pub(super) enum CallEnd {
    Outcome(Outcome),
    /// The result that asks a client without a session for input; its retry is another request.
    InputRequired(Parts),
    /// The call continues without this exchange: parked, or as a task.
    Detached(Detachment),
    Cancelled(Cancelled),
}

/// Who ended a call before its server did.
pub(super) enum Cancelled {
    /// The client, which wants no answer.
    ByClient,
    /// The end of its session, which the client is told.
    WithSession,
    /// The end of the process, which the client is told as well.
    ByCut,
}

/// What is kept of a request while its call is in flight.
pub(super) struct Request {
    id: RequestId,
    method: Method,
    scope: Option<ServerName>,
    progress_token: Option<Bytes>,
    started: Instant,
}

impl Request {
    pub(super) fn of(call: &Call, id: RequestId) -> Self {
        Self::new(&call.request, call.method, call.scope.clone(), id)
    }

    pub(super) fn new(request: &Message, method: Method, scope: Option<ServerName>, id: RequestId) -> Self {
        let token = request.meta_value(meta::PROGRESS_TOKEN);
        let progress_token = token.map(|token| token.span().slice(request.bytes()));
        Self { id, method, scope, progress_token, started: Instant::now() }
    }
}

impl Waiting {
    /// A call that is answered by `server`, where one alone does.
    pub(super) fn new(
        front: &Front,
        request: Request,
        server: Option<ServerName>,
        downstream: Downstream,
    ) -> Self {
        let Request { id, method, scope, progress_token, started } = request;
        let (era, server) = (downstream.era(), server.or(scope));
        let subject = Subject { era, method, server: server.clone(), log: front.config.log_calls, started };
        let record = Record::start(&front.rooms.metrics, subject);
        Self { id, progress_token, encoding: ResponseEncoding { era, server }, record, downstream }
    }

    pub(super) fn session_call(&self) -> Option<&SessionCall> {
        match &self.downstream {
            Downstream::Session(call) => Some(call),
            Downstream::Stateless(_) => None,
        }
    }

    /// The client takes the outcome alone, and no stream.
    pub(super) fn send_outcome_only(&mut self) {
        match &mut self.downstream {
            Downstream::Session(call) => call.set_reader(EventReader::Unwanted),
            Downstream::Stateless(call) => call.send_outcome_only(),
        }
    }

    /// Says whether the client reads the stream from now on. Without a session nothing reads on in its place.
    pub(super) fn set_reader(&mut self, reader: EventReader) {
        if let Downstream::Session(call) = &mut self.downstream {
            call.set_reader(reader);
        }
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<CallEvent> {
        let token = self.progress_token.as_ref();
        match &mut self.downstream {
            Downstream::Session(call) => call.poll(context, token),
            Downstream::Stateless(call) => call.poll(context, token),
        }
    }

    /// The last step of the exchange.
    pub(super) fn finish(self: Box<Self>, end: CallEnd) -> Step {
        let Self { id, encoding, mut record, downstream, .. } = *self;
        let is_silent = matches!(end, CallEnd::Cancelled(Cancelled::ByClient));
        let answer = match (end, downstream) {
            (CallEnd::Outcome(outcome), Downstream::Session(call)) => {
                encoding.answer(&id, call.downgrade(record.method(), outcome))
            }
            (CallEnd::Outcome(outcome), Downstream::Stateless(call)) => call.answer(&encoding, &id, outcome),
            (CallEnd::Detached(detachment), Downstream::Stateless(call)) => {
                call.detach(detachment, &encoding, &id)
            }
            (CallEnd::InputRequired(result), _) => encoding.input_required(&id, result),
            (CallEnd::Cancelled(cancelled), _) => encoding.failed(&id, &cancelled.error()),
            (CallEnd::Detached(_), Downstream::Session(_)) => encoding.failed(&id, &undetachable()),
        };
        record.end(answer.ending);
        if is_silent { Step::Cancelled(answer) } else { Step::Last(answer) }
    }

    /// What a client gets that resumes too late. An answer, because SDK clients do not take the refusal of
    /// a resumption as the end of their request, but wait on until their own timeout.
    pub(super) fn lost(&self) -> Bytes {
        let message = "the connection broke, and what came meanwhile is no longer kept";
        let error = Error::new(Kind::Lost, Blame::Downstream, message);
        self.encoding.failed(&self.id, &error).message.into_bytes()
    }

    /// Runs a call to its end whose client left before there was a stream to resume.
    pub(super) async fn finish_alone(mut self: Box<Self>, drain: DrainWatch) {
        if let Downstream::Session(call) = &mut self.downstream {
            call.set_reader(EventReader::Gone);
        }
        let to_its_end = async {
            loop {
                if let CallEvent::End(end) = poll_fn(|context| self.poll(context)).await {
                    break self.finish(end);
                }
            }
        };
        tokio::select! {
            _ = to_its_end => {}
            () = drain.cut() => {}
        }
    }
}

impl Downstream {
    fn era(&self) -> Era {
        match self {
            Self::Session(_) => Era::Legacy,
            Self::Stateless(_) => Era::Modern,
        }
    }
}

impl Cancelled {
    fn error(&self) -> Error {
        match self {
            Self::ByClient => Error::new(Kind::Cancelled, Blame::Downstream, "the client cancelled the call"),
            Self::WithSession => {
                Error::new(Kind::Cancelled, Blame::Downstream, "the session ended before the call did")
            }
            Self::ByCut => Error::new(Kind::Draining, Blame::Edge, "this gateway is stopping; connect again"),
        }
    }
}

/// A call that should go on without its exchange, and cannot.
pub(super) fn undetachable() -> Error {
    Error::new(Kind::Lost, Blame::Edge, "the call cannot wait for its client")
}
