//! A server's answer as the client's revision has it: what would break the client, and no more, for members that
//! nobody knows break none.
//!
//! An answer may be as large as a frame. So it is walked where it stands, and what stays of it stays in its memory; what is
//! written anew counts against the byte budget.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use memchr::memmem::{self, Finder};
use serde_json::json;
use wire::code;
use wire::limits::Limits;
use wire::mcp::invoke::BLOCKS;
use wire::mcp::method::Method;
use wire::mcp::version::ProtocolVersion;
use wire::object::{self, Object};
use wire::span::Span;
use wire::splice::{Parts, Splice};

use crate::call::Outcome;
use crate::front::asks::rounds::RoundContext;
use crate::permit::{Bound, Permits};

/// The end of a call of `method`, as its client understands it.
pub(in crate::front) fn outcome(
    what: (Method, ProtocolVersion),
    outcome: Outcome,
    (context, principal): (&RoundContext, &Arc<str>),
) -> Outcome {
    downgrade(what, outcome, (&context.limits, (&context.permits, principal)))
}

fn downgrade(
    (method, version): (Method, ProtocolVersion),
    outcome: Outcome,
    (limits, budget): (&Limits, Budget<'_>),
) -> Outcome {
    match outcome {
        Outcome::Result(result) if matches!(method, Method::ToolsCall | Method::PromptsGet) => {
            match downgrade_result((method, version), result, (limits, budget)) {
                Ok(result) => Outcome::Result(result),
                Err(bound) => Outcome::Failed(bound.no_room_for_answer()),
            }
        }
        Outcome::Refused(error) if method == Method::ToolsCall => match missing(&error, limits) {
            Some(result) => Outcome::Result(result),
            None => Outcome::Refused(error),
        },
        other => other,
    }
}

/// A capability that the client did not declare. A tool's caller is a model, which can act on it.
// MCP 2026-07-28 basic, Error Codes: −32021 is unknown to earlier revisions
fn missing(error: &Bytes, limits: &Limits) -> Option<Parts> {
    let number = code::MISSING_CAPABILITY.to_string();
    memmem::find(error, number.as_bytes())?;
    let object = |at: Span| Object::scan(error, at, limits).ok();
    let whole = object(Span::all(error))?;
    if whole.get(error, "code")?.of(error) != number.as_bytes() {
        return None;
    }
    let data = whole.get(error, "data").and_then(object);
    let required = data.and_then(|data| data.get(error, "requiredCapabilities")).and_then(object);
    let mut names = Vec::new();
    for member in required.iter().flat_map(Object::members).take(NAMES) {
        let name = member.key_text(error);
        match object(member.value).filter(|flags| !flags.is_empty()) {
            Some(flags) => {
                names.extend(
                    flags.members().map(|flag| format!("{name}.{}", flag.key_text(error))).take(NAMES),
                );
            }
            None => names.push(name.into_owned()),
        }
    }
    let what = if names.is_empty() { "something that it did not name".to_owned() } else { names.join(", ") };
    let message = format!("this tool needs a client that declares {what}; this one does not");
    let result = json!({ "content": [{ "type": "text", "text": message }], "isError": true });
    Some(Bytes::from(result.to_string()).into())
}

/// What the bytes that are written anew count against.
type Budget<'b> = (&'b Permits, &'b Arc<str>);

/// A result with what its client does not take said in another way.
///
/// # Errors
/// When there is no room for what has to be written anew.
fn downgrade_result(
    (method, version): (Method, ProtocolVersion),
    result: Parts,
    (limits, budget): (&Limits, Budget<'_>),
) -> Result<Parts, Bound> {
    let known = known(version);
    // Members of a server's result are never cut in two, so a key or a word stands in one slice.
    let is_odd = method == Method::ToolsCall && result.iter().any(|slice| has_other_than_object(slice));
    if !is_odd && !result.iter().any(|slice| has_other_type(slice, known)) {
        return Ok(result);
    }
    let is_copied = result.iter().nth(1).is_some();
    let source = result.into_bytes();
    let source = if is_copied { hold(budget, source)? } else { source };
    let Ok(result) = Object::scan(&source, Span::all(&source), limits) else { return Ok(source.into()) };
    let mut draft = Draft { source: &source, limits, built: Vec::new(), edits: Vec::new() };
    let list = result.get(&source, if method == Method::ToolsCall { "content" } else { "messages" });
    let elements = list.and_then(|list| object::elements(&source, list, limits, BLOCKS).ok());
    for element in elements.iter().flatten() {
        draft.element(method, *element, known);
    }
    let structured = if is_odd { draft.structured(&result, (list, elements.as_deref())) } else { None };
    let Draft { built, edits, .. } = draft;
    let built = hold(budget, built.into())?;
    let mut splice = Splice::new(source.clone());
    edits.into_iter().for_each(|(span, range)| splice.replace(span, built.slice(range)));
    if let Some(content) = structured {
        let mut edit = splice.object(&result);
        edit.remove(STRUCTURED);
        if let Some(range) = content {
            edit.set("content", built.slice(range));
        }
    }
    Ok(splice.finish())
}

/// Types of content that the revision knows: its clients refuse the whole result over one block of any other.
// MCP 2024-11-05 schema; 2025-03-26 changelog: audio; 2025-06-18 changelog: resource links. `tool_use` and `tool_result` of
// 2025-11-25 stand in sampling alone.
fn known(version: ProtocolVersion) -> &'static [&'static [u8]] {
    let count = match version {
        ProtocolVersion::V2024_11_05 => KNOWN.len() - 2,
        ProtocolVersion::V2025_03_26 => KNOWN.len() - 1,
        _ => KNOWN.len(),
    };
    KNOWN.get(..count).unwrap_or_default()
}

/// In the order of the revisions that brought them, as JSON tokens.
const KNOWN: [&[u8]; 5] = [br#""text""#, br#""image""#, br#""resource""#, AUDIO, LINK];

/// A token of JSON, and what finds it: made once, for a small result is searched in less time than that takes.
struct Word {
    token: &'static [u8],
    finder: Finder<'static>,
}

impl Word {
    fn new(token: &'static [u8]) -> Self {
        Self { token, finder: Finder::new(token) }
    }

    /// What follows it wherever it may be a key: a value, and the rest of the slice.
    fn values<'s>(&'s self, slice: &'s [u8]) -> impl Iterator<Item = &'s [u8]> {
        self.finder.find_iter(slice).filter_map(|at| {
            let after = slice.get(at + self.token.len()..).unwrap_or_default().trim_ascii_start();
            after.strip_prefix(b":").map(<[u8]>::trim_ascii_start)
        })
    }
}

static STRUCTURED_KEY: LazyLock<Word> = LazyLock::new(|| Word::new(br#""structuredContent""#));
static TYPE_KEY: LazyLock<Word> = LazyLock::new(|| Word::new(br#""type""#));

/// Whether `structuredContent` may stand there with another value than an object: a search, and no parse.
fn has_other_than_object(slice: &[u8]) -> bool {
    STRUCTURED_KEY.values(slice).any(|value| value.first() != Some(&b'{'))
}

/// Whether `type` may stand there with another value than the `known` ones: a search, and no parse.
fn has_other_type(slice: &[u8], known: &[&[u8]]) -> bool {
    TYPE_KEY.values(slice).any(|value| !known.iter().any(|known| value.starts_with(known)))
}

fn hold((permits, principal): Budget<'_>, bytes: Bytes) -> Result<Bytes, Bound> {
    if bytes.len() < COUNTED_FROM_BYTES {
        return Ok(bytes);
    }
    let (bytes, held) = permits.hold(bytes).map_err(|(_, bound)| bound)?;
    held.attribute(principal)?;
    Ok(bytes)
}

/// What is to be written anew, all of it in one piece of memory.
struct Draft<'a> {
    source: &'a [u8],
    limits: &'a Limits,
    built: Vec<u8>,
    /// What of it comes in the place of what.
    edits: Vec<(Span, Range<usize>)>,
}

impl Draft<'_> {
    fn object(&self, span: Span) -> Option<Object> {
        Object::scan(self.source, span, self.limits).ok()
    }

    /// Puts all that was built since `from` in the place of `span`.
    fn put(&mut self, span: Span, from: usize) {
        self.edits.push((span, from..self.built.len()));
    }

    fn build(&mut self, pieces: &[&[u8]]) {
        pieces.iter().for_each(|piece| self.built.extend_from_slice(piece));
    }

    /// A block of a tool's result, or a message of a prompt, which has one.
    fn element(&mut self, method: Method, span: Span, known: &[&[u8]]) {
        let Some(element) = self.object(span) else { return };
        if method == Method::ToolsCall {
            return self.block(&element, known);
        }
        if let Some(block) = element.get(self.source, "content").and_then(|span| self.object(span)) {
            self.block(&block, known);
        }
    }

    fn block(&mut self, block: &Object, known: &[&[u8]]) {
        let Some(kind) = block.get(self.source, "type").map(|span| span.of(self.source)) else { return };
        // A server may write it with escapes.
        let kind = serde_json::from_slice::<String>(kind)
            .map_or_else(|_| kind.to_vec(), |kind| [b"\"", kind.as_bytes(), b"\""].concat());
        match &kind[..] {
            kind if known.contains(&kind) => {}
            AUDIO => self.audio(block),
            LINK => self.link(block),
            _ => self.unknown(block),
        }
    }

    /// A block of a type that the revision does not know as a text with its JSON.
    fn unknown(&mut self, block: &Object) {
        let from = self.built.len();
        self.build(&[br#"{"text":"#]);
        self.quote(block.span().of(self.source));
        self.build(&[br#","type":"text"}"#]);
        self.put(block.span(), from);
    }

    /// Builds a string with this JSON text in it.
    fn quote(&mut self, json: &[u8]) {
        let text = std::str::from_utf8(json).unwrap_or_default(); // the scan checked it
        self.built.extend_from_slice(&serde_json::to_vec(text).unwrap_or_default());
    }

    /// An audio block as the resource that it could be. Its data stay where they are.
    fn audio(&mut self, block: &Object) {
        let (source, from, whole) = (self.source, self.built.len(), block.span());
        self.build(&[br#"{"type":"resource","resource":{"uri":"attachment:audio","#]);
        if let Some(kind) = block.get(source, "mimeType") {
            self.build(&[br#""mimeType":"#, kind.of(source), b","]);
        }
        self.build(&[br#""blob":"#]);
        match block.get(source, "data") {
            Some(data) => {
                self.put(Span { start: whole.start, end: data.start }, from);
                let from = self.built.len();
                self.build(&[b"}}"]);
                self.put(Span { start: data.end, end: whole.end }, from);
            }
            None => {
                self.build(&[br#"""}}"#]);
                self.put(whole, from);
            }
        }
    }

    /// A link as a text with its address. What is put together are the insides of JSON strings, which is one again.
    fn link(&mut self, block: &Object) {
        let (source, from) = (self.source, self.built.len());
        let text = |key: &str| {
            let token = block.get(source, key)?.of(source);
            token.strip_prefix(b"\"")?.strip_suffix(b"\"")
        };
        let (name, uri) = (text("name").unwrap_or(b"resource"), text("uri").unwrap_or_default());
        self.build(&[br#"{"text":""#, name, b" <", uri, b">"]);
        if let Some(about) = text("description") {
            self.build(&[b": ", about]);
        }
        self.build(&[br#"","type":"text"}"#]);
        self.put(block.span(), from);
    }

    /// Until 2025-11-25 `structuredContent` is an object; official clients refuse a result where it is not. Then it goes,
    /// and what it says is said in a text: `None` if it may stay, else what `content` becomes, if it was no list.
    // MCP 2025-11-25 schema, CallToolResult; MCP 2026-07-28 changelog: any JSON value
    fn structured(
        &mut self,
        result: &Object,
        (content, blocks): (Option<Span>, Option<&[Span]>),
    ) -> Option<Option<Range<usize>>> {
        let source = self.source;
        let value = result.get(source, STRUCTURED).map(|span| span.of(source));
        let value = value.filter(|value| value.first() != Some(&b'{'))?;
        let content = content.filter(|content| content.of(source).first() == Some(&b'['));
        let says = |block: &Span| {
            let text = self.object(*block).and_then(|block| block.get(source, "text"));
            text.is_some_and(|text| is_said(value, text.of(source)))
        };
        if blocks.is_some_and(|blocks| blocks.iter().any(says)) {
            return Some(None);
        }
        let from = self.built.len();
        let inside = content.map(|content| Span { start: content.start + 1, end: content.end - 1 });
        match inside {
            None => self.build(&[b"["]),
            Some(inside) if inside.of(source).trim_ascii().is_empty() => {}
            Some(_) => self.build(&[b","]),
        }
        self.build(&[br#"{"text":"#]);
        self.quote(value);
        self.build(&[br#","type":"text"}"#]);
        let Some(inside) = inside else {
            self.build(&[b"]"]);
            return Some(Some(from..self.built.len()));
        };
        self.put(Span { start: inside.end, end: inside.end }, from);
        Some(None)
    }
}

/// Whether the string `token` holds the JSON text `value`, but for white space. A text with `\u` in it is not looked into:
/// then the same is said twice, which breaks nothing.
fn is_said(value: &[u8], token: &[u8]) -> bool {
    let inner = token.strip_prefix(b"\"").and_then(|token| token.strip_suffix(b"\""));
    let Some(inner) = inner else { return false };
    let mut bytes = inner.iter().copied();
    let said = std::iter::from_fn(|| match bytes.next()? {
        b'\\' => bytes.next().map(|escaped| match escaped {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'"' | b'\\' | b'/' => escaped,
            _ => NEVER, // also `\b` and `\f`, which no JSON text has
        }),
        byte => Some(byte),
    });
    compact(said).eq(compact(value.iter().copied()))
}

/// JSON without the white space between its tokens.
fn compact(json: impl Iterator<Item = u8>) -> impl Iterator<Item = u8> {
    let (mut is_inside, mut is_escaped) = (false, false);
    json.filter(move |byte| {
        let stays = is_inside || !byte.is_ascii_whitespace();
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => is_inside = !is_inside,
            _ => {}
        }
        stays
    })
}

const STRUCTURED: &str = "structuredContent";
const AUDIO: &[u8] = br#""audio""#;
const LINK: &[u8] = br#""resource_link""#;
/// A byte that stands in no JSON text.
const NEVER: u8 = 0;
/// From this size on memory is counted, as that of a server's lines is: below it, counting would cost more than the bytes.
const COUNTED_FROM_BYTES: usize = 16 << 10;
/// Missing capabilities that are named, and flags of each. 16: more than the revisions have.
const NAMES: usize = 16;

#[cfg(test)]
mod tests;
