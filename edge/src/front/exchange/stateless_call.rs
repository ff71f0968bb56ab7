//! A call of a client without a session. It ends with its response, unless it is parked while the client provides
//! input, or becomes a task.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use wire::Message;
use wire::id::RequestId;
use wire::mcp::level::Level;
use wire::mcp::method::Notice;

use super::session_call::with_token;
use super::waiting::{CallEnd, CallEvent, undetachable};
use crate::call::{Event, Next, Outcome, Reply};
use crate::front::Front;
use crate::front::asks::park::{Detachment, Parking};
use crate::front::asks::reissue::Verdict;
use crate::front::asks::relay;
use crate::front::asks::rounds::RoundContext;
use crate::front::reply::{Answer, ResponseEncoding};
use crate::permit::CallPermit;
use crate::session::replay::Delivery;

/// A call of a client without a session.
pub(super) struct StatelessCall {
    reply: Reply,
    /// For methods in which a server may ask.
    parking: Option<Parking>,
    /// Whether the client takes what comes before the outcome.
    takes_events: bool,
    context: Arc<RoundContext>,
    /// The retry that it continues with, if it was parked.
    retry: Option<Continued>,
}

/// What a retry brings to the call that it continues.
struct Continued {
    /// The call gave its own back when it was parked.
    _permit: CallPermit,
    /// The lowest level of log messages that the retry names. Some may wait that came for the request before it.
    level: Option<Level>,
}

impl StatelessCall {
    pub(super) fn new(front: &Front, reply: Reply, parking: Option<Parking>) -> Self {
        Self { reply, parking, takes_events: true, context: front.round_context.clone(), retry: None }
    }

    pub(super) fn continued(self, permit: CallPermit, level: Option<Level>) -> Self {
        Self { retry: Some(Continued { _permit: permit, level }), ..self }
    }

    pub(super) fn send_outcome_only(&mut self) {
        self.takes_events = false;
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>, token: Option<&Bytes>) -> Poll<CallEvent> {
        loop {
            let event = match self.reply.poll_next(context) {
                Poll::Ready(Next::Event(event)) => event,
                Poll::Ready(Next::Outcome(Outcome::InputRequired(input))) => {
                    // Dropped with the permit of its call: the next round is another request.
                    let RoundContext { sealer, limits, .. } = &*self.context;
                    return Poll::Ready(CallEvent::End(match relay::wrap(sealer, &input, limits) {
                        Outcome::Result(result) => CallEnd::InputRequired(result),
                        outcome => CallEnd::Outcome(outcome),
                    }));
                }
                Poll::Ready(Next::Outcome(outcome)) => {
                    return Poll::Ready(CallEvent::End(CallEnd::Outcome(outcome)));
                }
                Poll::Pending => {
                    let parking = self.parking.as_mut();
                    let due = parking.map_or(Poll::Pending, |parking| parking.poll_due(context));
                    return due.map(|detachment| CallEvent::End(CallEnd::Detached(detachment)));
                }
            };
            if let Some(message) = self.message(event, token) {
                return Poll::Ready(message);
            }
        }
    }

    /// The message to the client for an event. Questions wait until the call is parked.
    fn message(&mut self, event: Event, token: Option<&Bytes>) -> Option<CallEvent> {
        match event {
            Event::Ask(ask) => {
                // Where a server may not ask, the question is dropped, which refuses it.
                self.parking.as_mut()?.inputs.put(ask);
                None
            }
            _ if !self.takes_events => None,
            Event::Progress(message) => {
                let message = with_token(&message, token?)?.finish();
                Some(CallEvent::Message(message, Delivery::BestEffort))
            }
            Event::Notice(Notice::Message, log) if !self.wants(&log) => None,
            Event::Notice(_, message) => {
                Some(CallEvent::Message(message.bytes().clone().into(), Delivery::Required))
            }
        }
    }

    /// Whether its request asked for this log message. For a first request it was asked when the message came.
    fn wants(&self, log: &Message) -> bool {
        let Some(retry) = &self.retry else { return true };
        retry.level.is_some_and(|least| least.lets_through(log))
    }

    /// The answer that ends the call.
    pub(super) fn answer(self, encoding: &ResponseEncoding, id: &RequestId, outcome: Outcome) -> Answer {
        let visits = match (&outcome, &self.parking) {
            (Outcome::Refused(error), Some(parking)) => parking.visits(error),
            _ => None,
        };
        match visits {
            None => encoding.answer(id, outcome),
            Some(Verdict::Ask(result)) => encoding.input_required(id, result),
            Some(Verdict::Failed(error)) => encoding.failed(id, &error),
        }
    }

    /// Lets the call continue without its exchange, and returns the answer that names the parked call or the task.
    pub(super) fn detach(
        self,
        detachment: Detachment,
        encoding: &ResponseEncoding,
        id: &RequestId,
    ) -> Answer {
        let Self { reply, parking, .. } = self;
        let Some(parking) = parking else { return encoding.failed(id, &undetachable()) };
        let detached = match detachment {
            Detachment::Park => parking.park(reply).map(|result| encoding.input_required(id, result)),
            Detachment::Task => parking
                .adopt(reply, encoding.clone())
                .map(|result| encoding.answer(id, Outcome::Result(result))),
        };
        detached.unwrap_or_else(|error| encoding.failed(id, &error))
    }
}
