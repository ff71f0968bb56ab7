//! Calls that a legacy server answers only after the user has visited a URL (−32042): a modern client is asked to send
//! the user there, and its retry becomes a new call.
//!
//! Nothing is kept between the two: everything is in the `requestState`, so any process that has the key takes the
//! retry.
// MCP 2025-11-25 client/elicitation, URL Elicitation Required Error; 2026-07-28 basic/patterns/mrtr

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use wire::code;
use wire::limits::Limits;
use wire::splice::{Parts, Splice};
use wire::{Message, ScanError};

use super::inputs::{Answers, too_many_rounds};
use super::park::{Subject, encode_subject};
use crate::call::{Capabilities, Client, Outcome};
use crate::error::{Blame, Error, Kind};
use crate::ops::unix_time::now_unix_secs;
use crate::seal::{self, Sealer};

/// What becomes of a server's error −32042.
pub(in crate::front) enum Verdict {
    /// The result that asks the client to send its user somewhere.
    Ask(Parts),
    /// The call fails with this error.
    Failed(Error),
}

/// The URLs that a server's error names; `None` if it is any other error.
pub(super) fn urls(error: &Bytes) -> Option<Vec<Visit>> {
    #[derive(Deserialize)]
    struct Required {
        code: i64,
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        elicitations: Vec<Visit>,
    }
    let required: Required = serde_json::from_slice(error).ok()?;
    let fits = required.code == i64::from(code::URL_ELICITATION_REQUIRED)
        && (1..=URLS_MAX).contains(&required.data.elicitations.len());
    fits.then_some(required.data.elicitations)
}

/// A URL that the user has to visit.
#[derive(Deserialize)]
pub(super) struct Visit {
    #[serde(default)]
    message: String,
    url: String,
}

impl Visit {
    /// The key of the question that asks for the visit of this index, as JSON.
    pub(super) fn key(index: usize) -> String {
        format!("\"{KEY}{index}\"")
    }

    fn params(&self) -> Value {
        json!({ "mode": "url", "message": self.message, "url": self.url })
    }

    /// The question as a request of its own.
    pub(super) fn request(&self) -> Bytes {
        let params = self.params();
        format!(r#"{{"jsonrpc":"2.0","id":0,"method":"elicitation/create","params":{params}}}"#).into()
    }
}

/// The error of a client that does not declare URLs.
// MCP 2026-07-28 basic, MissingRequiredClientCapability
pub(super) fn lacks_urls() -> Error {
    let message = "the server needs a client that can send its user to a URL";
    let required = Capabilities::ELICITATION.with(Capabilities::URL).to_json();
    Error::new(Kind::MissingCapability(required), Blame::Downstream, message)
}

/// Asks the client to send its user to `visits`, after `rounds` of at most `max`.
pub(super) fn ask(
    sealer: &Sealer,
    (subject, client): (&Subject, &Client),
    (rounds, max): (usize, usize),
    visits: &[Visit],
) -> Verdict {
    if !Capabilities::of(client).has(Capabilities::URL) {
        return Verdict::Failed(lacks_urls());
    }
    if rounds >= max {
        return Verdict::Failed(too_many_rounds(max));
    }
    let count = u8::try_from(visits.len()).unwrap_or(u8::MAX);
    let round = u8::try_from(rounds + 1).unwrap_or(u8::MAX);
    let payload = [&[round, count][..], &now_unix_secs().to_be_bytes(), &encode_subject(subject)].concat();
    let state = match sealer.seal(KIND, &payload) {
        Ok(state) => state,
        Err(error) => return Verdict::Failed(error),
    };
    let mut requests = String::new();
    for (index, visit) in visits.iter().enumerate() {
        let (key, params) = (Visit::key(index), visit.params());
        let comma = if index > 0 { "," } else { "" };
        // Writing to a string does not fail.
        let _ = write!(requests, r#"{comma}{key}:{{"method":"elicitation/create","params":{params}}}"#);
    }
    Verdict::Ask(Parts::from(Bytes::from(format!(
        r#"{{"resultType":"input_required","inputRequests":{{{requests}}},"requestState":"{state}"}}"#
    ))))
}

/// What becomes of a retry with a state of this kind.
pub(super) enum Again {
    /// The call is made again, after so many rounds.
    Call(Message, usize),
    /// The user did not visit the URL: nothing is called.
    Declined(Outcome),
}

/// Reads `state`. `None`: it is not of this kind.
///
/// # Errors
/// Why this request cannot continue with it.
pub(super) fn take(
    sealer: &Sealer,
    state: &str,
    (subject, request, answers): (&Subject, &Message, &Answers),
    limits: &Limits,
) -> Option<Result<Again, Error>> {
    let payload = sealer.open(KIND, state)?;
    let ([rounds, count], rest) = payload.split_first_chunk()?;
    let (issued, rest) = rest.split_first_chunk()?;
    let refuse = |message: &str| Some(Err(Error::new(Kind::InvalidParams, Blame::Downstream, message)));
    if rest != encode_subject(subject) {
        return refuse(
            "this requestState belongs to another request; send it back with the request it came for",
        );
    }
    let age_secs = now_unix_secs().saturating_sub(u64::from_be_bytes(*issued));
    if age_secs > AGE_MAX.as_secs() {
        return refuse("this requestState has expired; make the call again");
    }
    let went = |index| answers.get(&format!("{KEY}{index}")).is_none_or(|answer| is_accepted(&answer));
    if !(0..*count).all(went) {
        return Some(Ok(Again::Declined(declined(request))));
    }
    let message = without_answers(request, limits).map(|call| Again::Call(call, usize::from(*rounds)));
    Some(message.map_err(|_| Error::new(Kind::Lost, Blame::Edge, "the call could not be made again")))
}

/// Whether an answer to an elicitation is a yes.
pub(super) fn is_accepted(answer: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Answered {
        action: String,
    }
    serde_json::from_slice::<Answered>(answer).is_ok_and(|answered| answered.action == "accept")
}

/// The outcome when the user declines. A tool's is a result, for the model to read; other methods have no such form.
pub(super) fn declined(request: &Message) -> Outcome {
    let message = "the user did not open the page that the server needs to go on";
    if request.method() != "tools/call" {
        return Outcome::Failed(Error::new(Kind::Cancelled, Blame::Downstream, message));
    }
    let content = json!([{ "type": "text", "text": message }]);
    let result = json!({ "resultType": "complete", "content": content, "isError": true });
    Outcome::Result(Parts::from(Bytes::from(result.to_string())))
}

/// The request without the members of a retry, which a legacy server does not know.
pub(super) fn without_answers(request: &Message, limits: &Limits) -> Result<Message, ScanError> {
    let mut splice = Splice::new(request.bytes().clone());
    if let Some(params) = request.params() {
        splice.object(params).remove_where(|key| matches!(key, "inputResponses" | "requestState"));
    }
    Message::scan(splice.finish().into_bytes(), limits)
}

/// The kind of sealed token that such a state is.
const KIND: seal::Kind = seal::Kind::new("reissue");
/// The prefix of the keys.
const KEY: &str = "url-";
/// URLs in one error. A server has one or two things to authorise.
const URLS_MAX: usize = 16;
/// 10 m: as long as any call waits for its client.
const AGE_MAX: Duration = Duration::from_secs(600);
