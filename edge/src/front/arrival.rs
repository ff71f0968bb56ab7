//! A message of a known caller, apart from what brought it: what the adapters work on, and what comes of it.

use http::Response;
use wire::Message;
use wire::splice::Parts;

use super::Front;
use super::body::Body;
use super::exchange::Exchange;
use super::listen::Listen;
use super::media::Accepts;
use super::{refusal, sse};
use crate::call::{Caller, ServerName};
use crate::permit::{CallPermit, NoRoom};

/// See the module.
pub(super) struct Arrival {
    pub(super) caller: Caller,
    /// The only server it may reach.
    pub(super) scope: Option<ServerName>,
    /// Room for a call, or why there is none; a message that is no call does not care.
    pub(super) room: Result<CallPermit, NoRoom>,
    pub(super) message: Message,
}

/// What comes of a request.
pub(super) enum Begun {
    /// This answer, on the spot.
    Answered(Parts),
    /// A call on its way.
    Call(Exchange),
    /// A listen of a modern client.
    Listen(Box<Listen>),
}

impl Begun {
    /// As a response.
    pub(super) async fn respond(self, front: &Front, accepts: Accepts) -> Response<Body> {
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
