//! JSON strings: from token to text and back.

use std::borrow::Cow;

use bytes::Bytes;

/// The text of a JSON string token; the token includes its quotes. `None` if it is not such a token, or holds half a
/// surrogate pair, which UTF-8 cannot represent.
pub(crate) fn decode(token: &[u8]) -> Option<Cow<'_, str>> {
    let inner = token.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if memchr::memchr(b'\\', inner).is_none() {
        return std::str::from_utf8(inner).ok().map(Cow::Borrowed);
    }
    serde_json::from_slice::<String>(token).ok().map(Cow::Owned)
}

/// The JSON string token for `text`.
pub(crate) fn encode(text: &str) -> Bytes {
    let mut token = Vec::with_capacity(text.len() + 2);
    token.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => token.extend([b'\\', byte]),
            0..0x20 => token.extend(format!("\\u{byte:04x}").into_bytes()),
            _ => token.push(byte),
        }
    }
    token.push(b'"');
    token.into()
}
