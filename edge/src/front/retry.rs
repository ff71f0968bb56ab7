//! A modern client's retry of a request that was answered `input_required`: which of the kinds of `requestState` it
//! brings, and how the call goes on.
// MCP 2026-07-28 basic/patterns/mrtr

use wire::mcp::method::Method;
use wire::{Message, code};

use super::Front;
use super::digest::digest;
use super::inputs::Answers;
use super::park::{Parked, Subject};
use super::refusal::Refusal;
use super::reissue::{self, Again};
use crate::call::{Caller, Outcome, ServerName};
use crate::error::{Error, Kind};

/// How the call goes on.
pub(super) enum Retry {
    /// It is there still, and has its answers.
    Parked(Box<Parked>),
    /// It is made again, after so many rounds.
    Again(Message, u8),
    /// It has ended without another call.
    Over(Outcome),
}

/// What `message` retries; `None` if it retries nothing.
///
/// # Errors
/// A state that is not good for this request.
pub(super) fn of(
    front: &Front,
    (caller, scope): (&Caller, Option<&ServerName>),
    method: Method,
    message: &Message,
) -> Result<Option<Retry>, Refusal> {
    let Some(state) = message.param("requestState").filter(|_| method.facts().may_ask) else {
        return Ok(None);
    };
    let wrong = |message: &'static str| Refusal::bad_request(code::INVALID_PARAMS, message);
    let state =
        state.as_str().ok_or_else(|| wrong("params.requestState must be a string, as it was sent"))?;
    let limits = &front.config.limits;
    let answers = Answers::of(message, limits)?;
    let subject = Subject { caller: caller.clone(), scope: scope.cloned(), digest: digest(message) };
    if let Some(taken) = front.park.take(&state, &subject) {
        return parked(taken, &answers).map(Some);
    }
    match reissue::take(front.park.sealer(), &state, (&subject, message, &answers), limits) {
        Some(Ok(Again::Call(message, rounds))) => Ok(Some(Retry::Again(message, rounds))),
        Some(Ok(Again::Declined(outcome))) => Ok(Some(Retry::Over(outcome))),
        Some(Err(error)) => Err(error.into()),
        None => Err(wrong("this requestState was not made here, or was altered; make the call again")),
    }
}

fn parked(taken: Result<Parked, Error>, answers: &Answers) -> Result<Retry, Refusal> {
    match taken {
        Ok(mut parked) => {
            parked.inputs.answer(answers);
            Ok(Retry::Parked(Box::new(parked)))
        }
        // The client did nothing wrong.
        Err(error) if error.kind == Kind::Lost => Ok(Retry::Over(Outcome::Failed(error))),
        Err(error) => Err(error.into()),
    }
}
