//! The adapter for legacy clients over streamable HTTP (MCP 2025-03-26 to 2025-11-25; a client that asks for
//! 2024-11-05 is served too): a handshake, a session, requests within it, and a stream beside them.
//!
//! What the client declared in its handshake is added to each of its calls; requests need no other translation.
//! What is not here: messages that belong to no call (`own_stream`), and events kept for resumption
//! (`session/replay`).

pub(super) mod batch;
pub(super) mod http_sse;
pub(super) mod outbox;
pub(super) mod own_stream;
mod stream_lease;

use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{HeaderMap, Response, StatusCode};
use serde_json::json;
use wire::code;
use wire::id::RequestId;
use wire::mcp::meta;
use wire::mcp::method::{Method, Notice};
use wire::mcp::version::{ProtocolVersion, negotiate};
use wire::splice::Parts;
use wire::{Kind, Message};

use self::own_stream::Listening;
use super::asks::questions;
use super::body::Body;
use super::door::inbound::{InboundMessage, Started};
use super::door::{PostedMessage, classify, headers, media};
use super::exchange::Exchange;
use super::greeting::{self, Greeting};
use super::metrics::StreamKind;
use super::refusal::{self, ErrorObject, Refusal};
use super::requester::Requester;
use super::sse::{self, Feed};
use super::{Front, client};
use crate::call::{Affinity, Call, Caller, Capabilities, Client, StreamCredentials};
use crate::permit::Bound;
use crate::session::replay::EventId;
use crate::session::{Reader, Refused, Resumed, Session, SessionParams};

/// Opens a session over HTTP; its id is sent in a header.
pub(super) async fn initialize(front: &Front, posted: PostedMessage) -> Result<Response<Body>, Refusal> {
    let gateway = &*front.rooms.gateway;
    if !greeting::is_due(gateway) {
        // Whoever waits takes the place of a call.
        if let Err(bound) = &posted.inbound.permit {
            return Err(bound.refusal().into());
        }
        // Before there is a session, so that a client that leaves meanwhile leaves none behind.
        greeting::wait(gateway).await;
    }
    let (session, greeting) = open(front, &posted.inbound)?;
    let id = HeaderValue::from_str(session.id()).map_err(|_| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, code::INTERNAL_ERROR, "bad session id")
    })?;
    let mut response = Started::Answered(greeting.message()).respond(front, posted.accepts).await;
    response.headers_mut().insert(headers::SESSION_ID.clone(), id);
    Ok(response)
}

/// Opens a session and returns the answer to `initialize`.
// MCP 2025-11-25 basic/lifecycle, Initialization
pub(super) fn open(front: &Front, inbound: &InboundMessage) -> Result<(Arc<Session>, Greeting), Refusal> {
    let message = &inbound.message;
    let Some(asked) = message.param("protocolVersion").and_then(|value| value.as_str()) else {
        return Err(Refusal::bad_request(code::INVALID_PARAMS, "params.protocolVersion must be a string"));
    };
    let version = negotiate(&asked);
    let bounds = front.rooms.permits.metrics();
    let declared = ("params.capabilities", message.param("capabilities"));
    let declared = client::capabilities(message, declared, bounds)?;
    let info = client::info(message, ("params.clientInfo", message.param("clientInfo")), bounds)?;
    let offer = declared.as_deref().map(|declared| questions::offer(Capabilities::read(declared), version));
    // A copy, because a session must not keep the whole body in memory.
    let client = Client { info, capabilities: declared, offer }.copied();
    let gateway = &front.rooms.gateway;
    let session = front.rooms.sessions.open(SessionParams {
        caller: inbound.requester.caller.clone(),
        scope: inbound.requester.scope.clone(),
        version,
        client: Arc::new(client),
        changes: gateway.changes(&inbound.requester.caller, inbound.requester.scope.as_ref()),
    })?;
    let result = json!({
        "protocolVersion": version.as_str(),
        "capabilities": capabilities(version),
        "serverInfo": front.config.identity(),
    });
    Ok((session, Greeting::new(gateway.clone(), inbound.requester.clone(), message, result)))
}

/// The capabilities of the gateway. They are the same at any time, because they must hold for the whole session even if a
/// server is down when it opens.
fn capabilities(version: ProtocolVersion) -> serde_json::Value {
    let mut all = json!({
        "tools": { "listChanged": true },
        "prompts": { "listChanged": true },
        "resources": { "listChanged": true, "subscribe": true },
        "completions": {},
        "logging": {},
    });
    // MCP 2025-11-25 basic/utilities/tasks, Capability Negotiation
    if let (true, Some(all)) = (version >= ProtocolVersion::V2025_11_25, all.as_object_mut()) {
        let tasks = json!({ "list": {}, "cancel": {}, "requests": { "tools": { "call": {} } } });
        all.insert("tasks".to_owned(), tasks);
    }
    all
}

/// Answers one message of a session over HTTP.
pub(super) async fn message(front: &Front, posted: PostedMessage) -> Result<Response<Body>, Refusal> {
    let PostedMessage { headers, accepts, inbound } = posted;
    let session = find(front, &headers, &inbound.requester)?;
    check_version(&headers)?;
    Ok(match take(front, inbound, &session)? {
        Some(started) => started.respond(front, accepts).await,
        None => refusal::accepted(),
    })
}

/// Takes one message of a session; returns what it starts for a request.
pub(super) fn take(
    front: &Front,
    inbound: InboundMessage,
    session: &Arc<Session>,
) -> Result<Option<Started>, Refusal> {
    match inbound.message.kind() {
        Kind::Request => request(front, inbound, session).map(Some),
        Kind::Notification => {
            notice(front, session, &inbound.message);
            Ok(None)
        }
        Kind::Response => {
            if let Some(id) = inbound.message.id() {
                session.answer(id, questions::answer(&inbound.message));
            }
            // An answer that nobody waits for is accepted too: it may have crossed with a cancellation.
            Ok(None)
        }
    }
}

/// Opens the session's own stream, or resumes the stream of `Last-Event-ID`.
// MCP 2025-11-25 basic/transports, Listening for Messages from the Server; Resumability and Redelivery
pub(super) fn open_stream(
    front: &Front,
    headers: &HeaderMap,
    requester: &Requester,
) -> Result<Response<Body>, Refusal> {
    let session = find(front, headers, requester)?;
    check_version(headers)?;
    media::wants_events(headers)?;
    let last =
        headers::single(headers, &headers::LAST_EVENT_ID).ok().flatten().and_then(|id| id.to_str().ok());
    let resumed = match last.and_then(|id| EventId::parse(id.trim())) {
        Some(id) => session.resume(id),
        None => Resumed::Unknown,
    };
    front.rooms.metrics.resumption(last.map(|_| &resumed));
    let reader = match resumed {
        Resumed::From(reader) => return Ok(stream(front, &requester.caller, (None, reader))),
        Resumed::Complete => return Ok(nothing_more()),
        Resumed::Gone(Some(message)) => return Ok(sse::single(&message.into())),
        Resumed::Gone(None) => return Err(gone()),
        Resumed::Stale => {
            session.lost_track();
            listen(front, &session)
        }
        // An unknown id: clients that bring one from elsewhere still want a stream.
        Resumed::Unknown => listen(front, &session),
    };
    let primed = session.version() >= ProtocolVersion::V2025_11_25;
    let primed = primed.then(|| sse::priming(&reader));
    Ok(stream(front, &requester.caller, (primed, reader)))
}

/// A reader of the session's own stream.
pub(super) fn listen(front: &Front, session: &Arc<Session>) -> Reader {
    let (changes, drain) = (session.changes(), front.rooms.drain.clone());
    session.listen(|unsolicited_events| {
        Box::new(Listening::new(session.clone(), unsolicited_events, changes, drain))
    })
}

fn stream(front: &Front, caller: &Caller, (first, reader): (Option<Parts>, Reader)) -> Response<Body> {
    let count = front.rooms.metrics.stream(StreamKind::Session);
    sse::long_lived(
        StreamCredentials::of(caller.clone()),
        (first, Feed::Kept(reader)),
        front.config.keep_alive,
        count,
    )
}

/// The answer to a client that has read all of an ended stream. SDK clients take an empty 200 for a broken stream and
/// open another.
// HTML Living Standard §9.2.3: 204 tells a client not to come back
fn nothing_more() -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// The refusal to resume a stream. It is no 404, because a 404 would mean that the session is gone.
fn gone() -> Refusal {
    let message = "this stream ended, and its events are no longer kept";
    Refusal::new(StatusCode::GONE, code::INVALID_REQUEST, message).with_data(json!({ "reason": "lost" }))
}

/// Ends a session.
// MCP 2025-11-25 basic/transports, Session Management
pub(super) fn end_session(
    front: &Front,
    headers: &HeaderMap,
    requester: &Requester,
) -> Result<Response<Body>, Refusal> {
    let session = find(front, headers, requester)?;
    check_version(headers)?;
    front.rooms.sessions.delete(&session);
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

fn request(front: &Front, inbound: InboundMessage, session: &Arc<Session>) -> Result<Started, Refusal> {
    let message = &inbound.message;
    let method = Method::parse(message.method());
    if method == Method::Ping {
        return Ok(pong(message));
    }
    if !classify::is_routed_in_session(method, session.version()) {
        return Ok(Started::Answered(unknown_method(message)));
    }
    let Some(id) = message.id().cloned() else {
        return Err(Refusal::bad_request(code::INVALID_REQUEST, "a request has an id"));
    };
    call(front, inbound, session, (method, id)).map(Started::Call)
}

fn call(
    front: &Front,
    inbound: InboundMessage,
    session: &Arc<Session>,
    (method, id): (Method, RequestId),
) -> Result<Exchange, Refusal> {
    let InboundMessage { requester: Requester { caller, scope }, permit, message } = inbound;
    let permit = permit.map_err(Bound::refusal)?;
    let in_flight = session.begin(id.clone()).map_err(|refused| match refused {
        Refused::Ended => unknown_session(),
        Refused::Duplicate => Refusal::bad_request(
            code::INVALID_REQUEST,
            "a request of this id is still in flight; use another id",
        ),
        Refused::Full(error) => error.into(),
    })?;
    let call = Call {
        caller,
        client: session.client().clone(),
        affinity: Affinity::Session(session.handle().clone()),
        scope,
        method,
        request: message,
        pin: None,
        rename: None,
        permit,
    };
    Ok(Exchange::in_session(front, id, call, in_flight))
}

fn notice(front: &Front, session: &Session, message: &Message) {
    match Notice::parse(message.method()) {
        Notice::Initialized => session.initialized(),
        // MCP 2025-11-25 basic/utilities/cancellation: unknown ids are ignored
        Notice::Cancelled => {
            let id = message.param("requestId").and_then(|value| RequestId::parse(value.raw()));
            if let Some(id) = id {
                session.cancel(&id);
            }
        }
        // Progress on a server's request extends its timeout: MCP 2025-11-25 basic/utilities/progress
        Notice::Progress => {
            if let Some(token) = message.param(meta::PROGRESS_TOKEN) {
                session.progressed(token.raw(), message);
            }
        }
        Notice::RootsChanged => front.rooms.gateway.roots_changed(session.handle()),
        _ => {}
    }
}

/// The session that a batch belongs to, if it is of the one revision that has batches.
pub(super) fn batching(front: &Front, headers: &HeaderMap, requester: &Requester) -> Option<Arc<Session>> {
    find(front, headers, requester).ok().filter(|session| batch::is_known_to(session))
}

/// The session a message belongs to.
// MCP 2025-11-25 basic/transports, Session Management: 400 without an id, 404 for one that is not known
fn find(front: &Front, headers: &HeaderMap, requester: &Requester) -> Result<Arc<Session>, Refusal> {
    let id = match headers::single(headers, &headers::SESSION_ID) {
        Ok(Some(id)) => id.to_str().unwrap_or_default(),
        Ok(None) => {
            let message = "Mcp-Session-Id is missing; send initialize first, without it";
            return Err(Refusal::bad_request(code::INVALID_REQUEST, message));
        }
        Err(headers::Repeated) => {
            return Err(Refusal::bad_request(code::INVALID_REQUEST, "send one Mcp-Session-Id"));
        }
    };
    front.rooms.sessions.find(id, &requester.caller, requester.scope.as_ref()).ok_or_else(unknown_session)
}

pub(super) fn unknown_session() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, code::INVALID_REQUEST, "unknown session; send initialize again")
}

/// Checks `MCP-Protocol-Version`. It may be absent, because the session has its version, and may be another supported one.
// MCP 2025-11-25 basic/transports, Protocol Version Header: 400 for an unsupported one
fn check_version(headers: &HeaderMap) -> Result<(), Refusal> {
    let spoken = match headers::single(headers, &headers::PROTOCOL_VERSION) {
        Ok(None) => true,
        Ok(Some(value)) => {
            value.to_str().is_ok_and(|version| ProtocolVersion::parse(version.trim()).is_some())
        }
        Err(headers::Repeated) => false,
    };
    if spoken {
        return Ok(());
    }
    Err(Refusal::bad_request(code::INVALID_REQUEST, "unsupported MCP-Protocol-Version"))
}

/// Pings are answered at any time, also before the handshake.
// MCP 2025-11-25 basic/lifecycle, Initialization
pub(super) fn pong(ping: &Message) -> Started {
    Started::Answered(own_result(ping, "{}"))
}

fn own_result(request: &Message, result: impl Into<Bytes>) -> Parts {
    refusal::message(request.id(), "result", Parts::from(result.into()))
}

/// An error with status 200: a 404 would mean that the session is gone.
fn unknown_method(request: &Message) -> Parts {
    let error = ErrorObject { code: code::METHOD_NOT_FOUND, message: "no such method".into(), data: None };
    refusal::message(request.id(), "error", Parts::from(error.to_bytes()))
}
