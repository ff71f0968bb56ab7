//! The digest of what a request asks for: equal for a request and its retry with answers, different for any other
//! request.
//!
//! Guarantees: it covers the method, the name or URI, and the arguments, regardless of the order of keys and of white
//! space; it ignores what a retry may change (id, `_meta`, `inputResponses`, `requestState`).

use ring::digest::{Context, SHA256};
use serde_json::Value;
use wire::Message;

/// SHA-256 of what `message` asks for.
// MCP 2026-07-28 basic/patterns/mrtr, server requirements: state is bound to the request it came with
pub(super) fn digest(message: &Message) -> [u8; 32] {
    let mut hash = Hash(Context::new(&SHA256));
    hash.bytes(message.method().as_bytes());
    for key in ["name", "uri"] {
        let text = message.param(key).map(|value| (value.as_str(), value.raw()));
        match &text {
            Some((Some(text), _)) => hash.tagged(b's', text.as_bytes()),
            Some((None, raw)) => hash.tagged(b'r', raw),
            None => hash.tag(b'-'),
        }
    }
    match message.param("arguments") {
        None => hash.tag(b'-'),
        // What our parser cannot represent (1e999, say) is compared byte for byte.
        Some(value) => match value.parse() {
            Ok(arguments) => hash.value(&arguments),
            Err(_) => hash.tagged(b'r', value.raw()),
        },
    }
    hash.finish()
}

/// Every part is prefixed with its type and length, so that no two sequences of parts give the same bytes.
struct Hash(Context);

impl Hash {
    fn tag(&mut self, tag: u8) {
        self.0.update(&[tag]);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        self.0.update(bytes);
    }

    fn tagged(&mut self, tag: u8, bytes: &[u8]) {
        self.tag(tag);
        self.bytes(bytes);
    }

    /// Recurses as deep as the parser, which has a bound of its own.
    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.tag(b'n'),
            Value::Bool(yes) => self.tag(if *yes { b't' } else { b'f' }),
            Value::Number(number) => self.tagged(b'#', number.to_string().as_bytes()),
            Value::String(text) => self.tagged(b's', text.as_bytes()),
            Value::Array(elements) => {
                self.tag(b'[');
                elements.iter().for_each(|element| self.value(element));
                self.tag(b']');
            }
            Value::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                members.sort_unstable_by_key(|(key, _)| *key);
                self.tag(b'{');
                for (key, value) in members {
                    self.tagged(b's', key.as_bytes());
                    self.value(value);
                }
                self.tag(b'}');
            }
        }
    }

    fn finish(self) -> [u8; 32] {
        let mut sum = [0; 32];
        // A SHA-256 has 32 bytes.
        sum.iter_mut().zip(self.0.finish().as_ref()).for_each(|(to, from)| *to = *from);
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::limits::Limits;

    fn of(method: &str, params: &str) -> [u8; 32] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        digest(&Message::scan(text.into(), &Limits::default()).unwrap())
    }

    #[test]
    fn a_retry_has_the_digest_of_its_request() {
        let first = of("tools/call", r#"{"name":"a","arguments":{"x":{"p":1,"q":[1,2]},"y":"é"}}"#);
        let retry = r#"{"requestState":"s","_meta":{"a":1},"inputResponses":{"k":{}},
            "arguments": {"y":"\u00e9", "x": {"q":[1, 2],"p":1}},"name":"\u0061"}"#;
        assert_eq!(of("tools/call", retry), first);
    }

    #[test]
    fn any_other_request_has_another() {
        let table = [
            ("tools/call", r#"{"name":"a","arguments":{"x":[1,[2]]}}"#),
            ("tools/call", r#"{"name":"a","arguments":{"x":[[1],2]}}"#),
            ("tools/call", r#"{"name":"a","arguments":{"x":["1",[2]]}}"#),
            ("tools/call", r#"{"name":"a","arguments":{"x":[true,null]}}"#),
            ("tools/call", r#"{"name":"a","arguments":{"x":[false,null]}}"#),
            ("tools/call", r#"{"name":"a","arguments":{"x":1e999}}"#),
            ("tools/call", r#"{"name":"a","arguments":{}}"#),
            ("tools/call", r#"{"name":"a","arguments":{"x":{},"y":1}}"#),
            ("tools/call", r#"{"name":"a","arguments":{"x":{"y":1}}}"#),
            ("tools/call", r#"{"name":"a"}"#),
            ("tools/call", r#"{"name":"b"}"#),
            ("tools/call", r#"{"uri":"a"}"#),
            ("tools/call", r#"{"name":null}"#),
            ("prompts/get", r#"{"name":"a"}"#),
            ("resources/read", r#"{"uri":"a"}"#),
        ];
        let all: std::collections::BTreeSet<_> =
            table.iter().map(|(method, params)| of(method, params)).collect();
        assert_eq!(all.len(), table.len());
    }
}
