//! Matches URIs against RFC 6570 templates, as far as is needed to route a read to the server that offers the template.
//!
//! Which values a URI was expanded from is often ambiguous, but whether it *could* have been expanded from a template is
//! not. So all ways are followed at once, position by position, without backtracking.

use memchr::memmem;

/// A template as its literals and expressions, in order.
#[derive(Clone, Debug)]
pub(super) struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Expression(Expression),
}

/// An expression, such as `{+path}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expression {
    operator: Option<u8>,
    /// It ends in `*` (RFC 6570 §2.4.2).
    explodes: bool,
}

/// How strictly an expansion is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// As RFC 6570 defines it.
    Strict,
    /// As servers do that match by regular expression: a plain value is anything up to a `/`, `{path*}` is anything.
    Loose,
}

impl Piece {
    fn literal(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self::Literal(text.to_owned()))
    }
}

impl Template {
    /// `None` if a brace is left open, or there are more than [`EXPRESSIONS`] expressions: such a template matches nothing.
    pub(super) fn parse(template: &str) -> Option<Self> {
        let (mut pieces, mut expressions) = (Vec::new(), 0);
        let mut left = template;
        while let Some((literal, expression)) = left.split_once('{') {
            let (inner, after) = expression.split_once('}')?;
            pieces.extend(Piece::literal(literal));
            pieces.push(Piece::Expression(Expression::parse(inner)));
            expressions += 1;
            left = after;
        }
        pieces.extend(Piece::literal(left));
        (expressions <= EXPRESSIONS).then_some(Self { pieces })
    }

    /// Whether the URI begins with the first literal and ends with the last one. Nearly always it does not, which saves the
    /// rest of the work.
    fn frames(&self, uri: &[u8]) -> bool {
        let ends = |piece: Option<&Piece>, fits: fn(&[u8], &[u8]) -> bool| match piece {
            Some(Piece::Literal(literal)) => fits(uri, literal.as_bytes()),
            _ => true,
        };
        ends(self.pieces.first(), <[u8]>::starts_with) && ends(self.pieces.last(), <[u8]>::ends_with)
    }
}

/// A URI that is matched against templates one after the other, with the same buffers.
#[derive(Debug)]
pub(super) struct Candidate<'u> {
    uri: &'u [u8],
    /// `reached[n]`: the pieces so far can expand to exactly the first n bytes.
    reached: Vec<bool>,
    next: Vec<bool>,
}

impl<'u> Candidate<'u> {
    /// Allocates nothing until a template passes the first check.
    pub(super) fn new(uri: &'u str) -> Self {
        Self { uri: uri.as_bytes(), reached: Vec::new(), next: Vec::new() }
    }

    /// Whether `template` can expand to the URI. Takes at most (bytes of the URI) × (pieces of the template) steps.
    pub(super) fn fits(&mut self, template: &Template, reading: Reading) -> bool {
        self.uri.len() <= URI_BYTES
            && template.frames(self.uri)
            && self.follow(template, reading) == template.pieces.len()
            && self.reached.last() == Some(&true)
    }

    /// How many leading pieces can match. The first piece that cannot match is the last one tried.
    fn follow(&mut self, template: &Template, reading: Reading) -> usize {
        self.reached.clear();
        self.reached.resize(self.uri.len() + 1, false);
        if let Some(start) = self.reached.first_mut() {
            *start = true;
        }
        let follows = |piece: &&Piece| {
            self.next.clear();
            self.next.resize(self.uri.len() + 1, false);
            let (from, to) = (&self.reached, &mut self.next);
            let any = match piece {
                Piece::Literal(literal) => after_literal(from, to, self.uri, literal.as_bytes()),
                Piece::Expression(expression) => expression.after(from, to, (self.uri, reading)),
            };
            std::mem::swap(&mut self.reached, &mut self.next);
            any
        };
        template.pieces.iter().take_while(follows).count()
    }
}

/// Marks in `next` where the literal may end. Returns whether it can end anywhere.
fn after_literal(reached: &[bool], next: &mut [bool], uri: &[u8], literal: &[u8]) -> bool {
    let (finder, mut from, mut any) = (memmem::Finder::new(literal), 0, false);
    // Occurrences may overlap, so the search goes on one byte after the start of the last one.
    while let Some(found) = uri.get(from..).and_then(|left| finder.find(left)) {
        let at = from + found;
        if reached.get(at) == Some(&true)
            && let Some(end) = next.get_mut(at + literal.len())
        {
            *end = true;
            any = true;
        }
        from = at + 1;
    }
    any
}

impl Expression {
    fn parse(inner: &str) -> Self {
        let operator = inner.bytes().next().filter(|first| b"+#./;?&".contains(first));
        Self { operator, explodes: inner.ends_with('*') }
    }

    /// Marks in `next` where the expansion may end. Returns whether it can end anywhere.
    fn after(self, reached: &[bool], next: &mut [bool], (uri, reading): (&[u8], Reading)) -> bool {
        // Each arm compiles to its own loop, so that the allowed characters are not decided for each byte. Reserved
        // characters of a value are percent-encoded, except with `+` and `#` (RFC 6570 §3.2.1).
        match (self.operator, reading) {
            (Some(b'+' | b'#'), _) => self.expand(reached, next, (uri, |_| true)),
            (Some(b'?' | b'&'), _) => self.expand(reached, next, (uri, |byte| byte != b'#')),
            (Some(b'/'), _) => self.expand(reached, next, (uri, |byte| byte != b'?' && byte != b'#')),
            (None, Reading::Loose) if self.explodes => self.expand(reached, next, (uri, |_| true)),
            (None, Reading::Loose) => self.expand(reached, next, (uri, |byte| byte != b'/')),
            _ => self.expand(reached, next, (uri, |byte| !b"/?#".contains(&byte))),
        }
    }

    #[inline]
    fn expand(self, reached: &[bool], next: &mut [bool], (uri, takes): (&[u8], impl Fn(u8) -> bool)) -> bool {
        // A plain value, and one with `+`, begins with any allowed byte; the others begin with their operator.
        let first = self.operator.filter(|operator| *operator != b'+');
        // An expression with an operator expands to nothing if its variables are undefined (RFC 6570 §3.2.1).
        let may_be_nothing = self.operator.is_some();
        // Whether an expansion that began earlier may go on here.
        let (mut open, mut any) = (false, false);
        for ((starts, next), byte) in reached.iter().zip(next.iter_mut()).zip(uri) {
            *next = open || (*starts && may_be_nothing);
            any |= *next;
            let begins = *starts && first.map_or_else(|| takes(*byte), |first| first == *byte);
            open = (open && takes(*byte)) || begins;
        }
        let ends = open || (may_be_nothing && reached.last() == Some(&true));
        if let Some(next) = next.last_mut() {
            *next = ends;
        }
        any || ends
    }
}

/// Expressions of one template. 32: it bounds the cost of a read, and real templates have up to five.
const EXPRESSIONS: usize = 32;
/// Templates of one server that a URI is matched against. 1,000: real servers have up to some dozens. In the worst case, if
/// all of them nearly match a URI of the greatest length, a read takes some 10 ms; otherwise microseconds.
pub(super) const TEMPLATES: usize = 1_000;
/// Bytes of a URI that is matched against templates. 8 KiB: the limit of HTTP servers.
pub(super) const URI_BYTES: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(template: &str, uri: &str) -> [bool; 2] {
        let template = Template::parse(template).unwrap();
        [Reading::Strict, Reading::Loose].map(|reading| Candidate::new(uri).fits(&template, reading))
    }

    #[test]
    fn fits_what_the_template_could_have_made() {
        for (template, uri, fit) in [
            ("demo://item/{id}", "demo://item/7", true),
            ("demo://item/{id}", "demo://item/7/parts", false),
            ("demo://item/{id}", "demo://item/", false),
            ("demo://item/{id}", "demo://other/7", false),
            ("demo://{a}/to/{b}", "demo://x/to/y", true),
            ("demo://{a}/to/{b}.txt", "demo://x/to/y.txt", true),
            ("demo://{a}/to/{b}.txt", "demo://x/to/y.md", false),
            ("demo://{a}.{b}", "demo://x.y.z", true),
            ("demo://{a}-{b}-end", "demo://1-end-2-end", true),
            ("file://{+path}", "file:///etc/hosts", true),
            ("search://q{?term,page}", "search://q?term=a&page=2", true),
            ("search://q{?term,page}", "search://q", true),
            ("search://q{?term}", "search://quest", false),
            ("users://{id}{?fields}", "users://7", true),
            ("users://{id}{?fields}", "users://7?fields=name", true),
            ("users://{id}{?fields}", "users://7/posts", false),
            ("repo://{owner}{/path*}{?ref}{#line}", "repo://me/src/main.rs?ref=main#L1", true),
            ("repo://{owner}{/path*}", "repo://me", true),
            ("pic://{name}{.format}", "pic://cat.png", true),
            ("pic://{name}{.format}", "pic://cat/png", false),
            ("w://{+p}/x/{n}", "w://a/x/b/x/1", true),
            ("w://{+p}/x/{n}", "w://a/x/b/y/1", false),
            ("map://{x,y}", "map://1,2", true),
            ("a://{x}b", "a://b", false),
            ("a://{x}b", "a://bb", true),
            ("plain://x", "plain://x", true),
            ("plain://x", "plain://xy", false),
        ] {
            assert_eq!(fits(template, uri), [fit; 2], "{template} {uri}");
        }
        assert!(Template::parse("broken://{x").is_none());
    }

    #[test]
    fn fits_loosely_what_servers_take_besides() {
        for (template, uri, loosely) in [
            ("search://{what}", "search://what?", true),
            ("search://{what}", "search://what?/or", false),
            ("docs://{path*}", "docs://a/b/c", true),
            ("w://{p*}/x/{n}", "w://a/b/x/1", true),
            ("w://{p*}/x/{n}", "w://a/b/y/1", false),
        ] {
            assert_eq!(fits(template, uri), [false, loosely], "{template} {uri}");
        }
    }

    #[test]
    fn what_would_cost_too_much_fits_nothing() {
        let many = |expressions| Template::parse(&format!("x://{}", "{a}".repeat(expressions)));
        let uri = format!("x://{}", "a".repeat(40));
        assert!(Candidate::new(&uri).fits(&many(EXPRESSIONS).unwrap(), Reading::Strict));
        assert!(many(EXPRESSIONS + 1).is_none());
        let long = |bytes| fits("x://{a}", &format!("x://{}", "a".repeat(bytes - 4)));
        assert_eq!((long(URI_BYTES), long(URI_BYTES + 1)), ([true; 2], [false; 2]));
    }

    #[test]
    fn a_template_is_given_up_at_the_first_piece_that_cannot_stand_there() {
        let template = Template::parse(&format!("x://{{a}}-{{b}}{}", "{c}.".repeat(20))).unwrap();
        let mut candidate = Candidate::new("x://none.");
        assert!(!candidate.fits(&template, Reading::Loose));
        assert_eq!(candidate.follow(&template, Reading::Loose), 2, "`x://`, `{{a}}`, and no `-`");
    }

    #[test]
    fn no_template_leaves_a_trace_for_the_next() {
        let uri = "x://a-b/c";
        let mut candidate = Candidate::new(uri);
        for (template, fit) in [
            ("x://{+a}", true),
            ("x://{+a}-{+b}/", false),
            ("x://{a}-{b}-{c}c", false),
            ("x://{a}/{b}", true),
            ("x://{a}{b}", false),
            ("{+x}", true),
        ] {
            let template = Template::parse(template).unwrap();
            assert_eq!(candidate.fits(&template, Reading::Strict), fit, "{template:?}");
        }
    }
}
