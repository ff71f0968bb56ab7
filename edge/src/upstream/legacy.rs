//! The adapter to servers of the legacy era (2024-11-05 to 2025-11-25): requests go out without the modern keys of
//! `_meta`, and results for modern clients get the members that these require.

use bytes::Bytes;
use wire::envelope::Value;
use wire::limits::Limits;
use wire::mcp::meta;
use wire::mcp::method::Method;
use wire::mcp::version::ProtocolVersion;
use wire::object::Object;
use wire::span::Span;
use wire::splice::{Parts, Splice};
use wire::{Message, code};

use super::completion;
use super::facts::unknown_resource;
use super::modern::{CACHE_SCOPE, COMPLETE, RESULT_TYPE, TTL_MS};
use super::tasks::ShownIds;
use crate::call::{Affinity, Call, Outcome};

/// Edits the `params` of a call for a legacy server: removes the protocol's own keys from `_meta`, and `task` if the
/// client could not fetch the task's result.
pub(super) fn edit_params(splice: &mut Splice, call: &Call, progress: Option<Bytes>) {
    let keeps_task = call.method != Method::ToolsCall || knows_tasks(&call.affinity);
    edit(splice, &call.request, progress, keeps_task);
}

/// Removes the protocol's own keys from the `_meta` of a message.
pub(super) fn edit_meta(splice: &mut Splice, message: &Message) {
    edit(splice, message, None, true);
}

fn edit(splice: &mut Splice, message: &Message, progress: Option<Bytes>, keeps_task: bool) {
    let Some(params) = message.params() else { return };
    let keeps_meta = message.meta().is_none_or(|meta| {
        // A legacy server may give the protocol's keys a meaning of its own.
        let bytes = message.bytes();
        let stays = |key: &str| !meta::is_protocol_key(key);
        let is_needed = meta.members().any(|member| stays(&member.key_text(bytes)));
        if is_needed {
            let mut edit = splice.object(meta);
            edit.remove_where(meta::is_protocol_key);
            if let Some(token) = progress {
                edit.set(meta::PROGRESS_TOKEN, token);
            }
        }
        is_needed
    });
    let mut edit = splice.object(params);
    if !keeps_meta {
        edit.remove("_meta"); // some servers trip over an empty one
    }
    if !keeps_task {
        edit.remove("task");
    }
}

/// Whether a client knows the tasks that `params.task` asks for. Any other client would get CreateTaskResult as the
/// end of its call, without a way to fetch the result.
// MCP 2025-11-25 basic/utilities/tasks; they are no part of the revisions before and after
fn knows_tasks(affinity: &Affinity) -> bool {
    matches!(affinity, Affinity::Session(session) if session.version >= ProtocolVersion::V2025_11_25)
}

/// The result as the client's era has it: the same bytes, for a modern client with the members that every modern result
/// has. `None` if it is no object.
pub(super) fn result(call: &Call, answer: &Message, task_ids: ShownIds<'_>) -> Option<Parts> {
    let object = answer.result_object()?;
    let mut splice = Splice::within(answer.bytes().clone(), object.span());
    task_ids.show_result(&mut splice, call, answer);
    completion::clamp(&mut splice, call.method, (answer.bytes(), object));
    let mut edit = splice.object(object);
    if matches!(call.affinity, Affinity::Principal) {
        // MCP 2026-07-28 basic, Results: a missing resultType from an older server means "complete".
        edit.set(RESULT_TYPE, COMPLETE);
        // MCP 2026-07-28 server/utilities/caching: a legacy server does not say how long its result is valid, or for whom.
        if call.method == Method::ResourcesRead {
            edit.set(TTL_MS, AT_ONCE);
            edit.set(CACHE_SCOPE, PRIVATE);
        }
    }
    if matches!(call.method, Method::ToolsCall | Method::TasksResult) && has_null_for_none(answer, object) {
        edit.remove("structuredContent");
    }
    edit.done();
    Some(splice.finish())
}

/// Whether `structuredContent` is `null` and means that there is none, as some SDKs write it. Without `content`,
/// `null` may be the tool's result.
// MCP 2025-11-25 schema, CallToolResult: structuredContent is an object; 2026-07-28: any JSON value, null as well
fn has_null_for_none(answer: &Message, result: &Object) -> bool {
    let bytes = answer.bytes();
    result.get(bytes, "structuredContent").is_some_and(|value| value.of(bytes) == b"null")
        && result.get(bytes, "content").is_some_and(|content| content.of(bytes).first() == Some(&b'['))
}

/// The outcome of a call that the server answered with an error; `uri` is the resource that the call named.
pub(super) fn refusal(method: Method, uri: Option<&str>, error: Value<'_>) -> Outcome {
    let code = code::of_error(error.raw());
    match (method, uri) {
        // MCP 2025-11-25 server/resources, Error Handling; modern clients know another code.
        (Method::ResourcesRead, Some(uri)) if code == Some(i64::from(code::RESOURCE_NOT_FOUND)) => {
            unknown_resource(error, uri)
        }
        // A code of a later revision, so here it is the server's own: it must not tell clients what it means there.
        _ if code == Some(i64::from(code::MISSING_CAPABILITY)) => Outcome::Refused(as_internal(error)),
        _ => Outcome::Refused(Bytes::copy_from_slice(error.raw())),
    }
}

/// The error with another code, which says nothing.
fn as_internal(error: Value<'_>) -> Bytes {
    let error = Bytes::copy_from_slice(error.raw());
    let Ok(object) = Object::scan(&error, Span::all(&error), &Limits::default()) else { return error };
    let mut splice = Splice::new(error);
    splice.object(&object).set("code", code::INTERNAL_ERROR.to_string());
    splice.finish().into_bytes()
}

const AT_ONCE: Bytes = Bytes::from_static(b"0");
const PRIVATE: Bytes = Bytes::from_static(br#""private""#);
