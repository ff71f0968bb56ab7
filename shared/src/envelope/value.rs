//! A JSON value inside a message, looked at where it stands.

use std::borrow::Cow;

use crate::span::Span;
use crate::text;

/// A JSON value inside a message that was scanned.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a> {
    bytes: &'a [u8],
    span: Span,
}

impl<'a> Value<'a> {
    /// The value that `span` of `bytes` holds.
    pub fn new(bytes: &'a [u8], span: Span) -> Value<'a> {
        Value { bytes, span }
    }

    /// Where it stands in its message.
    pub fn span(&self) -> Span {
        self.span
    }

    /// The JSON text.
    pub fn raw(&self) -> &'a [u8] {
        self.span.of(self.bytes)
    }

    /// The text of a string; `None` for other values, and for text that no UTF-8 can hold.
    pub fn as_str(&self) -> Option<Cow<'a, str>> {
        text::decode(self.raw())
    }

    /// A number that is written as a natural number.
    pub fn as_u64(&self) -> Option<u64> {
        std::str::from_utf8(self.raw()).ok()?.parse().ok()
    }

    /// Whether it is an object.
    pub fn is_object(&self) -> bool {
        self.raw().first() == Some(&b'{')
    }

    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        self.raw() == b"null"
    }

    /// Reads it into a type.
    ///
    /// # Errors
    /// When it has another shape.
    pub fn parse<T: serde::Deserialize<'a>>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(self.raw())
    }
}
