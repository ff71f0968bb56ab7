//! Batches: several messages in one array, which only sessions of 2025-03-26 may send.
//!
//! Each message is handled as if it had come alone. Over Streamable HTTP the answers are sent in one array if all are
//! available at once, else on one stream as they come, which cannot be resumed; a client with one stream for everything
//! gets them there. The number of messages is bounded, and each call takes a permit of its own.
// MCP 2025-03-26 basic/transports, Sending Messages to the Server; basic, Batching

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::Response;
use wire::envelope;
use wire::error::ScanErrorKind;
use wire::mcp::meta;
use wire::mcp::method::Method;
use wire::mcp::version::ProtocolVersion;
use wire::splice::Parts;
use wire::{Kind, Message, code};

use super::outbox::outbox;
use crate::front::body::Body;
use crate::front::door::inbound::{InboundMessage, Started};
use crate::front::door::media::Accepts;
use crate::front::metrics::StreamKind;
use crate::front::refusal::{self, Refusal};
use crate::front::requester::Requester;
use crate::front::sse::{self, Feed};
use crate::front::{Front, legacy};
use crate::permit::Bound;
use crate::session::Session;

/// Whether a session may send batches.
// MCP 2025-06-18 changelog: batching was removed
pub(in crate::front) fn is_known_to(session: &Session) -> bool {
    session.version() == ProtocolVersion::V2025_03_26
}

/// Takes all messages of a batch and answers it.
pub(in crate::front) async fn answer(
    front: &Front,
    requester: &Requester,
    session: &Arc<Session>,
    accepts: Accepts,
    body: &Bytes,
) -> Result<Response<Body>, Refusal> {
    Ok(respond(front, take(front, requester, session, body)?, accepts).await)
}

/// Takes all messages of a batch; returns what is started for those that get an answer.
pub(in crate::front) fn take(
    front: &Front,
    requester: &Requester,
    session: &Arc<Session>,
    body: &Bytes,
) -> Result<Vec<Started>, Refusal> {
    let limits = &front.config.limits;
    let messages = envelope::batch(body, limits, MESSAGES).map_err(|error| {
        // Of an array, its elements are the members.
        if error.kind != ScanErrorKind::TooManyMembers {
            return front.unreadable(&error);
        }
        front.rooms.permits.metrics().hit(Bound::Batch);
        let text = format!("a batch has at most {MESSAGES} messages; send the others in another one");
        Refusal::bad_request(code::INVALID_REQUEST, text)
    })?;
    if messages.is_empty() {
        // JSON-RPC 2.0 §6
        return Err(Refusal::bad_request(code::INVALID_REQUEST, "an empty batch"));
    }
    // Copies: a slice would keep the whole batch for as long as one call of it runs, and only its own bytes count.
    let scanned: Vec<_> =
        messages.iter().map(|text| Message::scan(Bytes::copy_from_slice(text), limits)).collect();
    let is_modern = |message: &Message| message.meta_value(meta::PROTOCOL_VERSION).is_some();
    if scanned.iter().flatten().any(is_modern) {
        // MCP 2026-07-28 streamable-http, Sending Messages: the body is a single message
        let text = "a request of 2026-07-28 or later cannot be part of a batch";
        return Err(Refusal::bad_request(code::INVALID_REQUEST, text));
    }
    let start = |message| match message {
        Ok(message) => one(front, requester, session, message),
        Err(error) => Some(Started::Answered(front.unreadable(&error).into_message())),
    };
    Ok(scanned.into_iter().filter_map(start).collect())
}

fn one(front: &Front, requester: &Requester, session: &Arc<Session>, message: Message) -> Option<Started> {
    let id = (message.kind() == Kind::Request).then(|| message.id().cloned()).flatten();
    let started = if Method::parse(message.method()) == Method::Initialize {
        // MCP 2025-03-26 basic/lifecycle, Initialization: never part of a batch
        Err(Refusal::bad_request(code::INVALID_REQUEST, "initialize cannot be part of a batch"))
    } else {
        let mut permit = front.rooms.permits.call(requester.caller.principal());
        if let Ok(held) = &mut permit
            && let Err(bound) = held.hold_bytes(message.bytes().len())
        {
            permit = Err(bound);
        }
        let inbound = InboundMessage { requester: requester.clone(), permit, message };
        legacy::take(front, inbound, session)
    };
    match started {
        Ok(started) => started,
        Err(refusal) => Some(Started::Answered(refusal.answering(id.as_ref()).into_message())),
    }
}

async fn respond(front: &Front, started: Vec<Started>, accepts: Accepts) -> Response<Body> {
    if started.is_empty() {
        return refusal::accepted();
    }
    let at_once = started.iter().all(|started| matches!(started, Started::Answered(_)));
    if accepts.json && (at_once || !accepts.events) {
        return match array(started).await {
            Some(answers) => refusal::json(answers),
            None => refusal::accepted(),
        };
    }
    let (outbox, messages) = outbox(front.rooms.permits.metrics());
    for started in started {
        let outbox = outbox.clone();
        // A call that nobody reads any more must not take a question and lose it: dropped, it runs on alone, and what
        // its server asks is sent on the session's own stream.
        front.rooms.drain.spawn(async move {
            tokio::select! {
                biased;
                () = outbox.closed() => {}
                () = outbox.deliver(Ok(Some(started))) => {}
            }
        });
    }
    let count = front.rooms.metrics.stream(StreamKind::Call);
    sse::response(None, Feed::Plain(Box::new(messages)), front.config.keep_alive, count)
}

/// All answers in one array. `None`: the client has cancelled all of its calls.
// JSON-RPC 2.0 §6: nothing rather than an empty array
async fn array(started: Vec<Started>) -> Option<Parts> {
    let answers = join_all(started.into_iter().map(|started| async {
        match started {
            Started::Answered(answer) => Some(answer),
            Started::Greeting(greeting) => Some(greeting.ready().await),
            Started::Call(exchange) => exchange.answer().await,
            Started::Listen(_) => None, // unknown in the revision that has batches
        }
    }));
    let mut array = Parts::default();
    let mut separator: &'static [u8] = b"[";
    for answer in answers.await.into_iter().flatten() {
        array.push(Bytes::from_static(separator));
        array.extend(answer);
        separator = b",";
    }
    if separator == b"[" {
        return None;
    }
    array.push(Bytes::from_static(b"]"));
    Some(array)
}

/// The outputs of all `futures`, in their order. They are polled together: a call that is not polled is neither
/// cancelled nor asked anything.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(|future| (Some(Box::pin(future)), None)).collect();
    poll_fn(|context| {
        for (future, output) in &mut pending {
            let polled = future.as_mut().map(|future| future.as_mut().poll(context));
            if let Some(Poll::Ready(ready)) = polled {
                (*future, *output) = (None, Some(ready));
            }
        }
        if pending.iter().all(|(future, _)| future.is_none()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    pending.into_iter().filter_map(|(_, output)| output).collect()
}

/// Messages of one batch. 64: no client in use sends more than a few, and each may start a call.
const MESSAGES: usize = 64;
