//! A call as the line that goes to a server: the client's own bytes but for the id, the name and `_meta`,
//! edited in one pass. The eras differ in what they do to `_meta`; the rest is here.

use bytes::Bytes;
use wire::Era;
use wire::frame::one_line;
use wire::id::RequestId;
use wire::mcp::meta;
use wire::splice::{Parts, Splice};

use super::mux::WireId;
use super::{legacy, modern};
use crate::call::Call;

/// The client's request with every byte on one line; a server takes a line for a message, so a raw line break
/// would let a client write messages of its own to a process it shares. No copy when there is none.
pub(super) fn flatten(call: &Call) -> Bytes {
    one_line(call.request.bytes().clone())
}

/// `source` (the flattened request of `call`) as request `id` to a server of `era`.
pub(super) fn request(call: &Call, source: Bytes, id: WireId, era: Era) -> Parts {
    let id = RequestId::number(id.number());
    let mut splice = Splice::new(source);
    if let Some(span) = call.request.id_span() {
        splice.replace_id(span, id.clone());
    }
    if let Some(rename) = &call.rename {
        splice.replace(rename.span, rename.token.clone());
    }
    // A client's tokens may collide with another's; the request's id is as unique, and maps back as it does.
    let progress = call.request.meta_value(meta::PROGRESS_TOKEN).map(|_| id.token());
    match era {
        Era::Legacy => legacy::edit_meta(&mut splice, &call.request, progress),
        Era::Modern => modern::edit_meta(&mut splice, call, progress),
    }
    splice.finish()
}

/// A request of our own.
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

/// The answer to a request that a server made: `outcome` is the rest of the message, from its comma on.
pub(super) fn answer(id: &RequestId, outcome: &'static str) -> Parts {
    let head = Bytes::from_static(br#"{"jsonrpc":"2.0","id":"#);
    [head, id.token(), Bytes::from_static(outcome.as_bytes())].into_iter().collect()
}

/// The same from what a client said: `value` is its `result` or its `error`, by `key`.
pub(super) fn relayed(id: &RequestId, key: &'static str, value: Bytes) -> Parts {
    let head = Bytes::from_static(br#"{"jsonrpc":"2.0","id":"#);
    let middle = Bytes::from(format!(r#","{key}":"#));
    [head, id.token(), middle, one_line(value), Bytes::from_static(b"}")].into_iter().collect()
}
