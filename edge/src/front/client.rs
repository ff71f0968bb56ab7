//! What a client declares of itself, within bounds: it is kept as long as a session, a listen or a task.
//!
//! The results are slices of the request where possible; they must be copied to be kept for longer.

use bytes::Bytes;
use serde_json::{Map, Value as Json};
use wire::envelope::Value;
use wire::limits::Limits;
use wire::object::Object;
use wire::span::Span;
use wire::{Message, code};

use super::refusal::Refusal;
use crate::permit::{self, Bound};

/// What a client declares that it can do; `place` is where it stands, as a refusal says it.
///
/// # Errors
/// When it is no object, or larger than anybody needs: of half a declaration nobody knows what it says.
pub(super) fn capabilities(
    message: &Message,
    (place, value): (&str, Option<Value<'_>>),
    bounds: &permit::Metrics,
) -> Result<Option<Bytes>, Refusal> {
    let Some(value) = object(place, value)? else { return Ok(None) };
    if value.raw().len() > CAPABILITIES_BYTES {
        bounds.hit(Bound::Capabilities);
        let message = format!("{place} is larger than the {CAPABILITIES_BYTES} bytes that are kept of it");
        return Err(Refusal::bad_request(code::INVALID_PARAMS, message));
    }
    Ok(Some(value.span().slice(message.bytes())))
}

/// How a client calls itself; of what is larger than anybody needs its name, version and title alone.
///
/// # Errors
/// When it is no object.
pub(super) fn info(
    message: &Message,
    (place, value): (&str, Option<Value<'_>>),
    bounds: &permit::Metrics,
) -> Result<Option<Bytes>, Refusal> {
    let Some(value) = object(place, value)? else { return Ok(None) };
    if value.raw().len() <= INFO_BYTES {
        return Ok(Some(value.span().slice(message.bytes())));
    }
    bounds.hit(Bound::ClientInfo);
    Ok(shortened(value.raw()))
}

fn object<'m>(place: &str, value: Option<Value<'m>>) -> Result<Option<Value<'m>>, Refusal> {
    if value.is_none_or(|value| value.is_object()) {
        return Ok(value);
    }
    Err(Refusal::bad_request(code::INVALID_PARAMS, format!("{place} must be an object")))
}

/// `None` where it lacks what every server wants to know.
// MCP 2025-11-25 schema, Implementation: name and version are required
fn shortened(info: &[u8]) -> Option<Bytes> {
    let object = Object::scan(info, Span { start: 0, end: info.len() }, &Limits::default()).ok()?;
    let word =
        |key| Some(Value::new(info, object.get(info, key)?).as_str()?.chars().take(WORD_CHARS).collect());
    let mut kept = Map::new();
    kept.insert("name".to_owned(), Json::String(word("name")?));
    kept.insert("version".to_owned(), Json::String(word("version")?));
    if let Some(title) = word("title") {
        kept.insert("title".to_owned(), Json::String(title));
    }
    Some(Json::Object(kept).to_string().into())
}

/// Bytes of the capabilities of a client. 16 KiB: ten times what clients with every extension send.
const CAPABILITIES_BYTES: usize = 16 << 10;
/// Bytes of `clientInfo`. 64 KiB: room for an icon in it.
const INFO_BYTES: usize = 64 << 10;
/// What is kept of each word of a longer one. 256: a name that somebody reads.
const WORD_CHARS: usize = 256;
