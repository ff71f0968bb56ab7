//! The refusal of a request: a status, a JSON-RPC error, and headers.
//!
//! Every refusal has a JSON-RPC body: a client that finds none behind a 4xx concludes that this is no MCP
//! server of its era, and falls back to another one (MCP 2026-07-28 basic/versioning).

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use serde_json::{Value, json as value};
use wire::code;
use wire::id::RequestId;
use wire::splice::{COPIED_BYTES, Parts};

use super::body::{Body, ReadError};
use crate::auth::Denied;

/// One refusal. Boxed, because it is the rare side of every `Result` here.
#[derive(Clone, Debug)]
pub(super) struct Refusal(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    status: StatusCode,
    error: ErrorObject,
    id: Option<RequestId>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The `error` of a JSON-RPC response that the gateway makes itself.
#[derive(Clone, Debug)]
pub(super) struct ErrorObject {
    pub(super) code: i32,
    pub(super) message: Cow<'static, str>,
    pub(super) data: Option<Value>,
}

impl ErrorObject {
    /// The JSON text.
    pub(super) fn to_bytes(&self) -> Bytes {
        let Self { code, message, data } = self;
        match data {
            None => value!({ "code": code, "message": message }),
            Some(data) => value!({ "code": code, "message": message, "data": data }),
        }
        .to_string()
        .into()
    }
}

impl Refusal {
    /// A refusal with nothing but its reason.
    pub(super) fn new(status: StatusCode, code: i32, message: impl Into<Cow<'static, str>>) -> Self {
        let error = ErrorObject { code, message: message.into(), data: None };
        Self(Box::new(Inner { status, error, id: None, headers: Vec::new() }))
    }

    /// 400 with this code.
    pub(super) fn bad_request(code: i32, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 404 for a method that nobody serves here.
    // MCP 2026-07-28 streamable-http, Status Codes
    pub(super) fn unknown_method(method: &str) -> Self {
        let shown: String = method.chars().take(SHOWN_CHARS).collect();
        Self::new(StatusCode::NOT_FOUND, code::METHOD_NOT_FOUND, format!("no such method: {shown}"))
    }

    /// 405 that says which HTTP methods there are.
    pub(super) fn method_not_allowed(allow: &'static str, message: &'static str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, code::INVALID_REQUEST, message)
            .with_header(ALLOW, HeaderValue::from_static(allow))
    }

    /// The request this answers, when its id could be read.
    // MCP 2026-07-28 streamable-http, Error Responses: the id is echoed when readable
    pub(super) fn answering(mut self, id: Option<&RequestId>) -> Self {
        if let Some(id) = id {
            self.0.id = Some(id.clone());
        }
        self
    }

    /// Adds `error.data`.
    pub(super) fn with_data(mut self, data: Value) -> Self {
        self.0.error.data = Some(data);
        self
    }

    /// Adds a header.
    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// Adds `Retry-After`.
    pub(super) fn with_retry_after(self, secs: Option<u64>) -> Self {
        match secs {
            Some(secs) => self.with_header(RETRY_AFTER, secs.into()),
            None => self,
        }
    }

    /// The status.
    pub(super) fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The JSON-RPC response alone.
    pub(super) fn into_message(self) -> Parts {
        message(self.0.id.as_ref(), "error", Parts::from(self.0.error.to_bytes()))
    }

    /// The whole response.
    pub(super) fn into_response(mut self) -> Response<Body> {
        let (status, headers) = (self.0.status, std::mem::take(&mut self.0.headers));
        let mut response = json(self.into_message());
        *response.status_mut() = status;
        response.headers_mut().extend(headers);
        response
    }
}

impl From<Denied> for Refusal {
    // RFC 9110 §11.6.1: a 401 says how to authenticate
    fn from(denied: Denied) -> Self {
        let Denied { status, challenge, retry_after_secs, message } = denied;
        let refusal = Self::new(status, code::INVALID_REQUEST, message).with_retry_after(retry_after_secs);
        match challenge {
            Some(challenge) => refusal.with_header(WWW_AUTHENTICATE, challenge),
            None => refusal,
        }
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::TooLarge(limit_bytes) => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                code::INVALID_REQUEST,
                format!("the request body is larger than {limit_bytes} bytes (limits.body)"),
            )
            .with_data(value!({ "reason": "too_large" })),
            ReadError::Full(bound) => bound.refusal().into(),
            ReadError::Slow => Self::new(
                StatusCode::REQUEST_TIMEOUT,
                code::INVALID_REQUEST,
                "the request body did not come in time",
            ),
            ReadError::Broken => {
                Self::bad_request(code::INVALID_REQUEST, "the request body could not be read")
            }
        }
    }
}

/// A JSON-RPC response around `value`, under `key`: `result` or `error`.
pub(super) fn message(id: Option<&RequestId>, key: &'static str, value: Parts) -> Parts {
    let (id, middle): (&[u8], &[u8]) = match (id, key) {
        // MCP 2025-11-25 schema: an error whose request has no readable id has none
        (None, _) => (b"", br#"{"jsonrpc":"2.0","error":"#),
        (Some(id), "error") => (id.as_bytes(), br#","error":"#),
        (Some(id), _) => (id.as_bytes(), br#","result":"#),
    };
    let start: &[u8] = if id.is_empty() { b"" } else { br#"{"jsonrpc":"2.0","id":"# };
    let head_bytes = start.len() + id.len() + middle.len();
    let small = value.len_bytes() <= COPIED_BYTES;
    let mut head = Vec::with_capacity(if small { head_bytes + value.len_bytes() + 1 } else { head_bytes });
    [start, id, middle].into_iter().for_each(|part| head.extend_from_slice(part));
    if small {
        value.iter().for_each(|part| head.extend_from_slice(part));
        head.push(b'}');
        return Bytes::from(head).into();
    }
    let mut message = Parts::from(Bytes::from(head));
    message.extend(value);
    message.push(Bytes::from_static(b"}"));
    message
}

/// 202 without a body.
// MCP 2026-07-28 streamable-http, Sending Messages; the same in earlier revisions
pub(super) fn accepted() -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

/// A response of one JSON message.
pub(super) fn json(message: Parts) -> Response<Body> {
    let mut response = Response::new(Body::whole(message));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// How many characters of a client's text a message repeats.
const SHOWN_CHARS: usize = 64;
