//! The adapter for modern clients (MCP 2026-07-28): every request stands alone, names its version and its
//! capabilities, and is cancelled by closing its response.
//!
//! What is in the canonical form already needs no translation: after the checks the request goes on as it
//! came. What is not here: streams of notifications and parked calls.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use serde_json::json;
use wire::Era;
use wire::Message;
use wire::code;
use wire::mcp::meta;
use wire::mcp::method::Method;
use wire::mcp::version::{LATEST_MODERN, ProtocolVersion};
use wire::splice::Parts;

use super::body::Body;
use super::classify::{self, MISSING_META};
use super::exchange::{Exchange, Tie};
use super::refusal::{self, Refusal};
use super::{Front, Posted, headers, sse};
use crate::call::{Affinity, Call, Client, ServerName};
use crate::permit::Bound;

/// Answers one request.
pub(super) async fn request(front: &Front, posted: Posted) -> Result<Response<Body>, Refusal> {
    let message = &posted.message;
    let Claim { version, client } = Claim::of(message)?;
    headers::check_version(&posted.headers, &version)?;
    check_supported(&version)?;
    headers::check_method(&posted.headers, message.method())?;
    let method = Method::parse(message.method());
    if method == Method::Discover {
        return Ok(discover(front, &posted));
    }
    // MCP 2026-07-28 changelog: initialize, ping, logging/setLevel and resources/subscribe are gone
    if !classify::is_routed(method) {
        return Err(Refusal::unknown_method(message.method()));
    }
    headers::check_name(&posted.headers, message, method.facts())?;
    if method == Method::ToolsCall {
        check_params(front, &posted)?;
    }
    call(front, posted, method, client).await
}

/// Takes one notification. None is defined for clients over HTTP, and cancelling is closing the stream; SDK
/// clients still send `notifications/cancelled`.
pub(super) fn notice(headers: &HeaderMap, message: &Message) -> Result<Response<Body>, Refusal> {
    let claimed = message.meta_value(meta::PROTOCOL_VERSION).and_then(|value| value.as_str());
    headers::check_notice(headers, message, claimed.as_deref())?;
    Ok(accepted())
}

/// 202 without a body.
// MCP 2026-07-28 streamable-http, Sending Messages; the same words in earlier revisions
pub(super) fn accepted() -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

async fn call(
    front: &Front,
    posted: Posted,
    method: Method,
    client: Client,
) -> Result<Response<Body>, Refusal> {
    let Posted { caller, scope, accepts, room, message, .. } = posted;
    let permit = room.map_err(Bound::refusal)?;
    let Some(id) = message.id().cloned() else {
        return Err(Refusal::bad_request(code::INVALID_REQUEST, "a request has an id"));
    };
    let call = Call {
        caller,
        client: Arc::new(client),
        affinity: Affinity::Principal,
        scope,
        method,
        request: message,
        rename: None,
        permit,
    };
    let exchange = Exchange::start(front, (Era::Modern, id), call, Tie::Response);
    Ok(exchange.respond(accepts, front.config.pace(), &front.rooms.metrics).await)
}

/// What every modern request says of itself.
struct Claim<'a> {
    version: Cow<'a, str>,
    client: Client,
}

impl<'a> Claim<'a> {
    // MCP 2026-07-28 basic, _meta: version and capabilities are required, clientInfo is not
    fn of(message: &'a Message) -> Result<Self, Refusal> {
        let missing = || Refusal::bad_request(code::INVALID_PARAMS, MISSING_META);
        let version = message
            .meta_value(meta::PROTOCOL_VERSION)
            .and_then(|value| value.as_str())
            .ok_or_else(missing)?;
        let capabilities = object(message, meta::CLIENT_CAPABILITIES)?.ok_or_else(missing)?;
        let info = object(message, meta::CLIENT_INFO)?;
        Ok(Self { version, client: Client { info, capabilities: Some(capabilities) } })
    }
}

fn object(message: &Message, key: &str) -> Result<Option<Bytes>, Refusal> {
    let Some(value) = message.meta_value(key) else { return Ok(None) };
    if !value.is_object() {
        let message = format!("params._meta: {key} must be an object");
        return Err(Refusal::bad_request(code::INVALID_PARAMS, message));
    }
    Ok(Some(value.span().slice(message.bytes())))
}

// MCP 2026-07-28 basic/versioning: legacy versions cannot be used per request, so they are not on offer here
fn check_supported(version: &str) -> Result<(), Refusal> {
    if ProtocolVersion::parse(version).is_some_and(|version| version.era() == Era::Modern) {
        return Ok(());
    }
    Err(Refusal::bad_request(code::UNSUPPORTED_VERSION, "unsupported protocol version")
        .with_data(json!({ "supported": [LATEST_MODERN.as_str()], "requested": version })))
}

fn check_params(front: &Front, posted: &Posted) -> Result<(), Refusal> {
    let Some(tool) = posted.message.param("name").and_then(|name| name.as_str()) else { return Ok(()) };
    // An unknown tool is refused by the router, which knows the words for it.
    let Some(mirrored) = front.rooms.gateway.mirrored(posted.scope.as_ref(), &tool) else { return Ok(()) };
    headers::check_params(&posted.headers, &posted.message, &mirrored, &front.config.limits)
}

// MCP 2026-07-28 server/discover
fn discover(front: &Front, posted: &Posted) -> Response<Body> {
    let result = discover_result(front, posted.scope.as_ref());
    let message = refusal::message(posted.message.id(), "result", Parts::from(result));
    if posted.accepts.json { refusal::json(message) } else { sse::single(&message) }
}

fn discover_result(front: &Front, scope: Option<&ServerName>) -> Bytes {
    let mut result = json!({
        "resultType": "complete",
        "supportedVersions": [LATEST_MODERN.as_str()],
        // The same for everybody at any time: a server that is slow today must not make this a lie.
        "capabilities": { "tools": {}, "prompts": {}, "resources": {}, "completions": {} },
        "ttlMs": DISCOVER_TTL_MS,
        "cacheScope": "private",
        "_meta": { meta::SERVER_INFO: front.config.identity() },
    });
    if let (Some(instructions), Some(result)) =
        (front.rooms.gateway.instructions(scope), result.as_object_mut())
    {
        result.insert("instructions".to_owned(), instructions.into());
    }
    result.to_string().into()
}

/// How long a client may keep the answer. One minute: instructions change when servers come and go.
const DISCOVER_TTL_MS: u64 = 60_000;
