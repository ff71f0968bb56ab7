//! Edits on byte ranges. The output is the input except for the edited ranges, as slices of the same memory.

mod parts;

use bytes::Bytes;

pub use self::parts::Parts;
use crate::id::RequestId;
use crate::object::Object;
use crate::span::Span;
use crate::text;

/// A list of edits on one source. Positions always refer to the source, not to the edited text.
#[derive(Debug)]
pub struct Splice {
    source: Bytes,
    span: Span,
    edits: Vec<Edit>,
}

#[derive(Debug)]
struct Edit {
    span: Span,
    with: With,
}

/// The replacement of a span. Ids hold their few bytes inline.
#[derive(Debug)]
enum With {
    Slice(Bytes),
    Id(RequestId),
}

impl With {
    fn bytes(&self) -> &[u8] {
        match self {
            With::Slice(slice) => slice,
            With::Id(id) => id.as_bytes(),
        }
    }
}

impl Splice {
    /// Edits the whole of `source`.
    pub fn new(source: Bytes) -> Self {
        let span = Span::all(&source);
        Splice::within(source, span)
    }

    /// Outputs only `span` of `source`; positions still refer to `source`.
    pub fn within(source: Bytes, span: Span) -> Self {
        Splice { source, span, edits: Vec::new() }
    }

    /// Replaces `span` by `with`. Of two overlapping edits only the one that starts first is made; an edit outside the source
    /// is ignored.
    pub fn replace(&mut self, span: Span, with: impl Into<Bytes>) {
        self.edits.push(Edit { span, with: With::Slice(with.into()) });
    }

    /// Replaces `span` by an id.
    pub fn replace_id(&mut self, span: Span, id: RequestId) {
        self.edits.push(Edit { span, with: With::Id(id) });
    }

    /// Inserts `what` before the byte `at`. Several insertions at one place keep their order.
    pub fn insert(&mut self, at: usize, what: impl Into<Bytes>) {
        self.replace(Span { start: at, end: at }, what);
    }

    /// Removes `span`.
    pub fn remove(&mut self, span: Span) {
        self.replace(span, Bytes::new());
    }

    /// Edits the members of an object that was scanned in the source.
    pub fn object<'s>(&'s mut self, object: &'s Object) -> ObjectEdit<'s> {
        ObjectEdit { splice: self, object, fates: Vec::new(), added: Vec::new() }
    }

    /// The edited message: a small one in one piece, a larger one as slices of its source.
    pub fn finish(mut self) -> Parts {
        // The sort is stable, and an insertion comes before the replacement of the bytes that follow it.
        self.edits.sort_by_key(|edit| (edit.span.start, !edit.span.is_empty()));
        let mut done = self.span.start;
        let end = self.span.end;
        self.edits.retain(|Edit { span, .. }| {
            let made = span.start >= done && span.end <= end && span.end >= span.start;
            if made {
                done = span.end;
            }
            made
        });
        let removed: usize = self.edits.iter().map(|edit| edit.span.len()).sum();
        let added: usize = self.edits.iter().map(|edit| edit.with.bytes().len()).sum();
        // Removed ranges lie within the span and do not overlap.
        let length = self.span.len().saturating_sub(removed) + added;
        if length <= COPIED_BYTES { self.copied(length) } else { self.sliced() }
    }

    fn copied(self, length: usize) -> Parts {
        let mut whole = Vec::with_capacity(length); // exact, so that it becomes `Bytes` as it is
        let mut done = self.span.start;
        for Edit { span, with } in &self.edits {
            whole.extend_from_slice(Span { start: done, end: span.start }.of(&self.source));
            whole.extend_from_slice(with.bytes());
            done = span.end;
        }
        whole.extend_from_slice(Span { start: done, end: self.span.end }.of(&self.source));
        Bytes::from(whole).into()
    }

    fn sliced(self) -> Parts {
        let mut parts = Parts::with_capacity(2 * self.edits.len() + 1);
        let mut done = self.span.start;
        for Edit { span, with } in self.edits {
            parts.push(Span { start: done, end: span.start }.slice(&self.source));
            match with {
                With::Slice(slice) => parts.push(slice),
                With::Id(id) => parts.push(id.token()),
            }
            done = span.end;
        }
        parts.push(Span { start: done, end: self.span.end }.slice(&self.source));
        parts
    }
}

/// A message up to this size is copied into one piece: counting references to a dozen slices of it costs more than a copy
/// of a page, and so does writing them.
pub const COPIED_BYTES: usize = 4 << 10;

/// Edits of one object's members, made when this is dropped. The last edit of a key counts.
#[derive(Debug)]
pub struct ObjectEdit<'s> {
    splice: &'s mut Splice,
    object: &'s Object,
    /// Whether each member stays; empty while all of them do.
    fates: Vec<Fate>,
    /// The key's text and the JSON text of its value.
    added: Vec<(String, Bytes)>,
}

#[derive(Clone, PartialEq, Debug)]
enum Fate {
    Stay,
    Go,
    Become(Bytes),
}

impl ObjectEdit<'_> {
    /// Sets `key` to the JSON text `value`, in place if the object has the key, otherwise as a new last member.
    pub fn set(&mut self, key: &str, value: impl Into<Bytes>) {
        let value = value.into();
        let source = &self.splice.source;
        let members = self.object.all();
        if let Some(index) = members.iter().position(|member| member.is(source, key.as_bytes())) {
            let is = members.get(index).map_or(&[][..], |member| member.value.of(source));
            // The value is the same: nothing to edit, unless an earlier edit of the key is to be undone.
            if is != value || !self.fates.is_empty() {
                self.decide(index, Fate::Become(value));
            }
            return;
        }
        match self.added.iter_mut().find(|(added, _)| added == key) {
            Some((_, old)) => *old = value,
            None => self.added.push((key.to_owned(), value)),
        }
    }

    /// Removes `key`.
    pub fn remove(&mut self, key: &str) {
        let source = &self.splice.source;
        if let Some(index) = self.object.all().iter().position(|member| member.is(source, key.as_bytes())) {
            self.decide(index, Fate::Go);
        }
        self.added.retain(|(added, _)| added != key);
    }

    /// Removes each member for whose key `unwanted` is true.
    pub fn remove_where(&mut self, mut unwanted: impl FnMut(&str) -> bool) {
        for (index, member) in self.object.all().iter().enumerate() {
            if unwanted(&member.key_text(&self.splice.source)) {
                self.decide(index, Fate::Go);
            }
        }
        self.added.retain(|(key, _)| !unwanted(key));
    }

    fn decide(&mut self, index: usize, fate: Fate) {
        self.fates.resize(self.object.all().len(), Fate::Stay);
        if let Some(place) = self.fates.get_mut(index) {
            *place = fate;
        }
    }

    /// Makes the edits now instead of when this is dropped.
    pub fn done(self) {}

    /// Removes a member with the comma before it, or, while no member before it stays, with the comma after it.
    fn apply(&mut self) {
        let members = self.object.all();
        let mut kept = self.fates.is_empty() && !members.is_empty();
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
