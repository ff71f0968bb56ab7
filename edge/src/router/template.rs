//! Does a URI fit an RFC 6570 template? Enough of the matching to route a read to the server that offers it.
//!
//! Templates expand one way only: which values a URI was made of is often ambiguous, but whether it *could* have been
//! made is not. So every way is followed at once, position by position, and nothing is tried again.

/// A template as its literals and expressions, in order.
#[derive(Clone, Debug)]
pub(super) struct Template {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Expression(Expression),
}

/// What an expression may have expanded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expression {
    operator: Option<u8>,
    /// It ends in `*` (RFC 6570 §2.4.2).
    explodes: bool,
}

/// How closely an expansion is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// As RFC 6570 has it.
    Strict,
    /// As servers do who match by regular expression: a plain value is anything up to a `/`, `{path*}` anything.
    Loose,
}

impl Template {
    /// `None` when a brace is left open, or there are more expressions than [`EXPRESSIONS`]: such a template fits
    /// nothing.
    pub(super) fn parse(template: &str) -> Option<Self> {
        let mut pieces = Vec::new();
        let mut left = template;
        while let Some((literal, expression)) = left.split_once('{') {
            let (inner, after) = expression.split_once('}')?;
            pieces.push(Piece::Literal(literal.to_owned()));
            pieces.push(Piece::Expression(Expression::parse(inner)));
            left = after;
        }
        pieces.push(Piece::Literal(left.to_owned()));
        (pieces.len() / 2 <= EXPRESSIONS).then(|| Self { text: template.to_owned(), pieces })
    }

    /// The template as its server wrote it.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether the template could have expanded to `uri`. Costs at most its length times the number of pieces; nearly
    /// always no more than the template's first literal.
    pub(super) fn fits(&self, uri: &str, reading: Reading) -> bool {
        let uri = uri.as_bytes();
        let ends = |piece: Option<&Piece>, fits: fn(&[u8], &[u8]) -> bool| match piece {
            Some(Piece::Literal(literal)) => fits(uri, literal.as_bytes()),
            _ => true,
        };
        if uri.len() > URI_BYTES
            || !ends(self.pieces.first(), <[u8]>::starts_with)
            || !ends(self.pieces.last(), <[u8]>::ends_with)
        {
            return false;
        }
        // reached[n]: the pieces so far could have made exactly the first n bytes.
        let mut reached = vec![false; uri.len() + 1];
        if let Some(start) = reached.first_mut() {
            *start = true;
        }
        for piece in &self.pieces {
            reached = match piece {
                Piece::Literal(literal) => after_literal(&reached, uri, literal.as_bytes()),
                Piece::Expression(expression) => expression.after(&reached, uri, reading),
            };
        }
        reached.last() == Some(&true)
    }
}

fn after_literal(reached: &[bool], uri: &[u8], literal: &[u8]) -> Vec<bool> {
    let mut next = vec![false; reached.len()];
    for (at, _) in reached.iter().enumerate().filter(|(_, reached)| **reached) {
        if uri.get(at..).is_some_and(|left| left.starts_with(literal))
            && let Some(end) = next.get_mut(at + literal.len())
        {
            *end = true;
        }
    }
    next
}

impl Expression {
    fn parse(inner: &str) -> Self {
        let operator = inner.bytes().next().filter(|first| b"+#./;?&".contains(first));
        Self { operator, explodes: inner.ends_with('*') }
    }

    fn after(self, reached: &[bool], uri: &[u8], reading: Reading) -> Vec<bool> {
        let mut next = vec![false; reached.len()];
        // Whether an expansion that began earlier is still going on here.
        let mut open = false;
        for (at, next) in next.iter_mut().enumerate() {
            let starts = reached.get(at) == Some(&true);
            // An expression with an operator leaves nothing where its variables are undefined (RFC 6570 §3.2.1).
            *next = open || (starts && self.operator.is_some());
            let Some(byte) = uri.get(at) else { break };
            open = (open && self.takes(*byte, reading)) || (starts && self.begins(*byte, reading));
        }
        next
    }

    fn begins(self, byte: u8, reading: Reading) -> bool {
        match self.operator {
            None | Some(b'+') => self.takes(byte, reading),
            Some(operator) => byte == operator,
        }
    }

    // Reserved characters of a value are percent-encoded, but for `+` and `#` (RFC 6570 §3.2.1).
    fn takes(self, byte: u8, reading: Reading) -> bool {
        match (self.operator, reading) {
            (Some(b'+' | b'#'), _) => true,
            (Some(b'?' | b'&'), _) => byte != b'#',
            (Some(b'/'), _) => !b"?#".contains(&byte),
            (None, Reading::Loose) => self.explodes || byte != b'/',
            _ => !b"/?#".contains(&byte),
        }
    }
}

/// Expressions of one template. 32: what a read costs is bounded by it, and real templates have up to five.
const EXPRESSIONS: usize = 32;
/// Bytes of a URI that is held against templates. 8 KiB: as long as HTTP servers take one.
const URI_BYTES: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(template: &str, uri: &str) -> [bool; 2] {
        let template = Template::parse(template).unwrap();
        [Reading::Strict, Reading::Loose].map(|reading| template.fits(uri, reading))
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
        assert!(many(EXPRESSIONS).unwrap().fits(&format!("x://{}", "a".repeat(40)), Reading::Strict));
        assert!(many(EXPRESSIONS + 1).is_none());
        let long = |bytes| fits("x://{a}", &format!("x://{}", "a".repeat(bytes - 4)));
        assert_eq!((long(URI_BYTES), long(URI_BYTES + 1)), ([true; 2], [false; 2]));
    }
}
