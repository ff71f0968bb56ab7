//! A byte range inside a message. It borrows nothing, so it can be kept beside the bytes it points into.

use bytes::Bytes;

/// The bytes `start..end` of some message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset just past the last byte.
    pub end: usize,
}

impl Span {
    /// The whole of `bytes`.
    pub fn all(bytes: &[u8]) -> Span {
        Span { start: 0, end: bytes.len() }
    }

    /// The bytes of the span; empty if it does not lie inside `bytes`.
    pub fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// The bytes of the span, as a slice that shares the memory of `bytes`.
    pub fn slice(&self, bytes: &Bytes) -> Bytes {
        if self.start <= self.end && self.end <= bytes.len() {
            bytes.slice(self.start..self.end)
        } else {
            Bytes::new()
        }
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// Whether the span is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
