//! A server with a handshake (2024-11-05 to 2025-11-25): `initialize` once per connection, then requests without
//! the modern keys of `_meta`; results get what the modern form wants.

use std::time::Duration;

use bytes::Bytes;
use wire::envelope::Value;
use wire::mcp::lifecycle::InitializeResult;
use wire::mcp::meta;
use wire::mcp::method::{Method, Notice};
use wire::mcp::version::{LATEST_LEGACY, ProtocolVersion};
use wire::object::Object;
use wire::splice::{Parts, Splice};
use wire::{Era, Message, code};

use super::conn::Conn;
use super::facts::{Facts, Refusal, identity, server_info};
use super::tasks::TaskIds;
use crate::call::{Affinity, Call, Outcome};

/// Shakes hands on a new connection. `capabilities` is a JSON object: servers register tools by it, and ask
/// only for what it names.
pub(super) async fn shake(conn: &Conn, capabilities: &str, timeout: Duration) -> Result<Facts, Refusal> {
    // MCP 2025-11-25 basic/lifecycle, Initialization
    let own = conn.spec().tenant.as_ref().and_then(|tenant| tenant.info());
    let info = own.map_or_else(identity, str::to_owned);
    let params = format!(
        r#"{{"protocolVersion":"{LATEST_LEGACY}","capabilities":{capabilities},"clientInfo":{info}}}"#
    );
    let result = Refusal::judge(conn.ask(Method::Initialize, &params, timeout).await)?;
    let answer: InitializeResult = serde_json::from_slice(&result)
        .map_err(|_| Refusal::Unusable("its answer to initialize is malformed"))?;
    // Any revision with a handshake will do: they differ in content, not in form.
    let version = ProtocolVersion::parse(&answer.protocol_version);
    let Some(version) = version.filter(|version| version.era() == Era::Legacy) else {
        return Err(Refusal::Unusable("it answered initialize with a protocol version nobody knows"));
    };
    conn.tell(format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, Notice::Initialized.as_str()));
    Ok(Facts {
        era: Era::Legacy,
        version,
        capabilities: Bytes::copy_from_slice(answer.capabilities.get().as_bytes()),
        info: server_info(&result, Era::Legacy),
        instructions: answer.instructions,
    })
}

/// Makes the `params` of a call those that a legacy server knows: `_meta` without the protocol's own keys, and no `task`
/// of a client that could not fetch what becomes of it.
pub(super) fn edit_params(splice: &mut Splice, call: &Call, progress: Option<Bytes>) {
    let keeps_task = call.method != Method::ToolsCall || knows_tasks(&call.affinity);
    edit(splice, &call.request, progress, keeps_task);
}

/// Takes the protocol's own keys out of the `_meta` of a message.
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

/// Whether a client knows the tasks that a call asks for with `task`. To any other client a server's CreateTaskResult is
/// the end of the call, without a way to its result.
// MCP 2025-11-25 basic/utilities/tasks; they are no part of the revisions before and after
fn knows_tasks(affinity: &Affinity) -> bool {
    matches!(affinity, Affinity::Session(session) if session.version >= ProtocolVersion::V2025_11_25)
}

/// The result in the modern form: the same bytes, and the members that every modern result has.
pub(super) fn result(call: &Call, answer: &Message, task_ids: &TaskIds) -> Option<Parts> {
    let object = answer.result_object()?;
    let mut splice = Splice::within(answer.bytes().clone(), object.span());
    task_ids.show_result(&mut splice, call, answer);
    let mut edit = splice.object(object);
    // MCP 2026-07-28 basic, Results: a missing resultType from an older server means "complete".
    edit.set("resultType", COMPLETE);
    // MCP 2026-07-28 server/utilities/caching: nobody told us how long this stays true, or for whom.
    if call.method == Method::ResourcesRead {
        edit.set("ttlMs", AT_ONCE);
        edit.set("cacheScope", PRIVATE);
    }
    if matches!(call.method, Method::ToolsCall | Method::TasksResult) && has_null_for_none(answer, object) {
        edit.remove("structuredContent");
    }
    edit.done();
    Some(splice.finish())
}

/// Whether it has `null` where nothing is structured, as some languages write what is not there. Where there is no
/// `content` either, `null` may be what the tool says.
// MCP 2025-11-25 schema, CallToolResult: structuredContent is an object; 2026-07-28: any JSON value, null as well
fn has_null_for_none(answer: &Message, result: &Object) -> bool {
    let bytes = answer.bytes();
    result.get(bytes, "structuredContent").is_some_and(|value| value.of(bytes) == b"null")
        && result.get(bytes, "content").is_some_and(|content| content.of(bytes).first() == Some(&b'['))
}

/// The error of a server, as the outcome of a call for `uri`.
pub(super) fn refusal(method: Method, uri: Option<&str>, error: Value<'_>) -> Outcome {
    let is_not_found =
        || code::of_error(error.raw()).is_some_and(|code| code == i64::from(code::RESOURCE_NOT_FOUND));
    match (method, uri) {
        // MCP 2025-11-25 server/resources, Error Handling; modern clients know another code.
        (Method::ResourcesRead, Some(uri)) if is_not_found() => {
            Outcome::Failed(super::facts::unknown_resource(uri))
        }
        _ => Outcome::Refused(Bytes::copy_from_slice(error.raw())),
    }
}

const COMPLETE: Bytes = Bytes::from_static(br#""complete""#);
const AT_ONCE: Bytes = Bytes::from_static(b"0");
const PRIVATE: Bytes = Bytes::from_static(br#""private""#);
