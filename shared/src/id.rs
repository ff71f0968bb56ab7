//! Ids of JSON-RPC requests. The token is kept as it came, so that it goes back as it came.

use std::fmt;
use std::hash::{Hash, Hasher};

use bytes::Bytes;

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
    let inner = token.get(1..token.len() - 1).unwrap_or_default();
    let plain = inner.iter().all(|&byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    token.ends_with(b"\"")
        && (plain && token.len() > 1 && std::str::from_utf8(inner).is_ok() || text::decode(token).is_some())
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
