//! Lists as the bytes that go out: rendered once per change, then shared.
//!
//! Items are the servers' own bytes; only a public name is spliced in, and what a revision's clients refuse is taken
//! out here, once, and not per request.

use std::hash::{DefaultHasher, Hasher};

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value as Json;
use wire::limits::Limits;
use wire::mcp::list::Item;
use wire::mcp::mirror::{self, Mirrored};
use wire::object::Object;
use wire::span::Span;
use wire::splice::Splice;

/// One rendered list.
#[derive(Clone, Debug, Default)]
pub struct Rendered {
    bytes: Bytes,
    items: Bytes,
    /// For clients with a session, where theirs differs.
    older: Option<Bytes>,
    /// Of the ends of each item: lists are compared only where it is the same.
    print: u64,
}

impl Rendered {
    /// The whole `result` object. Legacy clients do not know `resultType`, `ttlMs` and `cacheScope` and
    /// ignore them: no revision closes its objects.
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The same for a client with a session: its revision refuses a whole list over one tool whose `outputSchema` is
    /// not that of an object.
    // MCP 2025-11-25 schema, Tool; MCP 2026-07-28 changelog: any JSON Schema
    pub fn bytes_for_sessions(&self) -> Bytes {
        self.older.as_ref().unwrap_or(&self.bytes).clone()
    }

    pub(super) fn size(&self) -> usize {
        self.bytes.len() + self.older.as_ref().map_or(0, Bytes::len)
    }

    /// Whether both show the same items, however long they may be kept.
    pub fn same_items(&self, other: &Self) -> bool {
        self.items == other.items
    }

    /// Uses the memory of `other` if it is the same.
    pub(super) fn share(&mut self, other: &Self) -> bool {
        let is_same = self.print == other.print && self.bytes == other.bytes && self.older == other.older;
        if is_same {
            *self = other.clone();
        }
        is_same
    }

    /// `key` is the list's member name; `fresh_ms` how long a client may keep it.
    pub(super) fn list(key: &str, items: &[Bytes], fresh_ms: u32) -> Self {
        let size = items.iter().map(|item| item.len() + 1).sum::<usize>() + 128;
        let mut out = BytesMut::with_capacity(size);
        out.put_slice(br#"{"resultType":"complete",""#);
        out.put_slice(key.as_bytes());
        out.put_slice(b"\":[");
        let start = out.len();
        for (n, item) in items.iter().enumerate() {
            if n > 0 {
                out.put_u8(b',');
            }
            out.put_slice(item);
        }
        let end = out.len();
        // MCP 2026-07-28 server/utilities/caching: both members are required on lists. "private", because
        // what a principal sees may differ from what another one sees.
        out.put_slice(format!(r#"],"ttlMs":{fresh_ms},"cacheScope":"private"}}"#).as_bytes());
        let bytes = out.freeze();
        let shown = bytes.slice(start..end);
        let mut print = DefaultHasher::new();
        for item in items {
            print.write_usize(item.len());
            let end = item.len().saturating_sub(PRINTED);
            print.write(item.get(..PRINTED).unwrap_or(item));
            print.write(item.get(end..).unwrap_or(item));
        }
        Self { bytes, items: shown, older: None, print: print.finish() }
    }

    /// The list of tools. The `odd` ones have an `outputSchema` that is not that of an object.
    pub(super) fn tools((items, odd): (&[Bytes], &[usize]), fresh_ms: u32, limits: &Limits) -> Self {
        let list = |items: &[Bytes]| Self::list("tools", items, fresh_ms);
        if odd.is_empty() {
            return list(items);
        }
        let mut older = items.to_vec();
        for item in odd {
            if let Some(item) = older.get_mut(*item)
                && let Some(mended) = without_odd_output(item, limits)
            {
                *item = mended;
            }
        }
        Self { older: Some(list(&older).bytes), ..list(items) }
    }
}

/// Bytes at each end of an item that tell it from others. 32: a name is at the beginning, as a rule.
const PRINTED: usize = 32;

/// A tool without its `outputSchema`; `None` if it has none, or that of an object.
pub(super) fn without_odd_output(item: &Bytes, limits: &Limits) -> Option<Bytes> {
    let object = |span| Object::scan(item, span, limits).ok();
    let tool = object(Span::all(item))?;
    let schema = tool.get(item, "outputSchema")?;
    let kind = object(schema).and_then(|schema| schema.get(item, "type"));
    if kind.is_some_and(|kind| kind.of(item) == br#""object""#) {
        return None;
    }
    let mut splice = Splice::new(item.clone());
    splice.object(&tool).remove("outputSchema");
    Some(splice.finish().into_bytes())
}

/// An item under its public name.
pub(super) fn renamed(item: &Item, public: &str) -> Bytes {
    if item.key == public {
        return item.raw.clone();
    }
    let mut splice = Splice::new(item.raw.clone());
    splice.replace(item.key_span, string_token(public));
    splice.finish().into_bytes()
}

/// A text as a JSON string token.
pub(super) fn string_token(text: &str) -> Bytes {
    Json::from(text).to_string().into()
}

/// A tool as it may be shown, with the parameters its clients repeat in headers. `None` when it has no
/// object as `inputSchema`.
pub(super) fn tool(item: &Item, limits: &Limits) -> Option<(Item, Vec<Mirrored>)> {
    let whole = Span { start: 0, end: item.raw.len() };
    let object = Object::scan(&item.raw, whole, limits).ok()?;
    let schema = object.get(&item.raw, "inputSchema")?;
    if schema.of(&item.raw).first() != Some(&b'{') {
        return None;
    }
    match mirror::mirrored(schema.of(&item.raw)) {
        Ok(mirrored) => Some((item.clone(), mirrored)),
        // MCP 2026-07-28 basic/transports/streamable-http, x-mcp-header: clients must drop a tool with an
        // invalid annotation. The server behind a pipe does not need the headers, so the tool is kept
        // without them.
        Err(_) => {
            let plain = mirror::without_annotations(&schema.slice(&item.raw), limits).ok()?.into_bytes();
            let mut splice = Splice::new(item.raw.clone());
            splice.replace(schema, plain);
            let raw = splice.finish().into_bytes();
            let page = Object::scan(&raw, Span { start: 0, end: raw.len() }, limits).ok()?;
            let key_span = page.get(&raw, "name")?;
            Some((Item { raw, key: item.key.clone(), key_span }, Vec::new()))
        }
    }
}
