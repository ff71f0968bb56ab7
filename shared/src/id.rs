//! Ids of JSON-RPC requests. The token is kept unchanged, so that a response carries exactly the id of its request.

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
pub struct RequestId(Token);

/// Nearly all ids are short; those need no allocation.
#[derive(Clone)]
enum Token {
    Short { bytes: [u8; SHORT_BYTES], len: u8 },
    Long(Bytes),
}

/// The longest inline token: fits any 64-bit number and the ids that SDKs make, and makes an id no larger than `Bytes`.
const SHORT_BYTES: usize = 30;

impl RequestId {
    /// An id with this number.
    pub fn number(n: u64) -> Self {
        let (mut digits, mut at, mut rest) = ([0; SHORT_BYTES], SHORT_BYTES, n);
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            (at, rest) = (at - 1, rest / 10);
            if rest == 0 {
                break;
            }
        }
        RequestId::copied(digits.get(at..).unwrap_or_default())
    }

    /// Parses a JSON token that is an integer or a string; `None` for anything else. The token is copied, so that an id does
    /// not keep its message in memory.
    // MCP 2025-11-25 basic, Requests: a string or integer, never null.
    pub fn parse(token: &[u8]) -> Option<Self> {
        let valid = match token {
            [b'"', ..] => is_string(token),
            [b'-', digits @ ..] | digits => is_natural(digits),
        };
        valid.then(|| RequestId::copied(token))
    }

    fn copied(token: &[u8]) -> Self {
        let mut bytes = [0; SHORT_BYTES];
        match bytes.get_mut(..token.len()) {
            Some(room) => {
                room.copy_from_slice(token);
                RequestId(Token::Short { bytes, len: token.len() as u8 })
            }
            None => RequestId(Token::Long(Bytes::copy_from_slice(token))),
        }
    }

    /// The JSON token.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Token::Short { bytes, len } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Token::Long(token) => token,
        }
    }

    /// The JSON token as a slice of its own, ready to be put into a message; a short one is copied.
    pub fn token(&self) -> Bytes {
        match &self.0 {
            Token::Short { .. } => Bytes::copy_from_slice(self.as_bytes()),
            Token::Long(token) => token.clone(),
        }
    }

    /// The number, if it is one and fits.
    pub fn as_u64(&self) -> Option<u64> {
        number(self.as_bytes())
    }

    /// The number, also from a string of digits. For ids that were given out as numbers, where no other id can be meant.
    pub fn as_u64_or_digits(&self) -> Option<u64> {
        let quoted = self.as_bytes().strip_prefix(b"\"").and_then(|token| token.strip_suffix(b"\""));
        quoted.map_or_else(|| self.as_u64(), |digits| number(digits).filter(|_| is_natural(digits)))
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn is_natural(digits: &[u8]) -> bool {
    match digits {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// Whether `token` is one whole string token whose text exists.
fn is_string(token: &[u8]) -> bool {
    let whole = Span::all(token);
    let scanned = Scanner::new(token, whole, &Limits::default()).value();
    scanned == Ok(whole) && text::decode(token).is_some()
}

impl PartialEq for RequestId {
    fn eq(&self, other: &Self) -> bool {
        let (own, other) = (self.as_bytes(), other.as_bytes());
        own == other || matches!((text::decode(own), text::decode(other)), (Some(a), Some(b)) if a == b)
    }
}

impl Eq for RequestId {}

impl Hash for RequestId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match text::decode(self.as_bytes()) {
            Some(text) => (true, text).hash(state),
            None => (false, self.as_bytes()).hash(state),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
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
        for n in [0, 9, 10, 99, 1_234_567_890, u64::MAX] {
            assert_eq!(RequestId::number(n).to_string(), n.to_string());
        }
        // Around the length that has no memory of its own.
        for length in 28..=33 {
            let token = format!("\"{}\"", "x".repeat(length - 2));
            assert_eq!(
                (id(&token).as_bytes(), &id(&token).token()[..]),
                (token.as_bytes(), token.as_bytes())
            );
        }
        assert_eq!((id("7").as_u64(), id("-7").as_u64(), id(r#""7""#).as_u64()), (Some(7), None, None));
        assert_eq!(RequestId::number(u64::MAX), id("18446744073709551615"));
        for (token, number) in [("7", Some(7)), (r#""131072""#, Some(131_072)), (r#""0""#, Some(0))] {
            assert_eq!(id(token).as_u64_or_digits(), number);
        }
        for token in [
            "-7",
            r#""""#,
            r#""07""#,
            r#""+7""#,
            r#"" 7""#,
            r#""7.0""#,
            r#""\u0037""#,
            r#""18446744073709551616""#,
        ] {
            assert_eq!(id(token).as_u64_or_digits(), None, "{token}");
        }
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
