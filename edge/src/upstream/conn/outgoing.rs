//! The lines that are written to a server. A call is the client's own bytes, with the id, the name and `_meta` edited
//! in one pass; what is edited in `_meta` differs by era (`legacy`, `modern`).

use bytes::Bytes;
use serde_json::{Value, json};
use wire::envelope::ScanErrorKind;
use wire::frame::one_line;
use wire::id::RequestId;
use wire::mcp::meta;
use wire::splice::{Parts, Splice};
use wire::{Era, Message, ScanError, code};

use super::mux::WireId;
use crate::call::Call;
use crate::upstream::{legacy, modern};

/// The client's request as request `id` to a server of `era`. It is a single line, as is every scanned message. That
/// matters: to a server a line is a message, so a raw line break would let a client inject messages into a process
/// that it shares.
///
/// `logs` says whether the server declared `logging`; it is asked only for a call that wants log messages.
pub(super) fn request(call: &Call, id: WireId, (era, logs): (Era, impl Fn() -> bool)) -> Parts {
    let id = RequestId::number(id.number());
    let mut splice = Splice::new(call.request.bytes().clone());
    if let Some(span) = call.request.id_span() {
        splice.replace_id(span, id.clone());
    }
    if let Some(rename) = &call.rename {
        splice.replace(rename.span, rename.token.clone());
    }
    // Tokens of different clients may collide, so the id is the token too.
    let progress = call.request.meta_value(meta::PROGRESS_TOKEN).map(|_| id.token());
    match era {
        Era::Legacy => legacy::edit_params(&mut splice, call, progress),
        Era::Modern => modern::edit_meta(&mut splice, call, (progress, logs)),
    }
    splice.finish()
}

/// A request of the gateway's own.
pub(super) fn own(id: WireId, method: &str, params: &str) -> Parts {
    let number = id.number();
    Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{number},"method":"{method}","params":{params}}}"#)).into()
}

// MCP 2025-11-25 basic/utilities/cancellation; 2026-07-28 basic/transports/stdio, Cancellation
pub(super) fn cancelled(id: WireId) -> Parts {
    let number = id.number();
    Bytes::from(format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{number}}}}}"#
    ))
    .into()
}

/// The notification that a client's roots changed.
// MCP 2025-11-25 client/roots, Root List Changes
pub(super) const ROOTS_CHANGED: Bytes =
    Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#);

/// A client's progress with a request of the server, under the server's `token` (JSON text). It is built anew and
/// bounded, because what the client sent may be long and waits here. `None` if it has no `progress` number.
// MCP 2025-11-25 basic/utilities/progress
pub(super) fn progress(token: &[u8], notice: &Message) -> Option<Parts> {
    let number = |key| {
        let raw = notice.param(key)?.raw();
        let first = raw.first()?;
        (raw.len() <= NUMBER_BYTES && (*first == b'-' || first.is_ascii_digit())).then_some(raw)
    };
    let mut line = Vec::from(PROGRESS);
    line.extend_from_slice(token);
    line.extend_from_slice(br#","progress":"#);
    line.extend_from_slice(number("progress")?);
    if let Some(total) = number("total") {
        line.extend_from_slice(br#","total":"#);
        line.extend_from_slice(total);
    }
    if let Some(text) = notice.param("message").and_then(|text| text.as_str()) {
        let text: String = text.chars().take(MESSAGE_CHARS).collect();
        line.extend_from_slice(br#","message":"#);
        line.extend_from_slice(Value::from(text).to_string().as_bytes());
    }
    line.extend_from_slice(b"}}");
    Some(Bytes::from(line).into())
}

/// The response to a request of the server; `outcome` is the rest of the message from its comma on.
pub(super) fn answer(id: &RequestId, outcome: &'static str) -> Parts {
    let head = Bytes::from_static(br#"{"jsonrpc":"2.0","id":"#);
    [head, id.token(), Bytes::from_static(outcome.as_bytes())].into_iter().collect()
}

/// The response to a request of the server that is no valid message.
// JSON-RPC 2.0 §5.1
pub(super) fn unreadable(id: &RequestId, error: &ScanError) -> Parts {
    let code = match error.kind {
        ScanErrorKind::Syntax | ScanErrorKind::NotUtf8 => code::PARSE_ERROR,
        _ => code::INVALID_REQUEST,
    };
    let value = json!({ "code": code, "message": error.to_string() });
    relayed(id, "error", value.to_string().into())
}

/// The response to a request of the server with a client's `value`, under the key `result` or `error`.
pub(super) fn relayed(id: &RequestId, key: &'static str, value: Bytes) -> Parts {
    let head = Bytes::from_static(br#"{"jsonrpc":"2.0","id":"#);
    let middle = Bytes::from(format!(r#","{key}":"#));
    [head, id.token(), middle, one_line(value), Bytes::from_static(b"}")].into_iter().collect()
}

const PROGRESS: &[u8] = br#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"#;
/// Bytes of a number of a client that is relayed. 32: any double, and any integer of 64 bits.
const NUMBER_BYTES: usize = 32;
/// Characters of a client's progress message that are relayed. 1,000: more than anybody reads while waiting.
const MESSAGE_CHARS: usize = 1000;
