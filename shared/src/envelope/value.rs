//! A JSON value inside a message, read in place.

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
    /// The value in `span` of `bytes`.
    pub fn new(bytes: &'a [u8], span: Span) -> Value<'a> {
        Value { bytes, span }
    }

    /// Where it is in its message.
    pub fn span(&self) -> Span {
        self.span
    }

    /// The JSON text.
    pub fn raw(&self) -> &'a [u8] {
        self.span.of(self.bytes)
    }

    /// The text of a string; `None` for other values, and for text that UTF-8 cannot represent.
    pub fn as_str(&self) -> Option<Cow<'a, str>> {
        text::decode(self.raw())
    }

    /// The value of a number that is written as a natural number.
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

    /// Deserializes it.
    ///
    /// # Errors
    /// The value has another shape.
    pub fn parse<T: serde::Deserialize<'a>>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(self.raw())
    }
}
