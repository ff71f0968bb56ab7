//! A modern client's retry of a request that was answered `input_required`: which kind of `requestState` it brings,
//! and how the call continues.
// MCP 2026-07-28 basic/patterns/mrtr

use std::sync::Arc;

use wire::mcp::level::Level;
use wire::mcp::method::Method;
use wire::{Message, code};

use super::digest::digest;
use super::inputs::Answers;
use super::park::{Parked, Subject};
use super::reissue::{self, Again};
use super::relay;
use crate::call::{Client, Outcome, ServerName};
use crate::error::Kind;
use crate::front::Front;
use crate::front::refusal::Refusal;
use crate::front::requester::Requester;

/// How the call continues.
pub(in crate::front) enum Retry {
    /// It is no retry, but a new call.
    None(Message),
    /// At the server that requires the input, with that server's own state.
    Relay(Message, ServerName),
    /// The parked call continues, with its answers.
    Parked(Message, Box<Parked>),
    /// A new call is made, after so many rounds.
    Again(Message, usize),
    /// It ends without another call.
    Over(Outcome),
}

/// What `message` retries, a request of `client`.
///
/// # Errors
/// A state that is not valid for this request.
pub(in crate::front) fn of(
    front: &Front,
    requester: &Requester,
    client: &Client,
    method: Method,
    message: Message,
) -> Result<Retry, Refusal> {
    let Some(state) = message.param("requestState").filter(|_| method.facts().may_ask) else {
        return Ok(Retry::None(message));
    };
    let (limits, sealer) = (&front.config.limits, &front.round_context.sealer);
    let wrong = "params.requestState must be a string, as it was sent";
    let state = state.as_str().ok_or_else(|| Refusal::bad_request(code::INVALID_PARAMS, wrong))?.into_owned();
    let answers = Answers::of(&message, limits)?;
    let subject = Subject { requester: requester.clone(), digest: digest(&message) };
    match front.park.take(&state, &subject, Level::wanted_by(&message)) {
        Some(Ok(mut parked)) => {
            parked.inputs.resume(Arc::new(client.clone()), &answers);
            return Ok(Retry::Parked(message, Box::new(parked)));
        }
        // The client did nothing wrong.
        Some(Err(error)) if error.kind == Kind::Lost => return Ok(Retry::Over(Outcome::Failed(error))),
        Some(Err(error)) => return Err(error.into()),
        None => {}
    }
    match reissue::take(sealer, &state, (&subject, &message, &answers), limits) {
        Some(Ok(Again::Call(message, rounds))) => return Ok(Retry::Again(message, rounds)),
        Some(Ok(Again::Declined(outcome))) => return Ok(Retry::Over(outcome)),
        Some(Err(error)) => return Err(error.into()),
        None => {}
    }
    let (message, server) = relay::unwrap(sealer, &requester.caller, (&state, &message), limits)?;
    Ok(Retry::Relay(message, server))
}
