//! The adapter to servers of the modern era (2026-07-28 and later): every request carries the revision, the client's
//! name and its capabilities. Results pass as they are; legacy clients get them without the members that only modern ones have.

use bytes::Bytes;
use serde::Deserialize;
use wire::envelope::Value;
use wire::mcp::level::Level;
use wire::mcp::meta;
use wire::mcp::method::Method;
use wire::mcp::version::LATEST_MODERN;
use wire::object::Object;
use wire::splice::{Parts, Splice};
use wire::{Message, code};

use super::completion;
use super::facts::{identity, unknown_resource};
use super::tasks::ShownIds;
use crate::call::{Affinity, Call, Outcome, input};

/// The params of a request of the gateway's own: `members`, each followed by a comma, and the required `_meta`.
pub(super) fn own_params(members: &str, capabilities: &str) -> String {
    let (version, info, can) = (meta::PROTOCOL_VERSION, meta::CLIENT_INFO, meta::CLIENT_CAPABILITIES);
    let identity = identity();
    format!(
        r#"{{{members}"_meta":{{"{version}":"{LATEST_MODERN}","{info}":{identity},"{can}":{capabilities}}}}}"#
    )
}

/// Puts into `_meta` what every modern request carries, from what the client declared.
// MCP 2026-07-28 basic, _meta: protocolVersion and clientCapabilities are required, clientInfo should be sent.
pub(super) fn edit_meta(
    splice: &mut Splice,
    call: &Call,
    (progress, logs): (Option<Bytes>, impl Fn() -> bool),
) {
    let (request, client) = (&call.request, &call.client);
    let version = Bytes::from_static(VERSION.as_bytes());
    let (capabilities, level) = match &call.affinity {
        // A modern client's level is in the request already.
        Affinity::Principal => (client.capabilities.clone(), None),
        Affinity::Session(_) => {
            (client.offer.clone(), level(call).map(|level| format!("\"{}\"", level.as_str())))
        }
    };
    let capabilities = capabilities.unwrap_or(NO_CAPABILITIES);
    // MCP 2026-07-28 server/utilities/logging: a level is for servers that declare `logging`
    let names_level = level.is_some() || request.meta_value(meta::LOG_LEVEL).is_some();
    let unwanted = names_level && !logs();
    let level = level.filter(|_| !unwanted);
    let stamps = [
        (meta::PROTOCOL_VERSION, Some(version)),
        (meta::CLIENT_INFO, client.info.clone()),
        (meta::CLIENT_CAPABILITIES, Some(capabilities)),
        (meta::LOG_LEVEL, level.map(Bytes::from)),
        (meta::PROGRESS_TOKEN, progress),
    ];
    let stamps = stamps.iter().filter_map(|(key, value)| Some((*key, value.as_ref()?)));
    if let Some(meta) = request.meta() {
        let mut edit = splice.object(meta);
        stamps.for_each(|(key, value)| edit.set(key, value.clone()));
        if unwanted {
            edit.remove(meta::LOG_LEVEL);
        }
        return;
    }
    // Four bytes for each: two quotes, a colon, and the comma or brace before it; one brace at the end.
    let length = 1 + stamps.clone().map(|(key, value)| key.len() + value.len() + 4).sum::<usize>();
    let mut object = Vec::with_capacity(length);
    for (key, value) in stamps {
        object.extend_from_slice(if object.is_empty() { b"{\"" } else { b",\"" });
        [key.as_bytes(), b"\":", value].iter().for_each(|part| object.extend_from_slice(part));
    }
    object.push(b'}');
    match (request.params(), request.id_span()) {
        (Some(params), _) => splice.object(params).set("_meta", object),
        (None, Some(id)) => {
            splice.insert(id.end, [&br#","params":{"_meta":"#[..], &object, b"}"].concat());
        }
        (None, None) => {}
    }
}

/// The lowest level of log messages that a call asks for; without one the server sends none.
// MCP 2026-07-28 server/utilities/logging: only during a request that names a level
pub(super) fn level(call: &Call) -> Option<Level> {
    match &call.affinity {
        Affinity::Principal => Level::wanted_by(&call.request),
        Affinity::Session(session) => session.settings.level(),
    }
}

/// The kind of a result.
pub(super) enum Judged {
    /// It ends the call.
    Complete(Parts),
    /// The server needs input of the client first.
    Input,
}

/// The kind of a call's result, by its `resultType`; `None` if it is invalid.
// MCP 2026-07-28 basic, Results: without a type it is "complete"; an unknown type is invalid. basic/patterns/mrtr:
// three methods may want input.
pub(super) fn judge(call: &Call, answer: &Message, task_ids: ShownIds<'_>) -> Option<Judged> {
    let result = answer.result_object()?;
    let complete = || match call.method {
        Method::TasksGet => task_ids.show_task(call, answer).map(Judged::Complete),
        Method::Complete if matches!(call.affinity, Affinity::Principal) => {
            let mut splice = Splice::within(answer.bytes().clone(), result.span());
            completion::clamp(&mut splice, call.method, (answer.bytes(), result));
            Some(Judged::Complete(splice.finish()))
        }
        _ if matches!(call.affinity, Affinity::Principal) => {
            Some(Judged::Complete(result.span().slice(answer.bytes()).into()))
        }
        method => Some(Judged::Complete(for_session(method, answer, result))),
    };
    let Some(kind) = result.get(answer.bytes(), RESULT_TYPE) else { return complete() };
    match Value::new(answer.bytes(), kind).as_str()?.as_ref() {
        "complete" => complete(),
        "input_required" if may_want_input(call.method) && input::fits(answer) => Some(Judged::Input),
        "task" if may_become_task(call) || call.method == Method::TasksGet => {
            task_ids.show_task(call, answer).map(Judged::Complete)
        }
        _ => None,
    }
}

/// The result as earlier revisions have it.
fn for_session(method: Method, answer: &Message, result: &Object) -> Parts {
    let mut splice = Splice::within(answer.bytes().clone(), result.span());
    let mut edit = splice.object(result);
    edit.remove(RESULT_TYPE);
    if method == Method::ResourcesRead {
        edit.remove(TTL_MS);
        edit.remove(CACHE_SCOPE);
    }
    edit.done();
    completion::clamp(&mut splice, method, (answer.bytes(), result));
    splice.finish()
}

/// What modern results have beside those of earlier revisions.
// MCP 2026-07-28 basic, Results; server/utilities/caching
pub(super) const RESULT_TYPE: &str = "resultType";
pub(super) const COMPLETE: Bytes = Bytes::from_static(br#""complete""#);
pub(super) const TTL_MS: &str = "ttlMs";
pub(super) const CACHE_SCOPE: &str = "cacheScope";

// MCP extension tasks: only for a client that declares it in this very request
fn may_become_task(call: &Call) -> bool {
    #[derive(Deserialize)]
    struct Declared {
        #[serde(rename = "extensions")]
        _extensions: Extensions,
    }
    #[derive(Deserialize)]
    struct Extensions {
        #[serde(rename = "io.modelcontextprotocol/tasks")]
        _tasks: serde::de::IgnoredAny,
    }
    let declared =
        call.client.capabilities.as_deref().filter(|_| matches!(call.affinity, Affinity::Principal));
    call.method == Method::ToolsCall
        && declared.is_some_and(|text| serde_json::from_slice::<Declared>(text).is_ok())
}

fn may_want_input(method: Method) -> bool {
    matches!(method, Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead)
}

/// The outcome of a call that the server answered with an error; `uri` is the resource that the call named.
pub(super) fn refusal(method: Method, uri: Option<&str>, error: Value<'_>) -> Outcome {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        data: Data<'a>,
    }
    #[derive(Deserialize)]
    struct Data<'a> {
        #[serde(borrow)]
        uri: std::borrow::Cow<'a, str>,
    }
    // MCP 2026-07-28 server/resources, Error Handling: not found is "invalid params" that names the URI.
    let not_found = |uri: &str| {
        code::of_error(error.raw()).is_some_and(|code| code == i64::from(code::INVALID_PARAMS))
            && error.parse::<Body<'_>>().is_ok_and(|body| body.data.uri == uri)
    };
    match (method, uri) {
        (Method::ResourcesRead, Some(uri)) if not_found(uri) => unknown_resource(error, uri),
        _ => Outcome::Refused(Bytes::copy_from_slice(error.raw())),
    }
}

const VERSION: &str = r#""2026-07-28""#;
const NO_CAPABILITIES: Bytes = Bytes::from_static(b"{}");
