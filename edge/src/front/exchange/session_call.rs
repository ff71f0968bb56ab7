//! A call of a client that has a session. It continues when the client leaves; the input that a modern server requires is
//! asked for in rounds, and questions are sent on the stream of the call.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use wire::Message;
use wire::mcp::meta;
use wire::mcp::method::Method;
use wire::mcp::version::ProtocolVersion;
use wire::splice::{Parts, Splice};

use super::waiting::{CallEnd, CallEvent, Cancelled};
use crate::call::{Ask, EVENT_BYTES, Event, EventReader, Outcome, Reply};
use crate::front::Front;
use crate::front::asks::progress::RisingProgress;
use crate::front::asks::questions::Questions;
use crate::front::asks::rounds::{MultiRoundReply, RoundEvent};
use crate::front::downgrade;
use crate::ops::drain::DrainWatch;
use crate::permit::Bound;
use crate::session::replay::Delivery;
use crate::session::{InFlight, Session};

/// A call of a client that has a session.
pub(super) struct SessionCall {
    in_flight: InFlight,
    drain: DrainWatch,
    reply: MultiRoundReply,
    /// What was asked on the stream of this call.
    questions: Questions,
    progress: RisingProgress,
    unsent: UnsentAsks,
    /// The outcome, while questions come before it.
    outcome: Option<Outcome>,
}

/// Questions that wait for the client's return. Another call may have asked them, and the client may come back to that one
/// alone: so they are not put on a stream that nobody reads.
#[derive(Default)]
struct UnsentAsks(VecDeque<Ask>);

impl SessionCall {
    pub(super) fn new(front: &Front, in_flight: InFlight, reply: Reply) -> Self {
        Self {
            questions: Questions::new(in_flight.session().clone()),
            in_flight,
            drain: front.rooms.drain.clone(),
            reply: MultiRoundReply::new(reply, front.round_context.clone()),
            progress: RisingProgress::default(),
            unsent: UnsentAsks::default(),
            outcome: None,
        }
    }

    pub(super) fn session(&self) -> &Arc<Session> {
        self.in_flight.session()
    }

    pub(super) fn drain(&self) -> &DrainWatch {
        &self.drain
    }

    /// Whether the client can resume the stream, which then begins with a priming event.
    // MCP 2025-11-25 basic/transports; parsers of older clients stumble over empty data
    pub(super) fn is_resumable(&self) -> bool {
        self.session().version() >= ProtocolVersion::V2025_11_25
    }

    /// Whether a connection has the call.
    pub(super) fn is_under_way(&self) -> bool {
        self.reply.is_under_way()
    }

    /// Says where the events before the outcome go from now on: on the stream of the call, which is read, or kept for a
    /// resumption (`Absent`); or nowhere, because the client takes one message (`Unwanted`), or left before there was a
    /// stream that it could resume (`Gone`).
    pub(super) fn set_reader(&mut self, reader: EventReader) {
        self.reply.set_reader(reader);
    }

    /// Whether the stream is only kept for the client's return.
    fn is_away(&self) -> bool {
        self.reply.reader() == EventReader::Absent
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>, token: Option<&Bytes>) -> Poll<CallEvent> {
        if self.in_flight.poll_cancelled(context).is_ready() {
            return Poll::Ready(CallEvent::End(CallEnd::Cancelled(self.cancelled())));
        }
        loop {
            if let Poll::Ready(message) = self.questions.poll_withdrawn(context) {
                return Poll::Ready(CallEvent::Message(message, Delivery::Required));
            }
            if let Some(message) = self.unsent_question() {
                return Poll::Ready(CallEvent::Message(message, Delivery::Required));
            }
            if let Some(outcome) = self.outcome.take() {
                return Poll::Ready(CallEvent::End(CallEnd::Outcome(outcome)));
            }
            match ready!(self.reply.poll(context)) {
                RoundEvent::Event(event) => {
                    if let Some((message, delivery)) = self.message(event, token) {
                        return Poll::Ready(CallEvent::Message(message, delivery));
                    }
                }
                RoundEvent::Redispatched => self.progress.restart(),
                RoundEvent::Withdrawn => {} // the questions notice by themselves
                RoundEvent::Outcome(outcome) if !self.unsent.0.is_empty() => self.outcome = Some(outcome),
                RoundEvent::Outcome(outcome) => {
                    return Poll::Ready(CallEvent::End(CallEnd::Outcome(outcome)));
                }
            }
        }
    }

    /// The next question that waited, once the client is back or the call has ended. In the latter case other calls that may
    /// have asked it come first.
    fn unsent_question(&mut self) -> Option<Parts> {
        while !self.is_away() || self.outcome.is_some() {
            let ask = self.unsent.0.pop_front()?;
            let ask = if self.is_away() { ask.pass_on() } else { Some(ask) };
            if let Some(message) = ask.and_then(|ask| self.questions.put(ask)) {
                return Some(message);
            }
        }
        None
    }

    /// The message to the client for an event. A question that cannot be sent on the stream of the call is sent on the
    /// session's own.
    fn message(&mut self, event: Event, token: Option<&Bytes>) -> Option<(Parts, Delivery)> {
        if matches!(self.reply.reader(), EventReader::Unwanted | EventReader::Gone) {
            if let Event::Ask(ask) = event {
                self.ask_beside(ask);
            }
            return None;
        }
        match event {
            Event::Progress(message) => Some((self.progress(&message, token?)?, Delivery::BestEffort)),
            Event::Notice(_, message) => Some((message.bytes().clone().into(), Delivery::Required)),
            Event::Ask(ask) => {
                let ask = if self.is_away() { self.unsent.keep(ask)? } else { ask };
                Some((self.questions.put(ask)?, Delivery::Required))
            }
        }
    }

    fn progress(&mut self, message: &Message, token: &Bytes) -> Option<Parts> {
        let mut splice = with_token(message, token)?;
        self.progress.edit(message, &mut splice).then(|| splice.finish())
    }

    /// Sends a question with another call of a client that has left this one, or queues it for the session's own stream,
    /// where it waits. A client that takes no stream with this call is asked only if it reads that one; otherwise the
    /// question is dropped, which refuses it.
    fn ask_beside(&self, ask: Ask) {
        let own_stream = &self.session().handle().unsolicited;
        let has_left = self.reply.reader() == EventReader::Gone;
        let Some(ask) = (if has_left { ask.pass_on() } else { Some(ask) }) else { return };
        let is_sent = has_left || own_stream.reader() == EventReader::Present;
        if is_sent && !own_stream.event(Event::Ask(ask)) {
            self.reply.context().permits.metrics().hit(Bound::EventBytes);
        }
    }

    fn cancelled(&mut self) -> Cancelled {
        match (self.in_flight.session_ended(), self.drain.is_cut()) {
            (true, true) => Cancelled::ByCut,
            (true, false) => Cancelled::WithSession,
            (false, _) => {
                self.save_asks();
                Cancelled::ByClient
            }
        }
    }

    /// Keeps the questions of a cancelled call that were not sent, because another call may have asked them. The connection
    /// withdraws those that none can have asked.
    fn save_asks(&mut self) {
        self.set_reader(EventReader::Gone);
        while let Some(ask) = self.unsent.0.pop_front().or_else(|| self.reply.take_queued_ask()) {
            self.ask_beside(ask);
        }
    }

    /// Translates an outcome to the session's revision.
    pub(super) fn downgrade(&self, method: Method, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Result(_) if has_empty_result(method) => {
                Outcome::Result(Bytes::from_static(b"{}").into())
            }
            outcome => {
                let (session, context) = (self.session(), self.reply.context());
                let principal = session.caller().principal();
                downgrade::outcome((method, session.version()), outcome, (context, principal))
            }
        }
    }
}

impl UnsentAsks {
    /// Keeps a question, and drops those that are withdrawn. One for which there is no room is returned, for the stream,
    /// which has bounds of its own: their bytes are those of a reply's events, and their number is that of the open
    /// questions of a connection.
    fn keep(&mut self, ask: Ask) -> Option<Ask> {
        self.0.retain(|ask| !ask.withdrawn.is_cancelled());
        let bytes = |ask: &Ask| ask.request.bytes().len();
        if self.0.iter().map(bytes).sum::<usize>() + bytes(&ask) > EVENT_BYTES {
            return Some(ask);
        }
        self.0.push_back(ask);
        None
    }
}

/// Progress under the client's own token, which is the only one that it knows.
// MCP 2025-11-25 basic/utilities/progress: the token comes back as it was sent
pub(super) fn with_token(message: &Message, token: &Bytes) -> Option<Splice> {
    let span = message.param(meta::PROGRESS_TOKEN)?.span();
    let mut splice = Splice::new(message.bytes().clone());
    splice.replace(span, token.clone());
    Some(splice)
}

/// Methods whose result is an empty object. SDK clients of the legacy era refuse one that has members, as the
/// canonical form's has.
// MCP 2025-11-25 schema, EmptyResult
fn has_empty_result(method: Method) -> bool {
    matches!(method, Method::SetLevel | Method::ResourcesSubscribe | Method::ResourcesUnsubscribe)
}
