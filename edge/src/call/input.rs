//! A modern server's answer that needs input of the client first.

use bytes::Bytes;
use wire::Message;
use wire::envelope::Value;
use wire::limits::Limits;
use wire::mcp::method::Ask;
use wire::object::{Member, Object};

use super::{Call, ServerName};

/// The input that a server needs before it can answer, and the call that is sent again with it.
// MCP 2026-07-28 basic/patterns/mrtr, InputRequiredResult
#[derive(Debug)]
pub struct InputRequired {
    /// The call, with its permit: whoever answers dispatches it again, edited, and takes no other permit.
    pub call: Call,
    /// The server that needs it.
    pub server: ServerName,
    answer: Message,
}

impl InputRequired {
    /// What `server` answered to `call`, as far as it [`fits`].
    pub fn new(call: Call, server: ServerName, answer: Message) -> Self {
        Self { call, server, answer }
    }

    /// The whole answer.
    pub fn answer(&self) -> &Message {
        &self.answer
    }

    /// The input requests, by the server's own keys: an object.
    pub fn requests(&self) -> Option<Value<'_>> {
        member(&self.answer, REQUESTS)
    }

    /// The input requests, each as a request of its own; `None` if something of them cannot be read.
    pub fn questions(&self, limits: &Limits) -> Option<Vec<Question>> {
        let Some(requests) = self.requests() else { return Some(Vec::new()) };
        let bytes = self.answer.bytes();
        let object = Object::scan(bytes, requests.span(), limits).ok()?;
        object.members().map(|member| Question::read(bytes, member, limits)).collect()
    }

    /// The state that the server wants back unchanged: a JSON string.
    pub fn state(&self) -> Option<Bytes> {
        member(&self.answer, STATE).map(|state| state.span().slice(self.answer.bytes()))
    }
}

/// What a server wants under one key.
#[derive(Debug)]
pub struct Question {
    /// The server's own key, a JSON string as it stands.
    pub key: Bytes,
    /// The method, which may be none that a server may ask for here.
    pub kind: Ask,
    /// As a request of its own.
    pub request: Message,
}

impl Question {
    fn read(bytes: &Bytes, member: Member, limits: &Limits) -> Option<Self> {
        let request = Object::scan(bytes, member.value, limits).ok()?;
        let mut text = br#"{"jsonrpc":"2.0","id":0,"method":"#.to_vec();
        text.extend_from_slice(request.get(bytes, "method")?.of(bytes));
        text.extend_from_slice(br#","params":"#);
        text.extend_from_slice(request.get(bytes, "params").map_or(b"{}", |params| params.of(bytes)));
        text.push(b'}');
        let request = Message::scan(text.into(), limits).ok()?;
        let kind = Ask::parse(request.method());
        Some(Self { key: member.key.slice(bytes), kind, request })
    }
}

/// Whether an answer has at least one of the two members that this kind of result is there for, each of its type.
// The same page: a result without either is invalid
pub fn fits(answer: &Message) -> bool {
    let (requests, state) = (member(answer, REQUESTS), member(answer, STATE));
    let is_state = |state: &Value<'_>| state.raw().first() == Some(&b'"');
    (requests.is_some() || state.is_some())
        && requests.as_ref().is_none_or(Value::is_object)
        && state.as_ref().is_none_or(is_state)
}

fn member<'a>(answer: &'a Message, key: &str) -> Option<Value<'a>> {
    let span = answer.result_object()?.get(answer.bytes(), key)?;
    Some(Value::new(answer.bytes(), span))
}

const REQUESTS: &str = "inputRequests";
const STATE: &str = "requestState";
