//! A message of a known caller, apart from what brought it: what the adapters work on, and what comes of it.

use http::Response;
use wire::Message;
use wire::splice::Parts;

use super::media::Accepts;
use crate::call::{Caller, ServerName};
use crate::front::body::Body;
use crate::front::exchange::Exchange;
use crate::front::modern::listen::Listen;
use crate::front::{Front, refusal, sse};
use crate::permit::{Bound, CallPermit};

/// See the module.
pub(in crate::front) struct Arrival {
    pub(in crate::front) caller: Caller,
    /// The only server it may reach.
    pub(in crate::front) scope: Option<ServerName>,
    /// Room for a call, or why there is none; a message that is no call does not care.
    pub(in crate::front) room: Result<CallPermit, Bound>,
    pub(in crate::front) message: Message,
}

/// What comes of a request.
pub(in crate::front) enum Begun {
    /// This answer, on the spot.
    Answered(Parts),
    /// A call on its way.
    Call(Exchange),
    /// A listen of a modern client.
    Listen(Box<Listen>),
}

impl Begun {
    /// As a response.
    pub(in crate::front) async fn respond(self, front: &Front, accepts: Accepts) -> Response<Body> {
        match self {
            Self::Answered(message) if accepts.json => refusal::json(message),
            Self::Answered(message) => sse::single(&message),
            Self::Call(exchange) => {
                exchange.respond(accepts, front.config.pace(), &front.rooms.metrics).await
            }
            Self::Listen(listen) => listen.respond(front, accepts),
        }
    }
}
