//! A message as the slices it is made of, ready for one vectored write.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

/// Slices that make up a message, none of them empty.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    slices: VecDeque<Bytes>,
    len: usize,
}

impl Parts {
    /// Nothing yet.
    pub fn new() -> Self {
        Parts::default()
    }

    /// Adds a slice at the end.
    pub fn push(&mut self, slice: impl Into<Bytes>) {
        let slice = slice.into();
        if !slice.is_empty() {
            self.len += slice.len();
            self.slices.push_back(slice);
        }
    }

    /// Adds all of `other` at the end.
    pub fn extend(&mut self, other: Parts) {
        self.len += other.len;
        self.slices.extend(other.slices);
    }

    /// How many bytes in all.
    pub fn len_bytes(&self) -> usize {
        self.len
    }

    /// The slices.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.slices.iter()
    }

    /// All in one piece; copies unless there is only one slice.
    pub fn into_bytes(mut self) -> Bytes {
        if self.slices.len() <= 1 {
            return self.slices.pop_front().unwrap_or_default();
        }
        let mut whole = BytesMut::with_capacity(self.len);
        self.slices.iter().for_each(|slice| whole.extend_from_slice(slice));
        whole.freeze()
    }
}

impl Buf for Parts {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.slices.front().map_or(&[], |slice| slice)
    }

    fn chunks_vectored<'a>(&'a self, to: &mut [IoSlice<'a>]) -> usize {
        to.iter_mut().zip(&self.slices).map(|(place, slice)| *place = IoSlice::new(slice)).count()
    }

    fn advance(&mut self, mut count: usize) {
        self.len = self.len.saturating_sub(count);
        while let Some(slice) = self.slices.front_mut() {
            if slice.len() > count {
                slice.advance(count);
                return;
            }
            count -= slice.len();
            self.slices.pop_front();
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
