//! A message of a known caller, whatever transport brought it, and what an adapter starts for it.

use http::Response;
use wire::Message;
use wire::splice::Parts;

use super::media::Accepts;
use crate::front::body::Body;
use crate::front::exchange::Exchange;
use crate::front::greeting::Greeting;
use crate::front::modern::listen::Listen;
use crate::front::requester::Requester;
use crate::front::{Front, refusal, sse};
use crate::permit::{Bound, CallPermit};

/// One message of a known caller: what the adapters work on.
pub(in crate::front) struct InboundMessage {
    pub(in crate::front) requester: Requester,
    /// The permit of a call, or the bound that left none; a message that starts no call needs none.
    pub(in crate::front) permit: Result<CallPermit, Bound>,
    pub(in crate::front) message: Message,
}

/// What an adapter starts for a request.
pub(in crate::front) enum Started {
    /// Nothing: this is the answer already.
    Answered(Parts),
    /// An answer that waits for names.
    Greeting(Box<Greeting>),
    /// A call in flight.
    Call(Exchange),
    /// A listen of a modern client.
    Listen(Box<Listen>),
}

impl Started {
    /// The HTTP response.
    pub(in crate::front) async fn respond(self, front: &Front, accepts: Accepts) -> Response<Body> {
        match self {
            Self::Answered(message) => answered(message, accepts),
            Self::Greeting(greeting) => answered(greeting.ready().await, accepts),
            Self::Call(exchange) => {
                exchange.respond(accepts, front.config.pace(), &front.rooms.metrics).await
            }
            Self::Listen(listen) => listen.respond(front, accepts),
        }
    }
}

fn answered(message: Parts, accepts: Accepts) -> Response<Body> {
    if accepts.json { refusal::json(message) } else { sse::single(&message) }
}
