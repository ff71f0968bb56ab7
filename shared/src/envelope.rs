//! One JSON-RPC message: its kind, and where the parts are that a gateway reads. The scan checks the whole text once and
//! refuses everything that two parsers could read differently.

mod value;

use std::borrow::Cow;

use bytes::Bytes;

pub use self::value::Value;
pub use crate::error::{ScanError, ScanErrorKind};
use crate::frame::one_line;
use crate::id::RequestId;
use crate::id_finder::IdFinder;
use crate::limits::Limits;
use crate::object::{self, Object, Passing};
use crate::scanner::Scanner;
use crate::span::Span;
use crate::text;

/// The kind of a message (JSON-RPC 2.0 §4 and §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Has a method and an id, and expects one response.
    Request,
    /// Has a method and no id, and gets no response.
    Notification,
    /// Has a result or an error.
    Response,
}

/// One JSON-RPC message: its bytes and what the scan found in them.
#[derive(Clone, Debug)]
pub struct Message {
    bytes: Bytes,
    kind: Kind,
    id: Option<(RequestId, Span)>,
    method: Option<Text>,
    payload: Option<Object>,
    meta: Option<Object>,
    result: Option<Span>,
    error: Option<Span>,
}

/// A string of the message.
#[derive(Clone, Debug)]
enum Text {
    /// Without escapes: where it is in the message.
    Plain(Span),
    Unescaped(Box<str>),
}

impl Message {
    /// Scans one message. The whole text is checked: UTF-8, JSON, depth, and equal keys at the levels that are read
    /// (the message, its `params` or `result`, and the `_meta` in there).
    ///
    /// The message is made one line, because servers read one message per line: raw line breaks between tokens become
    /// spaces. This happens after the scan, which refuses them in strings, where a space would change the string.
    ///
    /// # Errors
    /// What is wrong, where, and the id to answer to if it could be read.
    // RFC 8259 §7: control characters in strings must be escaped
    pub fn scan(bytes: Bytes, limits: &Limits) -> Result<Message, ScanError> {
        let message = Message::scan_as(bytes, limits, Strictness::Exact)?;
        Ok(Message { bytes: one_line(message.bytes), ..message })
    }

    /// Scans a message of a server as [`scan`](Self::scan) does, but accepts two deviations that servers have: a response may
    /// lack `jsonrpc` if it has no members but `id` and `result` or `error` (log lines in JSON may have these, but others
    /// too), and one of `result` and `error` may be null. Line breaks stay.
    ///
    /// # Errors
    /// As for [`scan`](Self::scan).
    pub fn scan_of_server(bytes: Bytes, limits: &Limits) -> Result<Message, ScanError> {
        Message::scan_as(bytes, limits, Strictness::Server)
    }

    fn scan_as(bytes: Bytes, limits: &Limits, strictness: Strictness) -> Result<Message, ScanError> {
        match TopLevel::find(&bytes, limits).and_then(|found| found.judge(&bytes, strictness)) {
            Ok(message) => Ok(Message { bytes, ..message }),
            Err(error) if matches!(error.kind, ScanErrorKind::BadId | ScanErrorKind::Batch) => Err(error),
            Err(error) => {
                let finder = IdFinder::all(&bytes);
                let (is_response, is_request) = (finder.is_response(), finder.is_request());
                Err(ScanError { is_response, is_request, id: finder.id(), ..error })
            }
        }
    }

    /// The message as received, except for line breaks between tokens.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The message with `copy` in place of its bytes, if they are equal. What is kept for long must not be a slice: it would
    /// keep all of the buffer that it was read into.
    pub fn moved_to(self, copy: Bytes) -> Message {
        if copy == self.bytes { Message { bytes: copy, ..self } } else { self }
    }

    /// The kind of the message.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The id. A request has one; an error response may have none, or null, which also gives `None`.
    pub fn id(&self) -> Option<&RequestId> {
        self.id.as_ref().map(|(id, _)| id)
    }

    /// Where the id is.
    pub fn id_span(&self) -> Option<Span> {
        self.id.as_ref().map(|(_, span)| *span)
    }

    /// The method, unescaped; empty for a response.
    pub fn method(&self) -> &str {
        match &self.method {
            Some(Text::Plain(span)) => std::str::from_utf8(span.of(&self.bytes)).unwrap_or_default(),
            Some(Text::Unescaped(text)) => text,
            None => "",
        }
    }

    /// The `params` object of a request or notification.
    pub fn params(&self) -> Option<&Object> {
        self.payload.as_ref().filter(|_| self.kind != Kind::Response)
    }

    /// The `result` of a response, if it is an object.
    pub fn result_object(&self) -> Option<&Object> {
        self.payload.as_ref().filter(|_| self.kind == Kind::Response)
    }

    /// The `_meta` object of `params`, or of a response's `result`.
    pub fn meta(&self) -> Option<&Object> {
        self.meta.as_ref()
    }

    /// A member of `params`.
    pub fn param(&self, key: &str) -> Option<Value<'_>> {
        self.value(self.params()?.get(&self.bytes, key)?)
    }

    /// A member of [`meta`](Self::meta).
    pub fn meta_value(&self, key: &str) -> Option<Value<'_>> {
        self.value(self.meta()?.get(&self.bytes, key)?)
    }

    /// The `result` of a response.
    pub fn result(&self) -> Option<Value<'_>> {
        self.value(self.result?)
    }

    /// The `error` of a response.
    pub fn error(&self) -> Option<Value<'_>> {
        self.value(self.error?)
    }

    fn value(&self, span: Span) -> Option<Value<'_>> {
        Some(Value::new(&self.bytes, span))
    }
}

/// How far the scan accepts deviations from JSON-RPC 2.0.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strictness {
    Exact,
    /// Accepts what servers are known to send; see [`Message::scan_of_server`].
    Server,
}

/// The members of the top level, before they are checked against each other.
#[derive(Default)]
struct TopLevel {
    version: Option<Span>,
    id: Option<Span>,
    method: Option<Span>,
    params: Option<Span>,
    result: Option<Span>,
    error: Option<Span>,
    payload: Option<Object>,
    meta: Option<Object>,
    /// There are members that JSON-RPC does not define.
    has_foreign: bool,
    end: usize,
}

impl TopLevel {
    fn find(bytes: &[u8], limits: &Limits) -> Result<TopLevel, ScanError> {
        let mut found = TopLevel::default();
        let mut scanner = Scanner::new(bytes, Span::all(bytes), limits);
        match scanner.peek() {
            Some(b'{') => {}
            Some(b'[') => return Err(ScanError::new(ScanErrorKind::Batch, scanner.at())),
            _ => {
                let at = scanner.at();
                scanner.value()?;
                scanner.end()?;
                return Err(ScanError::new(ScanErrorKind::NotAMessage, at));
            }
        }
        let _: (Span, Passing) = Object::step_through(&mut scanner, bytes, limits, |scanner, key| {
            let payload = matches!(key, b"params" | b"result") && scanner.peek() == Some(b'{');
            let span = if payload { found.walk_payload(scanner, bytes, limits)? } else { scanner.value()? };
            match key {
                b"jsonrpc" => found.version = Some(span),
                b"id" => found.id = Some(span),
                b"method" => found.method = Some(span),
                b"params" => found.params = Some(span),
                b"result" => found.result = Some(span),
                b"error" => found.error = Some(span),
                _ => found.has_foreign = true,
            }
            Ok(span)
        })?;
        found.end = scanner.at();
        scanner.end()?;
        Ok(found)
    }

    fn walk_payload(
        &mut self,
        scanner: &mut Scanner<'_>,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Span, ScanError> {
        let mut meta = None;
        let payload = Object::walk(scanner, bytes, limits, |scanner, key| {
            if key == b"_meta" && scanner.peek() == Some(b'{') {
                let object = Object::walk(scanner, bytes, limits, |scanner, _| Ok(scanner.value()?))?;
                return Ok(meta.insert(object).span());
            }
            Ok(scanner.value()?)
        })?;
        self.meta = meta;
        Ok(self.payload.insert(payload).span())
    }

    /// Decides the kind of the message and refuses members that do not fit it. The result has no bytes yet.
    // JSON-RPC 2.0 §4, §5; MCP 2025-11-25 basic, Messages
    fn judge(mut self, bytes: &Bytes, strictness: Strictness) -> Result<Message, ScanError> {
        let is_lenient = strictness == Strictness::Server;
        if is_lenient {
            self.drop_null(bytes);
        }
        let misfit = |at: Span| ScanError::new(ScanErrorKind::NotAMessage, at.start);
        let whole = Span { start: 0, end: self.end };
        match self.version {
            Some(version) if text::decode(version.of(bytes)).as_deref() != Some("2.0") => {
                return Err(misfit(version));
            }
            None if !is_lenient || self.has_foreign || self.method.is_some() || self.id.is_none() => {
                return Err(misfit(whole));
            }
            _ => {}
        }
        let kind = match (self.method, self.result.or(self.error)) {
            (Some(_), None) if self.id.is_some() => Kind::Request,
            (Some(_), None) => Kind::Notification,
            (None, Some(_)) => Kind::Response,
            (Some(_), Some(span)) => return Err(misfit(span)),
            (None, None) => return Err(misfit(whole)),
        };
        if let (Some(_), Some(error)) = (self.result, self.error) {
            return Err(misfit(error));
        }
        let misplaced = match kind {
            Kind::Response => self.params,
            Kind::Request | Kind::Notification => self.params.filter(|_| self.payload.is_none()),
        };
        if let Some(span) = misplaced {
            return Err(misfit(span));
        }
        let method =
            self.method.map(|span| Text::read(bytes, span).ok_or_else(|| misfit(span))).transpose()?;
        let id = read_id(bytes, self.id, self.error.is_some())?;
        if id.is_none() && self.result.is_some() {
            return Err(misfit(whole));
        }
        let TopLevel { payload, meta, result, error, .. } = self;
        Ok(Message { bytes: Bytes::new(), kind, id, method, payload, meta, result, error })
    }
}

impl TopLevel {
    /// Removes the null one of `result` and `error`: JSON-RPC 1.0 sends both, and official clients accept that.
    fn drop_null(&mut self, bytes: &[u8]) {
        let (Some(result), Some(error)) = (self.result, self.error) else { return };
        match (result.of(bytes), error.of(bytes)) {
            (b"null", b"null") => {}
            (b"null", _) => self.result = None,
            (_, b"null") => self.error = None,
            _ => {}
        }
    }
}

/// Reads an id. Only an error response may have a null id, if the request's id could not be read.
// JSON-RPC 2.0 §5: id; MCP 2025-11-25 basic, Requests: never null.
fn read_id(bytes: &[u8], span: Option<Span>, is_error: bool) -> Result<Option<(RequestId, Span)>, ScanError> {
    let Some(span) = span else { return Ok(None) };
    match RequestId::parse(span.of(bytes)) {
        Some(id) => Ok(Some((id, span))),
        None if is_error && span.of(bytes) == b"null" => Ok(None),
        None => Err(ScanError::new(ScanErrorKind::BadId, span.start)),
    }
}

impl Text {
    fn read(bytes: &[u8], token: Span) -> Option<Text> {
        Some(match text::decode(token.of(bytes))? {
            Cow::Borrowed(_) => Text::Plain(Span { start: token.start + 1, end: token.end - 1 }),
            Cow::Owned(text) => Text::Unescaped(text.into()),
        })
    }
}

/// Whether a JSON text is a batch (an array) and not a single message.
pub fn is_batch(text: &[u8]) -> bool {
    text.trim_ascii_start().first() == Some(&b'[')
}

/// The elements of a batch, each as a slice of `bytes`. They are valid JSON and not scanned further.
///
/// # Errors
/// Not an array, or more than `max` elements (reported as too many members).
// MCP 2025-03-26 basic, Batching; removed in 2025-06-18.
pub fn batch(bytes: &Bytes, limits: &Limits, max: usize) -> Result<Vec<Bytes>, ScanError> {
    let elements = object::elements(bytes, Span::all(bytes), limits, max)?;
    Ok(elements.into_iter().map(|span| span.slice(bytes)).collect())
}
