//! What a gateway reads of the results of calls: the URIs a server hands out, so that it can be asked for them later.

use bytes::Bytes;

use crate::envelope::Value;
use crate::limits::Limits;
use crate::object::{self, Object};
use crate::span::Span;

/// Most URIs taken from one result; the map they go into is bounded too.
pub const LINKS: usize = 256;

/// Most elements of one list that are looked at; a list with more is passed over, lest many small ones cost many times
/// the memory they came in.
pub const BLOCKS: usize = 10_000;

/// URIs of `resource_link` and embedded resources in a tool's `content`, a prompt's `messages` or a resource's `contents`.
/// A result that is not shaped like one has none.
// MCP 2025-11-25 server/tools, Resource Links and Embedded Resources; server/prompts; server/resources
pub fn links(result: &Bytes, limits: &Limits) -> Vec<String> {
    let mut links = Links { bytes: result, limits, found: Vec::new() };
    // A quoted "uri" inside a text is escaped there, so this rules out most results at the speed of a search.
    if memchr::memmem::find(result, b"\"uri\"").is_some() {
        links.result();
    }
    links.found
}

struct Links<'a> {
    bytes: &'a [u8],
    limits: &'a Limits,
    found: Vec<String>,
}

impl Links<'_> {
    fn result(&mut self) {
        let Some(result) = self.object(Span::all(self.bytes)) else { return };
        for block in self.elements(result.get(self.bytes, "content")) {
            self.block(block);
        }
        for message in self.elements(result.get(self.bytes, "messages")) {
            let Some(content) = self.object(message).and_then(|message| message.get(self.bytes, "content"))
            else {
                continue;
            };
            self.block(content);
        }
        for contents in self.elements(result.get(self.bytes, "contents")) {
            if let Some(contents) = self.object(contents) {
                self.uri(&contents);
            }
        }
    }

    fn block(&mut self, block: Span) {
        let Some(block) = self.object(block) else { return };
        let kind = block.get(self.bytes, "type").map(|span| span.of(self.bytes));
        match (kind, block.get(self.bytes, "resource")) {
            (Some(b"\"resource_link\""), _) => self.uri(&block),
            (Some(b"\"resource\""), Some(resource)) => {
                if let Some(resource) = self.object(resource) {
                    self.uri(&resource);
                }
            }
            _ => {}
        }
    }

    fn uri(&mut self, object: &Object) {
        let uri = object.get(self.bytes, "uri").and_then(|span| Value::new(self.bytes, span).as_str());
        if let Some(uri) = uri.filter(|_| self.found.len() < LINKS) {
            self.found.push(uri.into_owned());
        }
    }

    fn object(&self, span: Span) -> Option<Object> {
        Object::scan(self.bytes, span, self.limits).ok()
    }

    fn elements(&self, array: Option<Span>) -> Vec<Span> {
        array
            .and_then(|span| object::elements(self.bytes, span, self.limits, BLOCKS).ok())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::links;
    use crate::limits::Limits;

    fn found(result: &'static str) -> Vec<String> {
        links(&Bytes::from_static(result.as_bytes()), &Limits::default())
    }

    #[test]
    fn uris_of_links_and_embedded_resources_are_found() {
        let tool = r#"{"content":[{"type":"text","text":"t"},{"type":"resource_link","uri":"a:1"},
            {"type":"resource","resource":{"uri":"a:2","text":"\"uri\""}}],"structuredContent":{"uri":"a:3"}}"#;
        assert_eq!(found(tool), ["a:1", "a:2"]);
        let prompt =
            r#"{"messages":[{"role":"user","content":{"type":"resource","resource":{"uri":"b:1"}}}]}"#;
        assert_eq!(found(prompt), ["b:1"]);
        assert_eq!(found(r#"{"contents":[{"uri":"c:1","text":""}]}"#), ["c:1"]);
    }

    #[test]
    fn other_shapes_have_none() {
        for result in [
            r#"{"content":[{"type":"text","text":"a","uri":"a:1"},{"type":"resource","uri":"a:2"}]}"#,
            r#"{"content":{"type":"resource_link","uri":"a:1"}}"#,
            r#"{"content":[{"type":"resource_link","uri":7}]}"#,
            r#"["uri"]"#,
            "\"uri\"",
        ] {
            assert!(found(result).is_empty(), "{result}");
        }
    }
}
