//! Ids of JSON-RPC requests. The token is kept as it came, so that it goes back as it came.

use std::fmt;
use std::hash::{Hash, Hasher};

use bytes::Bytes;

use crate::limits::Limits;
use crate::scanner::Scanner;
use crate::span::Span;
use crate::text;

/// The id of a request: the JSON token of an integer or a string. `1` and `"1"` are different ids; strings are equal
/// when their text is, however it was escaped.
#[derive(Clone)]
pub struct RequestId(Bytes);

impl RequestId {
    /// An id of our own making.
    pub fn number(n: u64) -> Self {
        RequestId(n.to_string().into())
    }

    /// Takes a JSON token that is an integer or a string; `None` for anything else. The token is copied, so that an id
    /// that is kept does not keep its message in memory.
    // MCP 2025-11-25 basic, Requests: a string or integer, never null.
    pub fn parse(token: &[u8]) -> Option<Self> {
        let valid = match token {
            [b'"', ..] => is_string(token),
            [b'-', digits @ ..] | digits => is_natural(digits),
        };
        valid.then(|| RequestId(Bytes::copy_from_slice(token)))
    }

    /// The JSON token, ready to be written into a message.
    pub fn token(&self) -> &Bytes {
        &self.0
    }

    /// The number, if it is one and fits.
    pub fn as_u64(&self) -> Option<u64> {
        std::str::from_utf8(&self.0).ok()?.parse().ok()
    }
}

fn is_natural(digits: &[u8]) -> bool {
    match digits {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// One whole string token whose text exists.
fn is_string(token: &[u8]) -> bool {
    let whole = Span::all(token);
    let scanned = Scanner::new(token, whole, &Limits::default()).value();
    scanned == Ok(whole) && text::decode(token).is_some()
}

impl PartialEq for RequestId {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
            || matches!((text::decode(&self.0), text::decode(&other.0)), (Some(a), Some(b)) if a == b)
    }
}

impl Eq for RequestId {}

impl Hash for RequestId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match text::decode(&self.0) {
            Some(text) => (true, text).hash(state),
            None => (false, &self.0).hash(state),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::RequestId;

    fn id(token: &str) -> RequestId {
        RequestId::parse(token.as_bytes()).unwrap()
    }

    #[test]
    fn the_token_is_kept_as_it_came() {
        for token in
            ["0", "-0", "7", "-12", "123456789012345678901234567890", r#""""#, r#""a\u0062""#, r#""é""#]
        {
            assert_eq!(id(token).to_string(), token);
        }
        assert_eq!((id("7").as_u64(), id("-7").as_u64(), id(r#""7""#).as_u64()), (Some(7), None, None));
        assert_eq!(RequestId::number(u64::MAX), id("18446744073709551615"));
    }

    #[test]
    fn what_is_neither_integer_nor_text_is_no_id() {
        for token in [
            "",
            "null",
            "true",
            "1.0",
            "1e3",
            "01",
            "+1",
            "-",
            "{}",
            "[1]",
            "\"",
            "\"a",
            "a\"",
            r#""a"b""#,
            r#""\""#,
            r#""\x""#,
            r#""\ud800""#,
            "\"\n\"",
            r#""a" "#,
            " 1",
            r#""a" "b""#,
        ] {
            assert!(RequestId::parse(token.as_bytes()).is_none(), "{token}");
        }
        assert!(RequestId::parse(b"\"\xff\"").is_none());
    }

    #[test]
    fn ids_are_equal_by_kind_and_text() {
        assert_eq!(id(r#""a\u0062""#), id(r#""ab""#));
        assert_ne!(id("1"), id(r#""1""#));
        assert_ne!(id("1"), id("-1"));
        let ids: HashSet<_> = ["1", r#""1""#, r#""\u0031""#, "1"].map(id).into();
        assert_eq!(ids.len(), 2);
    }
}
