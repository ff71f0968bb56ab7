//! The members of one JSON object, one level deep: enough to find, replace and add members without parsing their values.

use std::borrow::Cow;

use crate::error::{ScanError, ScanErrorKind};
use crate::limits::Limits;
use crate::scanner::{Scanner, Token};
use crate::span::Span;
use crate::text;

/// The position of an object and its members. No two keys are equal, even after unescaping.
#[derive(Clone, Debug)]
pub struct Object {
    span: Span,
    members: Vec<Member>,
}

/// One member of an object.
#[derive(Clone, Copy, Debug, Default)]
pub struct Member {
    /// The key, quotes included.
    pub key: Span,
    /// The value.
    pub value: Span,
    escaped: bool,
}

impl Object {
    /// Scans `span` of `bytes`, which must hold one JSON object (whitespace around it is allowed).
    ///
    /// # Errors
    /// `span` holds anything else, or what `limits` or the rule on equal keys refuse.
    pub fn scan(bytes: &[u8], span: Span, limits: &Limits) -> Result<Object, ScanError> {
        let mut scanner = Scanner::new(bytes, span, limits);
        let object = Object::walk(&mut scanner, bytes, limits, |scanner, _| Ok(scanner.value()?))?;
        scanner.end().map_err(ScanError::from)?;
        Ok(object)
    }

    /// Walks the object that is next; `value` takes each member's value.
    pub(crate) fn walk<'a>(
        scanner: &mut Scanner<'a>,
        bytes: &[u8],
        limits: &Limits,
        value: impl FnMut(&mut Scanner<'a>, &[u8]) -> Result<Span, ScanError>,
    ) -> Result<Object, ScanError> {
        let (span, members) = Object::step_through(scanner, bytes, limits, value)?;
        Ok(Object { span, members })
    }

    /// Walks an object as `walk` does, with the caller's choice of how members are kept.
    pub(crate) fn step_through<'a, M: Members>(
        scanner: &mut Scanner<'a>,
        bytes: &[u8],
        limits: &Limits,
        mut value: impl FnMut(&mut Scanner<'a>, &[u8]) -> Result<Span, ScanError>,
    ) -> Result<(Span, M), ScanError> {
        let start = scanner.enter(b'{')?;
        let mut members = M::default();
        let mut more = !scanner.take(b'}');
        while more {
            let token = scanner.key()?;
            let key = readable(bytes, token)?;
            if members.count() >= limits.members {
                return Err(ScanError::new(ScanErrorKind::TooManyMembers, token.span.start));
            }
            if members.hold(bytes, &key) {
                return Err(ScanError::new(ScanErrorKind::DuplicateKey, token.span.start));
            }
            let value = value(scanner, &key)?;
            members.push(Member { key: token.span, value, escaped: token.escaped });
            more = scanner.take(b',');
            if !more {
                scanner.expect(b'}')?;
            }
        }
        scanner.leave();
        Ok((Span { start, end: scanner.at() }, members))
    }

    /// From `{` to `}`.
    pub fn span(&self) -> Span {
        self.span
    }

    /// Whether it has no members.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Where the value of `key` is. `bytes` must be those that were scanned.
    pub fn get(&self, bytes: &[u8], key: &str) -> Option<Span> {
        self.members.iter().find(|member| member.is(bytes, key.as_bytes())).map(|member| member.value)
    }

    /// The members in order.
    pub fn members(&self) -> impl Iterator<Item = Member> + '_ {
        self.members.iter().copied()
    }

    /// The members in order, as a slice.
    pub(crate) fn all(&self) -> &[Member] {
        &self.members
    }
}

/// The members found so far.
pub(crate) trait Members: Default {
    fn push(&mut self, member: Member);
    fn count(&self) -> usize;
    /// Whether one of them has this key.
    fn hold(&self, bytes: &[u8], key: &[u8]) -> bool;
}

impl Members for Vec<Member> {
    fn push(&mut self, member: Member) {
        self.push(member);
    }

    fn count(&self) -> usize {
        self.len()
    }

    fn hold(&self, bytes: &[u8], key: &[u8]) -> bool {
        self.iter().any(|member| member.is(bytes, key))
    }
}

/// Members that are only needed during the walk: the first few take no allocation.
#[derive(Default)]
pub(crate) struct Passing {
    few: [Member; FEW],
    count: usize,
    more: Vec<Member>,
}

/// A message has four members at its top level.
const FEW: usize = 4;

impl Members for Passing {
    fn push(&mut self, member: Member) {
        match self.few.get_mut(self.count) {
            Some(place) => *place = member,
            None => self.more.push(member),
        }
        self.count += 1;
    }

    fn count(&self) -> usize {
        self.count
    }

    fn hold(&self, bytes: &[u8], key: &[u8]) -> bool {
        let few = self.few.get(..self.count.min(FEW)).unwrap_or_default();
        few.iter().chain(&self.more).any(|member| member.is(bytes, key))
    }
}

impl Member {
    /// The text of the key. `bytes` must be those that were scanned.
    pub fn key_text<'a>(&self, bytes: &'a [u8]) -> Cow<'a, str> {
        text::decode(self.key.of(bytes)).unwrap_or_default()
    }

    /// Whether the key is this text.
    #[inline]
    pub(crate) fn is(&self, bytes: &[u8], key: &[u8]) -> bool {
        if self.escaped {
            return self.key_text(bytes).as_bytes() == key;
        }
        self.key.len() == key.len() + 2 && self.key.of(bytes).get(1..=key.len()) == Some(key)
    }
}

/// The text of a key. Half a surrogate pair is refused: parsers disagree on its text, and so on which keys it equals.
fn readable(bytes: &[u8], token: Token) -> Result<Cow<'_, [u8]>, ScanError> {
    let Span { start, end } = token.span;
    if !token.escaped {
        return Ok(Cow::Borrowed(Span { start: start + 1, end: end - 1 }.of(bytes)));
    }
    let text =
        text::decode(token.span.of(bytes)).ok_or_else(|| ScanError::new(ScanErrorKind::NotUtf8, start))?;
    Ok(Cow::Owned(text.into_owned().into_bytes()))
}

/// Accepts equal keys, and any number of members.
#[derive(Default)]
struct Any(Vec<Member>);

impl Members for Any {
    fn push(&mut self, member: Member) {
        self.0.push(member);
    }

    fn count(&self) -> usize {
        0
    }

    fn hold(&self, _: &[u8], _: &[u8]) -> bool {
        false
    }
}

/// All members of the JSON object that `span` of `bytes` holds, including members with equal keys: for callers that check
/// each member and look none up by key.
///
/// # Errors
/// `span` holds anything else, or what `limits` refuse; the number of members is not limited.
pub fn members(bytes: &[u8], span: Span, limits: &Limits) -> Result<Vec<Member>, ScanError> {
    let mut scanner = Scanner::new(bytes, span, limits);
    let (_, Any(members)) =
        Object::step_through(&mut scanner, bytes, limits, |scanner, _| Ok(scanner.value()?))?;
    scanner.end()?;
    Ok(members)
}

/// The first elements of the JSON array that `span` of `bytes` holds: all, or `max`. What follows them is not read.
///
/// # Errors
/// `span` holds anything else.
pub fn first_elements(bytes: &[u8], span: Span, limits: &Limits, max: usize) -> Result<Vec<Span>, ScanError> {
    let mut scanner = Scanner::new(bytes, span, limits);
    scanner.enter(b'[')?;
    let mut found = Vec::new();
    let mut more = !scanner.take(b']');
    while more && found.len() < max {
        found.push(scanner.value()?);
        more = scanner.take(b',');
    }
    Ok(found)
}

/// The elements of the JSON array that `span` of `bytes` holds, at most `max`.
///
/// # Errors
/// `span` holds anything else, or more elements.
pub fn elements(bytes: &[u8], span: Span, limits: &Limits, max: usize) -> Result<Vec<Span>, ScanError> {
    let mut scanner = Scanner::new(bytes, span, limits);
    scanner.enter(b'[')?;
    let mut found = Vec::new();
    let mut more = !scanner.take(b']');
    while more {
        let element = scanner.value()?;
        if found.len() >= max {
            return Err(ScanError::new(ScanErrorKind::TooManyMembers, element.start));
        }
        found.push(element);
        more = scanner.take(b',');
        if !more {
            scanner.expect(b']')?;
        }
    }
    scanner.end()?;
    Ok(found)
}
