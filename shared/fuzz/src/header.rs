//! Headers: a value decodes to the text it stands for and to no other, and annotations of any schema are read or refused.

use wire::mcp::header::{self, BadSentinel};
use wire::mcp::mirror::{self, MirrorKind};

/// `data` is a header value, and a schema.
pub fn check(data: &[u8]) {
    let value = data.trim_ascii();
    let inner = value.strip_prefix(b"=?base64?").and_then(|rest| rest.strip_suffix(b"?="));
    match (header::decode(data), inner) {
        (Ok(text), Some(inner)) => assert_eq!(base64(text.as_bytes()), inner, "two encodings of one text"),
        (Ok(text), None) => assert_eq!(text.as_bytes(), value),
        (Err(BadSentinel), Some(_)) => {}
        (Err(BadSentinel), None) => assert!(value.iter().any(|byte| !matches!(byte, 0x20..=0x7e))),
    }
    round_trip(data);
    annotations(data);
}

fn round_trip(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let value = [b"=?base64?", base64(data).as_slice(), b"?="].concat();
    assert_eq!(header::decode(&value).as_deref(), Ok(text));
    let json = serde_json::to_vec(text).expect("text is JSON");
    assert!(mirror::matches(MirrorKind::String, text, &json));
    if mirror::matches(MirrorKind::Integer, text, data) {
        let number: f64 = text.parse().expect("an integer is a number");
        assert!(number.fract() == 0.0 && number.abs() < 9.1e15);
    }
}

fn annotations(schema: &[u8]) {
    let Ok(found) = mirror::mirrored(schema) else { return };
    for (index, one) in found.iter().enumerate() {
        assert!(!one.header.is_empty() && !one.path.is_empty());
        assert!(found.iter().skip(index + 1).all(|other| !other.header.eq_ignore_ascii_case(&one.header)));
    }
}

/// RFC 4648 §4, written apart from the decoder.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::new();
    for chunk in bytes.chunks(3) {
        let mut triple = [0; 3];
        triple[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, triple[0], triple[1], triple[2]]);
        for (index, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            text.push(if index <= chunk.len() { ALPHABET[(bits >> shift & 63) as usize] } else { b'=' });
        }
    }
    text
}
