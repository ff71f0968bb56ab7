//! HTTP headers of MCP: their names, and how text that no header may hold is written in one.

use std::borrow::Cow;
use std::fmt;

/// Session of a legacy client. MCP 2025-11-25 transports, Session Management.
pub const SESSION_ID: &str = "mcp-session-id";
/// Revision of a request. MCP 2025-06-18 on.
pub const PROTOCOL_VERSION: &str = "mcp-protocol-version";
/// Where to resume a legacy stream. MCP 2025-11-25 transports, Resumability and Redelivery.
pub const LAST_EVENT_ID: &str = "last-event-id";
/// Mirror of `method`. MCP 2026-07-28 streamable-http, Standard Request Headers.
pub const METHOD: &str = "mcp-method";
/// Mirror of the name a request is routed by. Same section.
pub const NAME: &str = "mcp-name";
/// Start of the names of headers that mirror arguments. Same page, Custom Headers.
pub const PARAM_PREFIX: &str = "mcp-param-";

/// A value with the markers of base64 around what is not base64 of UTF-8 text, or bytes that are no visible text at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadSentinel;

impl fmt::Display for BadSentinel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("header value is neither visible ASCII nor =?base64?...?= around base64 of UTF-8 text")
    }
}

impl std::error::Error for BadSentinel {}

/// The text a header value stands for. Spaces around the value are not part of it; a value with only one of the markers,
/// or with markers in another case, stands for itself.
///
/// # Errors
/// When the markers are there and what is between them is not strict base64 of UTF-8 text.
// MCP 2026-07-28 streamable-http, Value Encoding; SEP-2243
pub fn decode(value: &[u8]) -> Result<Cow<'_, str>, BadSentinel> {
    let value = value.trim_ascii();
    let Some(base64) = value.strip_prefix(b"=?base64?").and_then(|rest| rest.strip_suffix(b"?=")) else {
        let text = std::str::from_utf8(value).map_err(|_| BadSentinel)?;
        let plain = text.bytes().all(|byte| matches!(byte, 0x20..=0x7e));
        return if plain { Ok(Cow::Borrowed(text)) } else { Err(BadSentinel) };
    };
    let bytes = decode_base64(base64).ok_or(BadSentinel)?;
    String::from_utf8(bytes).map(Cow::Owned).map_err(|_| BadSentinel)
}

/// Standard alphabet, padding required, unused bits zero, so that each text has exactly one encoding. RFC 4648 §4, §3.5.
fn decode_base64(base64: &[u8]) -> Option<Vec<u8>> {
    let (quads, rest) = base64.as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    let mut bytes = Vec::with_capacity(quads.len() * 3);
    for (index, quad) in quads.iter().enumerate() {
        let last = index + 1 == quads.len();
        let padding = match quad {
            [_, _, b'=', b'='] if last => 2,
            [_, _, _, b'='] if last => 1,
            _ => 0,
        };
        let mut bits = 0u32;
        for &letter in quad.iter().take(4 - padding) {
            bits = bits << 6 | sextet(letter)?;
        }
        bits <<= 6 * padding;
        let [_, a, b, c] = bits.to_be_bytes();
        match (padding, b, c) {
            (0, ..) => bytes.extend([a, b, c]),
            (1, _, 0) => bytes.extend([a, b]),
            (2, 0, 0) => bytes.push(a),
            _ => return None,
        }
    }
    Some(bytes)
}

fn sextet(letter: u8) -> Option<u32> {
    let value = match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use super::{BadSentinel, decode};

    /// Examples of SEP-2243 and around them.
    #[test]
    fn values_stand_for_text() {
        let cases: [(&[u8], Result<&str, BadSentinel>); 17] = [
            (b"get-weather", Ok("get-weather")),
            (b"", Ok("")),
            (b" \tinner  spaces stay \t", Ok("inner  spaces stay")),
            (b"=?base64?SGVsbG8=?=", Ok("Hello")),
            (b"=?base64?IHBhZGRlZCA=?=", Ok(" padded ")),
            (b"=?base64?5Y2U6K2w?=", Ok("協議")),
            (b"=?base64??=", Ok("")),
            (b"=?base64?=", Ok("=?base64?=")),
            (b"=?base64?SGVsbG8=", Ok("=?base64?SGVsbG8=")),
            (b"SGVsbG8=?=", Ok("SGVsbG8=?=")),
            (b"=?BASE64?SGVsbG8=?=", Ok("=?BASE64?SGVsbG8=?=")),
            (b"=?base64?SGVsbG8?=", Err(BadSentinel)),
            (b"=?base64?SGVs!G8=?=", Err(BadSentinel)),
            (b"=?base64?SGVsbG9=?=", Err(BadSentinel)),
            (b"=?base64?====?=", Err(BadSentinel)),
            (b"=?base64?/w==?=", Err(BadSentinel)),
            ("é".as_bytes(), Err(BadSentinel)),
        ];
        for (value, expected) in cases {
            assert_eq!(decode(value).as_deref(), expected.as_ref().copied(), "{}", value.escape_ascii());
        }
    }
}
