//! The questions of servers to a legacy client, translated to its revision.
//!
//! A question for which the client did not declare the capability, or that its revision cannot express, is refused to
//! the server here and never reaches the client. What is not here: which stream it is sent on (`exchange`,
//! `own_stream`), and its answer (`session/ask`).

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use serde_json::{Value, json};
use wire::Message;
use wire::code;
use wire::mcp::meta;
use wire::mcp::method::{Ask as Kind, Notice};
use wire::mcp::version::ProtocolVersion;
use wire::splice::{Parts, Splice};

use crate::call::{Answer, Ask, Capabilities, Client};
use crate::front::refusal::ErrorObject;
use crate::session::{Asking, Session};

/// The questions that went out on one stream. When it ends, the session keeps those that are open.
pub(in crate::front) struct Questions {
    session: Arc<Session>,
    open: Vec<Asking>,
}

impl Questions {
    pub(in crate::front) fn new(session: Arc<Session>) -> Self {
        Self { session, open: Vec::new() }
    }

    /// The request to the client; `None` if the question is withdrawn, or was refused to the server.
    pub(in crate::front) fn put(&mut self, ask: Ask) -> Option<Parts> {
        if ask.withdrawn.is_cancelled() {
            return None;
        }
        self.open.retain(Asking::is_open);
        let (kind, request) = (ask.kind, ask.request.clone());
        let edits = match Edits::of(kind, &request, self.session.version(), self.session.client()) {
            Ok(edits) => edits,
            Err(why) => {
                let error = ErrorObject { code: code::INVALID_PARAMS, message: why.into(), data: None };
                ask.answer(Answer::Refused(error.to_bytes()));
                return None;
            }
        };
        let id = request.id_span()?;
        let asking = self.session.ask(ask.without_request())?;
        let mut splice = Splice::new(request.bytes().clone());
        splice.replace(id, asking.token());
        // Servers choose their tokens independently: two of them may choose the same one.
        if let Some(progress) = request.meta_value(meta::PROGRESS_TOKEN) {
            splice.replace(progress.span(), asking.token());
        }
        edits.make(&request, &mut splice, Some(&asking.token()));
        self.open.push(asking);
        Some(splice.finish())
    }

    /// Takes over the open questions of streams that have ended, which reported a withdrawal until then.
    pub(in crate::front) fn take_over_orphaned(&mut self, context: &mut Context<'_>) {
        while let Poll::Ready(asking) = self.session.poll_orphaned(context) {
            self.open.retain(Asking::is_open);
            self.open.push(asking);
        }
    }

    /// Ready with the notification that takes a question back.
    // MCP 2025-11-25 basic/utilities/cancellation
    pub(in crate::front) fn poll_withdrawn(&mut self, context: &mut Context<'_>) -> Poll<Parts> {
        let mut index = 0;
        while let Some(asking) = self.open.get_mut(index) {
            if asking.poll_withdrawn(context).is_pending() {
                index += 1;
                continue;
            }
            let asking = self.open.swap_remove(index);
            let token = asking.token();
            if asking.take_back() {
                return Poll::Ready(cancelled(&token));
            }
        }
        Poll::Pending
    }
}

fn cancelled(id: &Bytes) -> Parts {
    let mut message = Parts::from(Bytes::from(format!(
        r#"{{"jsonrpc":"2.0","method":"{}","params":{{"requestId":"#,
        Notice::Cancelled.as_str()
    )));
    message.push(id.clone());
    message.push(Bytes::from_static(br#","reason":"the server no longer waits for the answer"}}"#));
    message
}

/// The answer in a response of the client.
pub(in crate::front) fn answer(message: &Message) -> Answer {
    let bytes = message.bytes();
    if let (Some(_), Some(result)) = (message.result_object(), message.result()) {
        return Answer::Result(result.span().slice(bytes));
    }
    match message.error().filter(wire::envelope::Value::is_object) {
        Some(error) => Answer::Refused(error.span().slice(bytes)),
        None => {
            let message = "the client's answer is neither a result object nor an error object".into();
            let error = ErrorObject { code: code::INTERNAL_ERROR, message, data: None };
            Answer::Refused(error.to_bytes())
        }
    }
}

/// What has to change in a request for the revision of its receiver.
#[derive(Debug, Default)]
pub(super) struct Edits {
    /// Members that are removed.
    unwanted: Vec<&'static str>,
    /// It lacks the elicitationId that this revision requires.
    nameless: bool,
    /// A member that gets another value.
    replaced: Option<(&'static str, Bytes)>,
}

impl Edits {
    /// # Errors
    /// Why the client cannot be asked this.
    pub(super) fn of(
        kind: Kind,
        request: &Message,
        version: ProtocolVersion,
        client: &Client,
    ) -> Result<Self, &'static str> {
        let can = expressible(Capabilities::of(client), version);
        let needed = Capabilities::needed(kind, request)
            .ok_or("clients of this gateway do not answer this request")?;
        if !can.allow(needed) {
            return Err(match kind {
                Kind::Roots => "this client did not declare roots",
                Kind::Sampling if can.has(Capabilities::SAMPLING) => {
                    "this client does not support tools in sampling"
                }
                Kind::Sampling => "this client did not declare sampling",
                _ if can.has(Capabilities::ELICITATION) => {
                    "this client does not support this mode of elicitation"
                }
                _ => "this client did not declare elicitation",
            });
        }
        match kind {
            Kind::Sampling => Self::of_sampling(request, version, can),
            Kind::Elicitation => Self::of_elicitation(request, version),
            Kind::Roots | Kind::Ping | Kind::Other => Ok(Self::default()),
        }
    }

    fn of_sampling(
        request: &Message,
        version: ProtocolVersion,
        can: Capabilities,
    ) -> Result<Self, &'static str> {
        // MCP 2025-11-25 client/sampling: servers should not ask for context that the client did not declare, and it is
        // optional
        let current = version >= ProtocolVersion::V2025_11_25;
        let context =
            current && !can.has(Capabilities::SAMPLING_CONTEXT) && request.param("includeContext").is_some();
        let unwanted = context.then_some("includeContext").into_iter().collect();
        let messages = match request.param("messages") {
            Some(messages) if !current => downgrade_messages(messages.raw())?,
            _ => None,
        };
        let replaced = messages.map(|messages| ("messages", messages));
        Ok(Self { unwanted, replaced, ..Self::default() })
    }

    // MCP 2025-06-18 and 2025-11-25 client/elicitation
    fn of_elicitation(request: &Message, version: ProtocolVersion) -> Result<Self, &'static str> {
        let mode = request.param("mode").and_then(|mode| mode.as_str());
        if version >= ProtocolVersion::V2025_11_25 {
            // MCP 2026-07-28 changelog: elicitationId is gone, so modern servers send none
            let nameless = mode.as_deref() == Some("url") && request.param("elicitationId").is_none();
            return Ok(Self { nameless, ..Self::default() });
        }
        let schema =
            request.param("requestedSchema").map(|schema| downgrade_schema(schema.raw())).transpose()?;
        let unwanted = mode.is_some().then_some("mode").into_iter().collect();
        let replaced = schema.flatten().map(|schema| ("requestedSchema", schema));
        Ok(Self { unwanted, replaced, ..Self::default() })
    }

    /// Adds members that are removed.
    pub(super) fn without(mut self, unwanted: impl IntoIterator<Item = &'static str>) -> Self {
        self.unwanted.extend(unwanted);
        self
    }

    /// Edits the params of the request. `name` becomes the elicitationId where that is missing: a JSON string that no
    /// other question of the session has. Modern clients know questions by keys, and need none.
    pub(super) fn make(self, request: &Message, splice: &mut Splice, name: Option<&Bytes>) {
        let Some(params) = request.params() else { return };
        let mut params = splice.object(params);
        params.remove_where(|key| self.unwanted.contains(&key));
        if let Some(name) = name.filter(|_| self.nameless) {
            params.set("elicitationId", name.clone());
        }
        if let Some((key, value)) = self.replaced {
            params.set(key, value);
        }
        params.done();
    }
}

/// The modern form of the capabilities that a client of `version` declared, as far as servers may ask for them.
// MCP 2026-07-28 schema, ClientCapabilities
pub(in crate::front) fn offer(can: Capabilities, version: ProtocolVersion) -> Bytes {
    expressible(can.without(Capabilities::ROOTS_CHANGED), version).explicit().to_json().into()
}

/// Those that `version` can express. The others count as not declared.
// MCP 2025-06-18 changelog: elicitation; 2025-11-25 changelog: tools and context in sampling, elicitation by URL
fn expressible(mut can: Capabilities, version: ProtocolVersion) -> Capabilities {
    if version < ProtocolVersion::V2025_11_25 {
        let later = [Capabilities::SAMPLING_TOOLS, Capabilities::SAMPLING_CONTEXT, Capabilities::URL];
        can = later.into_iter().fold(can, Capabilities::without);
    }
    if version < ProtocolVersion::V2025_06_18 {
        can = can.without(Capabilities::ALL_ELICITATION);
    }
    can
}

/// The schema of a form for 2025-06-18, which has no titled choices but `enumNames`, and no choice of several values.
/// `None`: it needs no change.
fn downgrade_schema(schema: &[u8]) -> Result<Option<Bytes>, &'static str> {
    let unreadable = "the requested schema cannot be read";
    let mut schema: Value = serde_json::from_slice(schema).map_err(|_| unreadable)?;
    let Some(fields) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return Ok(None) };
    let mut changed = false;
    for field in fields.values_mut() {
        if field.get("type").is_some_and(|kind| kind == "array") {
            return Err("this client does not support choices of several values");
        }
        let Some(choices) = field.as_object_mut().and_then(|field| field.remove("oneOf")) else { continue };
        let choices = choices.as_array().ok_or(unreadable)?;
        let all =
            |key: &str| choices.iter().map(|choice| choice.get(key).cloned()).collect::<Option<Vec<_>>>();
        field["enum"] = all("const").ok_or(unreadable)?.into();
        field["enumNames"] = all("title").ok_or(unreadable)?.into();
        changed = true;
    }
    Ok(changed.then(|| json!(schema).to_string().into()))
}

/// The messages of a sampling request for revisions before 2025-11-25, in which a message has one block of content:
/// each block of several becomes a message of its own, of the same role. `None`: each has one already.
// MCP 2025-11-25 schema, SamplingMessage; 2025-06-18 schema, SamplingMessage
fn downgrade_messages(messages: &[u8]) -> Result<Option<Bytes>, &'static str> {
    let Ok(Value::Array(messages)) = serde_json::from_slice(messages) else { return Ok(None) };
    let (mut all, mut changed) = (Vec::new(), false);
    for mut message in messages {
        let Some(content) = message.get_mut("content").map(Value::take) else {
            all.push(message);
            continue;
        };
        let blocks = match content {
            Value::Array(blocks) => {
                changed = true;
                blocks
            }
            block => vec![block],
        };
        for block in blocks {
            let kind = block.get("type").and_then(Value::as_str);
            if matches!(kind, Some("tool_use" | "tool_result")) {
                return Err("this client does not support tools in sampling");
            }
            let mut message = message.clone();
            if let Some(message) = message.as_object_mut() {
                message.insert("content".to_owned(), block);
            }
            all.push(message);
        }
    }
    Ok(changed.then(|| Value::Array(all).to_string().into()))
}

#[cfg(test)]
mod tests;
