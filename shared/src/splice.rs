//! Edits on byte ranges. What comes out is what came in but for the ranges named, as slices of the same memory.

mod parts;

use bytes::Bytes;

pub use self::parts::Parts;
use crate::object::Object;
use crate::span::Span;
use crate::text;

/// A list of edits on one source. Positions are always those of the source, whatever was edited before.
#[derive(Debug)]
pub struct Splice {
    source: Bytes,
    span: Span,
    edits: Vec<Edit>,
}

#[derive(Debug)]
struct Edit {
    span: Span,
    with: Bytes,
}

impl Splice {
    /// Edits the whole of `source`.
    pub fn new(source: Bytes) -> Self {
        let span = Span::all(&source);
        Splice::within(source, span)
    }

    /// Puts out only `span` of `source`; positions stay those of `source`.
    pub fn within(source: Bytes, span: Span) -> Self {
        Splice { source, span, edits: Vec::new() }
    }

    /// Puts `with` in the place of `span`. Of two edits that overlap the one that starts first is made, and an edit that
    /// does not lie within the source is not.
    pub fn replace(&mut self, span: Span, with: impl Into<Bytes>) {
        self.edits.push(Edit { span, with: with.into() });
    }

    /// Puts `what` before the byte `at`. Several at one place come out in the order they were named.
    pub fn insert(&mut self, at: usize, what: impl Into<Bytes>) {
        self.replace(Span { start: at, end: at }, what);
    }

    /// Leaves `span` out.
    pub fn remove(&mut self, span: Span) {
        self.replace(span, Bytes::new());
    }

    /// Edits the members of an object that was scanned in the source.
    pub fn object<'s>(&'s mut self, object: &'s Object) -> ObjectEdit<'s> {
        let fates = object.members().map(|_| Fate::Stay).collect();
        ObjectEdit { splice: self, object, fates, added: Vec::new() }
    }

    /// The edited message.
    pub fn finish(mut self) -> Parts {
        // Stable, and what is inserted at a place comes before what replaces the bytes that follow it.
        self.edits.sort_by_key(|edit| (edit.span.start, !edit.span.is_empty()));
        let mut parts = Parts::new();
        let mut done = self.span.start;
        for Edit { span, with } in self.edits {
            if span.start < done || span.end > self.span.end || span.end < span.start {
                continue;
            }
            parts.push(Span { start: done, end: span.start }.slice(&self.source));
            parts.push(with);
            done = span.end;
        }
        parts.push(Span { start: done, end: self.span.end }.slice(&self.source));
        parts
    }
}

/// Edits of one object's members, made when this is dropped. The last word on a key counts.
#[derive(Debug)]
pub struct ObjectEdit<'s> {
    splice: &'s mut Splice,
    object: &'s Object,
    /// One for each member of the object.
    fates: Vec<Fate>,
    /// Key as text, and the JSON text of its value.
    added: Vec<(String, Bytes)>,
}

#[derive(Clone, PartialEq, Debug)]
enum Fate {
    Stay,
    Go,
    Become(Bytes),
}

impl ObjectEdit<'_> {
    /// Gives `key` the JSON text `value`: in its place if the object has the key, else as a new last member.
    pub fn set(&mut self, key: &str, value: impl Into<Bytes>) {
        let value = value.into();
        let source = &self.splice.source;
        let members = self.object.members().zip(&mut self.fates);
        for (member, fate) in members {
            if member.key_text(source) == key {
                *fate = Fate::Become(value);
                return;
            }
        }
        match self.added.iter_mut().find(|(added, _)| added == key) {
            Some((_, old)) => *old = value,
            None => self.added.push((key.to_owned(), value)),
        }
    }

    /// Leaves `key` out.
    pub fn remove(&mut self, key: &str) {
        self.remove_where(|other| other == key);
    }

    /// Leaves out each member whose key `unwanted` says yes to.
    pub fn remove_where(&mut self, mut unwanted: impl FnMut(&str) -> bool) {
        let source = &self.splice.source;
        for (member, fate) in self.object.members().zip(&mut self.fates) {
            if unwanted(&member.key_text(source)) {
                *fate = Fate::Go;
            }
        }
        self.added.retain(|(key, _)| !unwanted(key));
    }

    /// Makes the edits now; dropping does the same.
    pub fn done(self) {}

    /// A member goes with the comma before it, or while no member before it stays, with the comma after it.
    fn apply(&mut self) {
        let members: Vec<_> = self.object.members().collect();
        let mut kept = false;
        for (index, (member, fate)) in members.iter().zip(&self.fates).enumerate() {
            let before = index.checked_sub(1).and_then(|i| members.get(i));
            match (fate, before) {
                (Fate::Stay, _) => kept = true,
                (Fate::Become(value), _) => {
                    self.splice.replace(member.value, value.clone());
                    kept = true;
                }
                (Fate::Go, Some(before)) if kept => {
                    self.splice.remove(Span { start: before.value.end, end: member.value.end });
                }
                (Fate::Go, _) => {
                    let end = members.get(index + 1).map_or(member.value.end, |next| next.key.start);
                    self.splice.remove(Span { start: member.key.start, end });
                }
            }
        }
        let at = members.last().map_or(self.object.span().start + 1, |last| last.value.end);
        for (key, value) in self.added.drain(..) {
            let mut head = Vec::with_capacity(key.len() + 4);
            if kept {
                head.push(b',');
            }
            head.extend_from_slice(&text::encode(&key));
            head.push(b':');
            self.splice.insert(at, head);
            self.splice.insert(at, value);
            kept = true;
        }
    }
}

impl Drop for ObjectEdit<'_> {
    fn drop(&mut self) {
        self.apply();
    }
}
