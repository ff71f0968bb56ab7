//! Renders lists to the bytes that are sent: once for each change, then shared by all responses.
//!
//! Items are the servers' own bytes. Only the public name is spliced in, and members that clients of a revision reject are
//! removed.

use std::hash::{DefaultHasher, Hasher};

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value as Json;
use wire::limits::Limits;
use wire::mcp::list::Item;
use wire::mcp::mirror::{self, Mirrored};
use wire::object::Object;
use wire::span::Span;
use wire::splice::{Parts, Splice};

/// One rendered list.
#[derive(Clone, Debug, Default)]
pub struct Rendered {
    bytes: Bytes,
    /// The member with the items in it, without its closing bracket.
    listed: Bytes,
    /// The same for clients with a session, where it differs.
    older: Option<Bytes>,
    /// A hash of the ends of each item. Lists are compared only if their hashes are equal.
    hash: u64,
}

impl Rendered {
    /// The whole `result` object.
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The whole `result` object for clients with a session, without the members that their revisions do not have. They
    /// reject a whole list because of one tool whose `outputSchema` does not describe an object.
    // MCP 2025-11-25 schema, Tool; MCP 2026-07-28 changelog: any JSON Schema
    pub fn for_sessions(&self) -> Parts {
        let listed = self.older.as_ref().unwrap_or(&self.listed).clone();
        [Bytes::from_static(b"{"), listed, Bytes::from_static(b"]}")].into_iter().collect()
    }

    pub(super) fn size(&self) -> usize {
        self.bytes.len() + self.older.as_ref().map_or(0, Bytes::len)
    }

    /// Whether both have the same items, whatever their `ttlMs`.
    pub fn same_items(&self, other: &Self) -> bool {
        self.listed == other.listed
    }

    /// Shares the memory of `other` if both are equal. Returns whether they are.
    pub(super) fn share(&mut self, other: &Self) -> bool {
        let is_same = self.hash == other.hash && self.bytes == other.bytes && self.older == other.older;
        if is_same {
            *self = other.clone();
        }
        is_same
    }

    /// Renders a list. `key` is its member name, `fresh_ms` how long a client may keep it.
    pub(super) fn list(key: &str, items: &[Bytes], fresh_ms: u32) -> Self {
        let size = items.iter().map(|item| item.len() + 1).sum::<usize>() + 128;
        let mut out = BytesMut::with_capacity(size);
        out.put_slice(br#"{"resultType":"complete","#);
        let start = out.len();
        out.put_slice(format!(r#""{key}":["#).as_bytes());
        for (n, item) in items.iter().enumerate() {
            if n > 0 {
                out.put_u8(b',');
            }
            out.put_slice(item);
        }
        let end = out.len();
        // MCP 2026-07-28 server/utilities/caching: both members are required on lists. "private", because
        // principals may see different lists.
        out.put_slice(format!(r#"],"ttlMs":{fresh_ms},"cacheScope":"private"}}"#).as_bytes());
        let bytes = out.freeze();
        let listed = bytes.slice(start..end);
        let mut hash = DefaultHasher::new();
        for item in items {
            hash.write_usize(item.len());
            let end = item.len().saturating_sub(HASHED_BYTES);
            hash.write(item.get(..HASHED_BYTES).unwrap_or(item));
            hash.write(item.get(end..).unwrap_or(item));
        }
        Self { bytes, listed, older: None, hash: hash.finish() }
    }

    /// Renders the list of tools. The `outputSchema` of the tools at the places `odd` does not describe an object.
    pub(super) fn tools((items, odd): (&[Bytes], &[usize]), fresh_ms: u32, limits: &Limits) -> Self {
        let list = |items: &[Bytes]| Self::list("tools", items, fresh_ms);
        if odd.is_empty() {
            return list(items);
        }
        let mut older = items.to_vec();
        for item in odd {
            if let Some(item) = older.get_mut(*item)
                && let Some(repaired) = without_odd_output(item, limits)
            {
                *item = repaired;
            }
        }
        Self { older: Some(list(&older).listed), ..list(items) }
    }
}

/// Bytes at each end of an item that are hashed. 32: they usually contain the name.
const HASHED_BYTES: usize = 32;

/// A tool without its `outputSchema`; `None` if it has none, or one that describes an object.
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

/// A tool as it is shown, with the parameters that clients repeat in headers. `None` if its `inputSchema` is not an
/// object.
pub(super) fn tool(item: &Item, limits: &Limits) -> Option<(Item, Vec<Mirrored>)> {
    let whole = Span { start: 0, end: item.raw.len() };
    let object = Object::scan(&item.raw, whole, limits).ok()?;
    let schema = object.get(&item.raw, "inputSchema")?;
    if schema.of(&item.raw).first() != Some(&b'{') {
        return None;
    }
    match mirror::mirrored(schema.of(&item.raw)) {
        Ok(mirrored) => Some((item.clone(), mirrored)),
        // MCP 2026-07-28 basic/transports/streamable-http, x-mcp-header: clients must drop a tool with an invalid
        // annotation. A server behind a pipe does not need the headers, so the tool is kept without its annotations.
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
