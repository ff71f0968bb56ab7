//! The adapter for modern clients (MCP 2026-07-28): every request stands alone, names its version and its
//! capabilities, and is cancelled by closing its response.
//!
//! A modern request is in the canonical form already: after the checks it goes on unchanged. What is not here:
//! subscription streams (`listen`), and retries of calls that required input (`retry`).

pub(super) mod listen;
pub(super) mod tasks;
mod timestamp;

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, Response};
use serde_json::json;
use wire::Era;
use wire::Message;
use wire::code;
use wire::mcp::meta;
use wire::mcp::method::Method;
use wire::mcp::version::{LATEST_MODERN, ProtocolVersion};
use wire::splice::Parts;

use super::asks::inputs::Answers;
use super::asks::retry::{self, Retry};
use super::body::Body;
use super::door::classify::{self, MISSING_META};
use super::door::inbound::{InboundMessage, Started};
use super::door::{PostedMessage, headers};
use super::exchange::{Exchange, Resumption};
use super::greeting::{self, Greeting};
use super::refusal::{self, Refusal};
use super::reply::ResponseEncoding;
use super::requester::Requester;
use super::{Front, client};
use crate::call::{Affinity, Call, Client};
use crate::permit::{self, Bound};

/// The refusal of a request that concerns tasks and does not declare the extension.
// MCP extension io.modelcontextprotocol/tasks
pub(super) fn undeclared_tasks() -> Refusal {
    let required = json!({ "extensions": { tasks::EXTENSION: {} } });
    let message = "this request does not declare the extension io.modelcontextprotocol/tasks";
    Refusal::bad_request(code::MISSING_CAPABILITY, message)
        .with_data(json!({ "requiredCapabilities": required }))
}

/// Answers one request over HTTP, where headers repeat parts of the body.
pub(super) async fn request(front: &Front, posted: PostedMessage) -> Result<Response<Body>, Refusal> {
    let PostedMessage { headers, accepts, inbound } = posted;
    let message = &inbound.message;
    let claim = Claim::of(message, front.rooms.permits.metrics())?;
    headers::check_version(&headers, &claim.version)?;
    check_supported(&claim.version)?;
    headers::check_method(&headers, message.method())?;
    let method = served(message)?;
    if method != Method::Discover {
        headers::check_name(&headers, message, method.facts())?;
    }
    if method == Method::ToolsCall {
        check_params(front, &headers, &inbound).await?;
    }
    let client = claim.client;
    Ok(begin(front, inbound, method, client)?.respond(front, accepts).await)
}

/// Starts one request that came without HTTP.
pub(super) fn start(front: &Front, inbound: InboundMessage) -> Result<Started, Refusal> {
    let claim = Claim::of(&inbound.message, front.rooms.permits.metrics())?;
    check_supported(&claim.version)?;
    let (method, client) = (served(&inbound.message)?, claim.client);
    begin(front, inbound, method, client)
}

// MCP 2026-07-28 changelog: initialize, ping, logging/setLevel and resources/subscribe are gone
fn served(message: &Message) -> Result<Method, Refusal> {
    let method = Method::parse(message.method());
    let own = matches!(method, Method::Discover | Method::Listen);
    if own || classify::is_routed(method) || is_of_tasks(method) {
        return Ok(method);
    }
    Err(Refusal::unknown_method(message.method()))
}

// MCP extension io.modelcontextprotocol/tasks; the other methods of that name are of 2025-11-25
fn is_of_tasks(method: Method) -> bool {
    matches!(method, Method::TasksGet | Method::TasksUpdate | Method::TasksCancel)
}

/// Accepts one notification. None is defined for clients over HTTP, for closing the stream cancels; SDK clients still send
/// `notifications/cancelled`.
pub(super) fn notice(headers: &HeaderMap, message: &Message) -> Result<Response<Body>, Refusal> {
    let claimed = message.meta_value(meta::PROTOCOL_VERSION).and_then(|value| value.as_str());
    headers::check_notice(headers, message, claimed.as_deref())?;
    Ok(refusal::accepted())
}

fn begin(front: &Front, inbound: InboundMessage, method: Method, client: Client) -> Result<Started, Refusal> {
    if method == Method::Listen {
        return listen::start(front, inbound, client).map(|listen| Started::Listen(Box::new(listen)));
    }
    let InboundMessage { requester, permit, message } = inbound;
    if method == Method::Discover {
        let greeting =
            Greeting::new(front.rooms.gateway.clone(), requester, &message, discover_result(front));
        if greeting::is_due(&*front.rooms.gateway) {
            return Ok(Started::Answered(greeting.message()));
        }
        // Whoever waits takes the place of a call.
        return Ok(greeting.with_permit(permit.map_err(Bound::refusal)?).started());
    }
    if is_of_tasks(method)
        && let Some(result) = own_task(front, &requester, (method, &message), &client)?
    {
        return Ok(Started::Answered(refusal::message(message.id(), "result", result)));
    }
    let permit = permit.map_err(Bound::refusal)?;
    let Some(id) = message.id().cloned() else {
        return Err(Refusal::bad_request(code::INVALID_REQUEST, "a request has an id"));
    };
    let (message, pin, rounds) = match retry::of(front, &requester, &client, method, message)? {
        Retry::None(message) => (message, None, 0),
        Retry::Relay(message, server) => (message, Some(server), 0),
        Retry::Again(message, rounds) => (message, None, rounds),
        Retry::Parked(message, parked) => {
            let resumption = Resumption { id, requester, parked: *parked, permit };
            return Ok(Started::Call(Exchange::resume(front, (&message, method), resumption)));
        }
        Retry::Over(outcome) => {
            let encoding = ResponseEncoding { era: Era::Modern, server: requester.scope };
            return Ok(Started::Answered(encoding.answer(&id, outcome).message));
        }
    };
    let call = Call {
        caller: requester.caller,
        client: Arc::new(client),
        affinity: Affinity::Principal,
        scope: requester.scope,
        method,
        request: message,
        pin,
        rename: None,
        permit,
    };
    Ok(Started::Call(Exchange::stateless(front, id, call, rounds)))
}

/// The result of a request about a task of the gateway; `None` if the task is a server's.
fn own_task(
    front: &Front,
    requester: &Requester,
    (method, message): (Method, &Message),
    client: &Client,
) -> Result<Option<Parts>, Refusal> {
    if !tasks::knows_tasks(client) {
        return Err(undeclared_tasks());
    }
    let Some(id) = message.param("taskId").and_then(|id| id.as_str()) else {
        return Err(Refusal::bad_request(code::INVALID_PARAMS, "params.taskId must be a string"));
    };
    if !tasks::is_own(&id) {
        return Ok(None);
    }
    let kept = &front.tasks;
    let result = match method {
        Method::TasksUpdate => kept.update(&id, requester, &Answers::of(message, &front.config.limits)?),
        Method::TasksCancel => kept.cancel(&id, requester),
        _ => kept.get(&id, requester),
    };
    Ok(Some(result?))
}

/// What every modern request declares in `_meta`, in slices of the request: whoever keeps it longer copies it.
struct Claim<'a> {
    version: Cow<'a, str>,
    client: Client,
}

impl<'a> Claim<'a> {
    // MCP 2026-07-28 basic, _meta: version and capabilities are required, clientInfo is not
    fn of(message: &'a Message, bounds: &permit::Metrics) -> Result<Self, Refusal> {
        let missing = || Refusal::bad_request(code::INVALID_PARAMS, MISSING_META);
        let version = message
            .meta_value(meta::PROTOCOL_VERSION)
            .and_then(|value| value.as_str())
            .ok_or_else(missing)?;
        let (capabilities, info) = (meta::CLIENT_CAPABILITIES, meta::CLIENT_INFO);
        let capabilities =
            client::capabilities(message, (capabilities, message.meta_value(capabilities)), bounds)?;
        let info = client::info(message, (info, message.meta_value(info)), bounds)?;
        let capabilities = Some(capabilities.ok_or_else(missing)?);
        Ok(Self { version, client: Client { info, capabilities, offer: None } })
    }
}

// MCP 2026-07-28 basic/versioning: legacy versions cannot be used per request, so they are not supported here
fn check_supported(version: &str) -> Result<(), Refusal> {
    if ProtocolVersion::parse(version).is_some_and(|version| version.era() == Era::Modern) {
        return Ok(());
    }
    Err(Refusal::bad_request(code::UNSUPPORTED_VERSION, "unsupported protocol version")
        .with_data(json!({ "supported": [LATEST_MODERN.as_str()], "requested": version })))
}

/// Checks the `Mcp-Param-*` headers. A tool's headers are known once names are settled: until then the call waits here, as
/// it would in the router.
async fn check_params(front: &Front, headers: &HeaderMap, inbound: &InboundMessage) -> Result<(), Refusal> {
    let Some(tool) = inbound.message.param("name").and_then(|name| name.as_str()) else { return Ok(()) };
    let (gateway, scope) = (&front.rooms.gateway, inbound.requester.scope.as_ref());
    if !*gateway.settled().borrow() {
        gateway.settling().await?;
    }
    // An unknown tool is refused by the router, with its own error.
    let Some(mirrored) = gateway.mirrored(&inbound.requester.caller, scope, &tool) else { return Ok(()) };
    let unreadable = |error| front.unreadable(&error);
    headers::check_params(headers, &inbound.message, &mirrored, (&front.config.limits, unreadable))
}

// MCP 2026-07-28 server/discover
fn discover_result(front: &Front) -> serde_json::Value {
    json!({
        "resultType": "complete",
        "supportedVersions": [LATEST_MODERN.as_str()],
        // The same for everybody at any time, so that it stays true while a server starts late.
        "capabilities": {
            "tools": { "listChanged": true },
            "prompts": { "listChanged": true },
            "resources": { "listChanged": true, "subscribe": true },
            "completions": {},
            "logging": {},
            "extensions": { tasks::EXTENSION: {} },
        },
        "ttlMs": DISCOVER_TTL_MS,
        "cacheScope": "private",
        "_meta": { meta::SERVER_INFO: front.config.identity() },
    })
}

/// How long a client may keep the answer. One minute: instructions change when servers come and go.
const DISCOVER_TTL_MS: u64 = 60_000;
