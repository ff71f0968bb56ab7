//! A message as slices, ready for one vectored write.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The slices of a message, none of them empty. A single slice needs no allocation.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Empty only if the message is.
    first: Bytes,
    rest: VecDeque<Bytes>,
    len: usize,
}

impl Parts {
    /// An empty message.
    pub fn new() -> Self {
        Parts::default()
    }

    /// An empty message with room for this many slices.
    pub fn with_capacity(slices: usize) -> Self {
        Parts { rest: VecDeque::with_capacity(slices.saturating_sub(1)), ..Parts::default() }
    }

    /// Adds a slice at the end.
    pub fn push(&mut self, slice: impl Into<Bytes>) {
        let slice = slice.into();
        if slice.is_empty() {
            return;
        }
        self.len += slice.len();
        if self.first.is_empty() {
            self.first = slice;
        } else {
            self.rest.push_back(slice);
        }
    }

    /// Adds all of `other` at the end.
    pub fn extend(&mut self, other: Parts) {
        let len = self.len + other.len;
        self.push(other.first);
        self.rest.extend(other.rest);
        self.len = len;
    }

    /// The total number of bytes.
    pub fn len_bytes(&self) -> usize {
        self.len
    }

    /// The slices.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        let first = (!self.first.is_empty()).then_some(&self.first);
        first.into_iter().chain(&self.rest)
    }

    /// The message in one piece; copies unless there is only one slice.
    pub fn into_bytes(self) -> Bytes {
        if self.rest.is_empty() {
            return self.first;
        }
        let mut whole = BytesMut::with_capacity(self.len);
        self.iter().for_each(|slice| whole.extend_from_slice(slice));
        whole.freeze()
    }
}

impl Buf for Parts {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        &self.first
    }

    fn chunks_vectored<'a>(&'a self, to: &mut [IoSlice<'a>]) -> usize {
        to.iter_mut().zip(self.iter()).map(|(place, slice)| *place = IoSlice::new(slice)).count()
    }

    /// Copies nothing if the bytes lie within one slice.
    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        assert!(count <= self.len, "more than there is");
        if count <= self.first.len() {
            let piece = self.first.slice(..count);
            self.advance(count);
            return piece;
        }
        let mut copy = BytesMut::with_capacity(count);
        copy.put(self.take(count));
        copy.freeze()
    }

    fn advance(&mut self, mut count: usize) {
        self.len = self.len.saturating_sub(count);
        while !self.first.is_empty() {
            if self.first.len() > count {
                return self.first.advance(count);
            }
            count -= self.first.len();
            self.first = self.rest.pop_front().unwrap_or_default();
        }
    }
}

impl From<Bytes> for Parts {
    fn from(slice: Bytes) -> Self {
        let mut parts = Parts::new();
        parts.push(slice);
        parts
    }
}

impl FromIterator<Bytes> for Parts {
    fn from_iter<I: IntoIterator<Item = Bytes>>(slices: I) -> Self {
        let mut parts = Parts::new();
        slices.into_iter().for_each(|slice| parts.push(slice));
        parts
    }
}
