//! A modern client's retry of a request that was answered `input_required`: which of the kinds of `requestState` it
//! brings, and how the call goes on.
// MCP 2026-07-28 basic/patterns/mrtr

use std::sync::Arc;

use wire::mcp::method::Method;
use wire::{Message, code};

use super::digest::digest;
use super::inputs::Answers;
use super::park::{Parked, Subject};
use super::reissue::{self, Again};
use super::relay;
use crate::call::{Caller, Client, Outcome, ServerName};
use crate::error::Kind;
use crate::front::Front;
use crate::front::refusal::Refusal;

/// How the call goes on.
pub(in crate::front) enum Retry {
    /// It retries nothing: it begins.
    None(Message),
    /// At the server that wanted something first, with that server's own state.
    Relay(Message, ServerName),
    /// It is there still, and has its answers.
    Parked(Message, Box<Parked>),
    /// It is made again, after so many rounds.
    Again(Message, usize),
    /// It has ended without another call.
    Over(Outcome),
}

/// What `message` retries, a request of `client`.
///
/// # Errors
/// A state that is not good for this request.
pub(in crate::front) fn of(
    front: &Front,
    (caller, scope): (&Caller, Option<&ServerName>),
    client: &Client,
    method: Method,
    message: Message,
) -> Result<Retry, Refusal> {
    let Some(state) = message.param("requestState").filter(|_| method.facts().may_ask) else {
        return Ok(Retry::None(message));
    };
    let (limits, sealer) = (&front.config.limits, &front.rounds.sealer);
    let wrong = "params.requestState must be a string, as it was sent";
    let state = state.as_str().ok_or_else(|| Refusal::bad_request(code::INVALID_PARAMS, wrong))?.into_owned();
    let answers = Answers::of(&message, limits)?;
    let subject = Subject { caller: caller.clone(), scope: scope.cloned(), digest: digest(&message) };
    match front.park.take(&state, &subject) {
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
    let (message, server) = relay::unwrap(sealer, caller, (&state, &message), limits)?;
    Ok(Retry::Relay(message, server))
}
