//! One tool call without JSON-RPC, for curl and scripts: `{"method": "<tool>", "params": {…}}` in, the tool's
//! result as plain JSON out, and errors with a status that a script can act on.
//!
//! It is dispatched as a modern call: no session, no stream, and closing the connection cancels it. The tool cannot
//! ask anything, because there is nobody to answer.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Response;
use tokio::time::Instant;
use wire::code;
use wire::error::ScanError;
use wire::limits::Limits;
use wire::mcp::method::Method;
use wire::object::Object;
use wire::span::Span;
use wire::{Era, Message};

use super::Front;
use super::body::Body;
use super::metrics::{Record, Subject};
use super::refusal::Refusal;
use super::reply::ResponseEncoding;
use super::requester::Requester;
use crate::call::{Affinity, Call, Client};
use crate::permit::CallPermit;

/// Calls the tool that `body` names.
pub(super) async fn call(
    front: &Front,
    Requester { caller, scope }: Requester,
    permit: CallPermit,
    body: &Bytes,
) -> Result<Response<Body>, Refusal> {
    let unreadable = |error| front.unreadable(&error);
    let request = request(body, (&front.config.limits, unreadable))?;
    let started = Instant::now();
    let call = Call {
        caller,
        client: Arc::new(Client::default()),
        affinity: Affinity::Principal,
        scope: scope.clone(),
        method: Method::ToolsCall,
        request,
        pin: None,
        rename: None,
        permit,
    };
    let reply = front.rooms.gateway.dispatch(call);
    let server = reply.server().cloned().or(scope);
    let encoding = ResponseEncoding { era: Era::Modern, server: server.clone() };
    let (method, log) = (Method::ToolsCall, front.config.log_calls);
    let subject = Subject { era: Era::Modern, method, server, log, started };
    let mut record = Record::start(&front.rooms.metrics, subject);
    let answer = encoding.plain(reply.outcome().await);
    record.end(answer.ending);
    Ok(answer.into_json())
}

/// The tool call that `body` stands for; what cannot be read is refused as `unreadable` says. A copy, because something
/// has to be put around what came.
fn request(
    body: &Bytes,
    (limits, unreadable): (&Limits, impl Fn(ScanError) -> Refusal),
) -> Result<Message, Refusal> {
    if body.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(bad(r#"the body must be an object: {"method": "<tool>", "params": {…}}"#));
    }
    let whole = Span { start: 0, end: body.len() };
    let object = Object::scan(body, whole, limits).map_err(&unreadable)?;
    let known = |key: &str| matches!(key, "method" | "params");
    if object.members().any(|member| !known(&member.key_text(body))) {
        return Err(bad("beside `method` and `params` nothing is known here; JSON-RPC goes to /mcp"));
    }
    let starts_with = |span: &Span, first: u8| span.of(body).first() == Some(&first);
    let Some(tool) = object.get(body, "method").filter(|span| starts_with(span, b'"')) else {
        return Err(bad("`method` must be the name of a tool"));
    };
    let arguments = object.get(body, "params");
    if arguments.is_some_and(|span| !starts_with(&span, b'{')) {
        return Err(bad("`params` must be an object: the tool's arguments"));
    }
    let mut text = BytesMut::with_capacity(body.len() + FRAME.len() * 2);
    text.extend_from_slice(FRAME);
    text.extend_from_slice(tool.of(body));
    if let Some(arguments) = arguments {
        text.extend_from_slice(br#","arguments":"#);
        text.extend_from_slice(arguments.of(body));
    }
    text.extend_from_slice(b"}}");
    Message::scan(text.freeze(), limits).map_err(unreadable)
}

fn bad(message: &'static str) -> Refusal {
    Refusal::bad_request(code::INVALID_REQUEST, message)
}

const FRAME: &[u8] = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::door::classify;

    fn text(body: &'static str) -> Option<String> {
        let unreadable = |error| classify::uncounted_refusal(&error);
        let message = request(&Bytes::from_static(body.as_bytes()), (&Limits::default(), unreadable)).ok()?;
        String::from_utf8(message.bytes().to_vec()).ok()
    }

    #[test]
    fn a_tool_and_its_arguments_become_a_call() {
        let call =
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","arguments":{"a":1e2}}}"#;
        assert_eq!(text(r#" {"params":{"a":1e2},"method":"add"} "#).unwrap(), call);
        let bare = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"n\"o"}}"#;
        assert_eq!(text(r#"{"method":"n\"o"}"#).unwrap(), bare);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"method":1}"#,
            r#"{"method":"a","params":[1]}"#,
            r#"{"method":"a","params":null}"#,
            r#"{"method":"a","method":"b"}"#,
            r#"{"method":"a","params":{},"par\u0061ms":{}}"#,
            r#"{"method":"a","params":{}} {}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
        ] {
            assert_eq!(text(bad), None, "{bad}");
        }
    }
}
