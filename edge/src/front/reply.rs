//! Encodes the end of a call: the one place that turns an [`Error`] into an HTTP status and a JSON-RPC code, and an
//! [`Outcome`] into the bytes of a response.
//!
//! Guarantees: a result is framed and never serialized again; a client gets no code that its era does not know. What
//! is not here: when an answer is sent (`exchange`).

use std::time::Duration;

use bytes::Bytes;
use http::header::RETRY_AFTER as RETRY_AFTER_HEADER;
use http::{Response, StatusCode};
use serde_json::{Map, Value};
use wire::Era;
use wire::code;
use wire::id::RequestId;
use wire::limits::Limits;
use wire::object::Object;
use wire::span::Span;
use wire::splice::{Parts, Splice};

use super::body::Body;
use super::metrics::Ending;
use super::refusal::{self, ErrorObject, Refusal};
use crate::call::{Outcome, ServerName};
use crate::error::{Blame, Error, Kind};
use crate::permit::RETRY_AFTER;

/// How responses to one client are encoded.
#[derive(Clone, Debug)]
pub(super) struct ResponseEncoding {
    /// The era the client speaks.
    pub(super) era: Era,
    /// The server that answers, where one alone does.
    pub(super) server: Option<ServerName>,
}

/// The end of a call, ready to be sent.
#[derive(Debug)]
pub(super) struct Answer {
    /// Used only while no byte of the response was sent.
    pub(super) status: StatusCode,
    pub(super) retry_after_secs: Option<u64>,
    /// The JSON-RPC response.
    pub(super) message: Parts,
    pub(super) ending: Ending,
}

impl ResponseEncoding {
    /// The response to the request `id`.
    pub(super) fn answer(&self, id: &RequestId, outcome: Outcome) -> Answer {
        match outcome {
            Outcome::Result(result) => Answer {
                status: StatusCode::OK,
                retry_after_secs: None,
                message: refusal::message(Some(id), "result", result),
                ending: Ending::Ok,
            },
            Outcome::Refused(error) => self.refused(id, error),
            Outcome::InputRequired(_) => self.failed(id, &nobody_to_ask()),
            Outcome::Failed(error) => self.failed(id, &error),
        }
    }

    /// The response with a result that asks the client for input, which its retry brings.
    pub(super) fn input_required(&self, id: &RequestId, result: Parts) -> Answer {
        let message = refusal::message(Some(id), "result", result);
        Answer { status: StatusCode::OK, retry_after_secs: None, message, ending: Ending::InputRequired }
    }

    /// The response to a client that speaks no JSON-RPC: the result alone, or an error with a meaningful status.
    pub(super) fn plain(&self, outcome: Outcome) -> Answer {
        match outcome {
            Outcome::Result(result) => {
                Answer { status: StatusCode::OK, retry_after_secs: None, message: result, ending: Ending::Ok }
            }
            Outcome::Refused(error) => match self.translated(error) {
                Ok((code, object)) => Answer {
                    status: plain_status_of_code(code),
                    retry_after_secs: None,
                    message: refusal::message(None, "error", object),
                    ending: Ending::Refused,
                },
                Err(error) => self.plain(Outcome::Failed(error)),
            },
            Outcome::InputRequired(_) => self.plain(Outcome::Failed(nobody_to_ask())),
            Outcome::Failed(error) => Answer {
                status: plain_status_of(&error),
                retry_after_secs: retry_after_secs(&error),
                message: refusal::message(None, "error", self.object(&error).to_bytes().into()),
                ending: Ending::of(&error.kind),
            },
        }
    }

    /// The response with an error of the gateway.
    pub(super) fn failed(&self, id: &RequestId, error: &Error) -> Answer {
        Answer {
            status: status_of(self.era, error),
            retry_after_secs: retry_after_secs(error),
            message: refusal::message(Some(id), "error", self.object(error).to_bytes().into()),
            ending: Ending::of(&error.kind),
        }
    }

    /// A failure of our own making as an error object alone.
    pub(super) fn error(&self, error: &Error) -> Bytes {
        self.object(error).to_bytes()
    }

    /// A server's own error as an error object alone, with the code that this client may see.
    pub(super) fn refusal(&self, error: Bytes) -> Bytes {
        match self.translated(error) {
            Ok((_, object)) => object.into_bytes(),
            Err(error) => self.error(&error),
        }
    }

    fn object(&self, error: &Error) -> ErrorObject {
        ErrorObject {
            code: code_of(self.era, &error.kind),
            message: error.message.clone().into(),
            data: data_of(&error.kind, self.server.as_ref()),
        }
    }

    /// The response with a server's own error.
    fn refused(&self, id: &RequestId, error: Bytes) -> Answer {
        let (code, object) = match self.translated(error) {
            Ok(translated) => translated,
            Err(error) => return self.failed(id, &error),
        };
        let status = match (self.era, code) {
            // MCP 2026-07-28 streamable-http, Status Codes
            (Era::Modern, code::METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
            (Era::Modern, code::MISSING_CAPABILITY) => StatusCode::BAD_REQUEST,
            _ => StatusCode::OK,
        };
        Answer {
            status,
            retry_after_secs: None,
            message: refusal::message(Some(id), "error", object),
            ending: Ending::Refused,
        }
    }

    /// A server's own error, with its code translated for this client and a message supplied if it has none.
    fn translated(&self, error: Bytes) -> Result<(i32, Parts), Error> {
        let Some(found) = Found::scan(&error) else {
            let message = "the server answered with an error that is no JSON-RPC error object";
            return Err(Error::new(Kind::Protocol, Blame::Upstream, message));
        };
        let code = match translate(self.era, found.code) {
            // MCP 2026-07-28 schema, MissingRequiredClientCapabilityError: without what it names it is another error.
            code::MISSING_CAPABILITY if !found.names_capabilities(&error) => code::INTERNAL_ERROR,
            code => code,
        };
        if i64::from(code) == found.code && found.has_message {
            return Ok((code, Parts::from(error)));
        }
        let mut splice = Splice::new(error);
        let mut edit = splice.object(&found.object);
        if i64::from(code) != found.code {
            edit.set("code", code.to_string());
        }
        if !found.has_message {
            edit.set("message", Value::from(self.missing_message()).to_string());
        }
        edit.done();
        Ok((code, splice.finish()))
    }

    /// The message for an error that has none.
    // JSON-RPC 2.0 §5.1: a string, and required. Official clients wait on for an answer when an error has none.
    fn missing_message(&self) -> String {
        match &self.server {
            Some(server) => format!("server `{server}` gave no message with its error"),
            None => "the server gave no message with its error".to_owned(),
        }
    }
}

impl Answer {
    /// As one JSON response.
    pub(super) fn into_json(self) -> Response<Body> {
        let mut response = refusal::json(self.message);
        *response.status_mut() = self.status;
        if let Some(secs) = self.retry_after_secs {
            response.headers_mut().insert(RETRY_AFTER_HEADER, secs.into());
        }
        response
    }
}

/// A failure before there was a call, which is the same in both eras.
impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let status = match status_of(Era::Modern, &error) {
            StatusCode::OK => StatusCode::BAD_REQUEST,
            status => status,
        };
        let refusal = Self::new(status, code_of(Era::Modern, &error.kind), error.message.clone())
            .with_retry_after(retry_after_secs(&error));
        match data_of(&error.kind, None) {
            Some(data) => refusal.with_data(data),
            None => refusal,
        }
    }
}

fn status_of(era: Era, error: &Error) -> StatusCode {
    match (&error.kind, error.blame) {
        (Kind::Busy, Blame::Downstream) => StatusCode::TOO_MANY_REQUESTS,
        (Kind::Busy | Kind::Draining, _) => StatusCode::SERVICE_UNAVAILABLE,
        // A legacy client with a session would take a 404 for the end of its session.
        (Kind::UnknownMethod, _) if era == Era::Modern => StatusCode::NOT_FOUND,
        // MCP 2026-07-28 streamable-http, Status Codes
        (Kind::MissingCapability(_), _) if era == Era::Modern => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

/// The status for a script that reads nothing else: 4xx is its own fault, 5xx somebody else's; 503 and 504 are
/// temporary.
fn plain_status_of(error: &Error) -> StatusCode {
    match (&error.kind, error.blame) {
        (Kind::Busy, Blame::Downstream) => StatusCode::TOO_MANY_REQUESTS,
        (Kind::Busy | Kind::Draining | Kind::Cancelled, _) => StatusCode::SERVICE_UNAVAILABLE,
        (Kind::Timeout, _) => StatusCode::GATEWAY_TIMEOUT,
        (Kind::Unreachable | Kind::Died | Kind::TooLarge | Kind::Protocol | Kind::Lost, _) => {
            StatusCode::BAD_GATEWAY
        }
        (Kind::InvalidRequest | Kind::InvalidParams | Kind::MissingCapability(_), _) => {
            StatusCode::BAD_REQUEST
        }
        (Kind::UnknownMethod | Kind::UnknownResource(_), _) => StatusCode::NOT_FOUND,
    }
}

/// The status for a script of a server's own error.
fn plain_status_of_code(code: i32) -> StatusCode {
    match code {
        code::INVALID_REQUEST | code::INVALID_PARAMS => StatusCode::BAD_REQUEST,
        code::METHOD_NOT_FOUND => StatusCode::NOT_FOUND,
        _ => StatusCode::BAD_GATEWAY,
    }
}

fn code_of(era: Era, kind: &Kind) -> i32 {
    match kind {
        Kind::Unreachable
        | Kind::Busy
        | Kind::Died
        | Kind::Timeout
        | Kind::TooLarge
        | Kind::Protocol
        | Kind::Cancelled
        | Kind::Draining
        | Kind::Lost => code::INTERNAL_ERROR,
        Kind::MissingCapability(_) if era == Era::Modern => code::MISSING_CAPABILITY,
        Kind::MissingCapability(_) => code::INTERNAL_ERROR,
        Kind::InvalidRequest => code::INVALID_REQUEST,
        Kind::InvalidParams => code::INVALID_PARAMS,
        Kind::UnknownMethod => code::METHOD_NOT_FOUND,
        Kind::UnknownResource(_) if era == Era::Modern => code::INVALID_PARAMS,
        Kind::UnknownResource(_) => code::RESOURCE_NOT_FOUND,
    }
}

fn data_of(kind: &Kind, server: Option<&ServerName>) -> Option<Value> {
    let mut data = Map::new();
    if let Kind::UnknownResource(uri) = kind {
        data.insert("uri".to_owned(), uri.clone().into());
    }
    if let Kind::MissingCapability(required) = kind {
        let required = serde_json::from_str(required).unwrap_or(Value::Null);
        data.insert("requiredCapabilities".to_owned(), required);
    }
    if let Some(reason) = kind.reason() {
        data.insert("reason".to_owned(), reason.into());
        if let Some(server) = server {
            data.insert("server".to_owned(), server.as_str().into());
        }
    }
    (!data.is_empty()).then(|| data.into())
}

fn retry_after_secs(error: &Error) -> Option<u64> {
    // While draining, another replica takes it, or the next process.
    let draining = (error.kind == Kind::Draining).then_some(RETRY_AFTER);
    let after = error.retry_after.or(draining)?;
    // RFC 9110 §10.2.3: whole seconds; rounded up, for zero invites a storm
    Some(after.as_secs().max(1) + u64::from(after > Duration::from_secs(1) && after.subsec_nanos() > 0))
}

/// The error of a request for input where none can be given.
fn nobody_to_ask() -> Error {
    let message = "the server requires input from the client, which this kind of request cannot give";
    Error::new(Kind::Protocol, Blame::Upstream, message)
}

/// The code for a client of `era` in place of a server's code.
// MCP 2026-07-28 basic, Error Codes: −32002 and −32042 are retired, of −32020…−32099 only three are defined;
// −32020 and −32022 are about the request that the gateway wrote, and mean nothing to the client.
fn translate(era: Era, server_code: i64) -> i32 {
    let server_code = i32::try_from(server_code).unwrap_or(code::INTERNAL_ERROR);
    match (era, server_code) {
        (Era::Modern, code::RESOURCE_NOT_FOUND) => code::INVALID_PARAMS,
        (Era::Modern, code::MISSING_CAPABILITY) | (Era::Legacy, code::URL_ELICITATION_REQUIRED) => {
            server_code
        }
        (_, -32099..=-32020) => code::INTERNAL_ERROR,
        _ => server_code,
    }
}

/// The parts of a server's error object that are read.
struct Found {
    object: Object,
    code: i64,
    has_message: bool,
}

impl Found {
    fn scan(error: &Bytes) -> Option<Self> {
        let object = Object::scan(error, Span::all(error), &Limits::default()).ok()?;
        let code = code::in_error(&object, error)?;
        let message = object.get(error, "message");
        let has_message = message.is_some_and(|message| message.of(error).first() == Some(&b'"'));
        Some(Self { object, code, has_message })
    }

    /// Whether its `data` have the form that they have with −32021.
    fn names_capabilities(&self, error: &Bytes) -> bool {
        let is_object = |span: &Span| span.of(error).first() == Some(&b'{');
        let data = self.object.get(error, "data").filter(is_object);
        let data = data.and_then(|data| Object::scan(error, data, &Limits::default()).ok());
        data.and_then(|data| data.get(error, "requiredCapabilities"))
            .is_some_and(|required| is_object(&required))
    }
}

#[cfg(test)]
mod tests;
