//! Headers that repeat what the body says, and must say the same.
//!
//! Load balancers and policies in front of the gateway decide by these headers; a request whose headers and body
//! disagree would be judged as one thing and executed as another. So they are compared after decoding, and a
//! repeated header is refused, because another program may have read the other value.

use http::header::{AsHeaderName, HeaderMap, HeaderName, HeaderValue};
use wire::Message;
use wire::code;
use wire::envelope::{ScanError, Value};
use wire::limits::Limits;
use wire::mcp::header::{self, PARAM_PREFIX, decode};
use wire::mcp::method::Facts;
use wire::mcp::mirror::{Mirrored, matches};
use wire::mcp::version::looks_modern;
use wire::object::Object;

use crate::front::refusal::Refusal;

// Constants of type `HeaderName`: text would be parsed for each look-up.
pub(in crate::front) static SESSION_ID: HeaderName = HeaderName::from_static(header::SESSION_ID);
pub(in crate::front) static PROTOCOL_VERSION: HeaderName = HeaderName::from_static(header::PROTOCOL_VERSION);
pub(in crate::front) static LAST_EVENT_ID: HeaderName = HeaderName::from_static(header::LAST_EVENT_ID);
static METHOD: HeaderName = HeaderName::from_static(header::METHOD);
static NAME: HeaderName = HeaderName::from_static(header::NAME);

/// A header that comes more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::front) struct Repeated;

/// The value of a header that may come once.
pub(in crate::front) fn single(
    headers: &HeaderMap,
    name: impl AsHeaderName,
) -> Result<Option<&HeaderValue>, Repeated> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() { Err(Repeated) } else { Ok(first) }
}

/// The value of `MCP-Protocol-Version`. Of several values a modern one counts, so that the strict checks of the modern
/// era apply.
pub(in crate::front) fn version(headers: &HeaderMap) -> Option<&str> {
    let values = || headers.get_all(&PROTOCOL_VERSION).iter().filter_map(|v| v.to_str().ok()).map(str::trim);
    values().find(|value| looks_modern(value)).or_else(|| values().next())
}

/// `MCP-Protocol-Version` names the version that the body claims.
// MCP 2026-07-28 streamable-http, Server Validation
pub(in crate::front) fn check_version(headers: &HeaderMap, claimed: &str) -> Result<(), Refusal> {
    same(
        required(headers, &PROTOCOL_VERSION)?,
        claimed,
        "MCP-Protocol-Version",
        "the version in params._meta",
    )
}

/// `Mcp-Method` names the body's method.
// MCP 2026-07-28 streamable-http, Standard Request Headers
pub(in crate::front) fn check_method(headers: &HeaderMap, method: &str) -> Result<(), Refusal> {
    same(required(headers, &METHOD)?, method, "Mcp-Method", "the method in the body")
}

/// Checks the headers that a notification carries; none is required.
pub(in crate::front) fn check_notice(
    headers: &HeaderMap,
    message: &Message,
    claimed: Option<&str>,
) -> Result<(), Refusal> {
    if let (Some(claimed), true) = (claimed, headers.contains_key(&PROTOCOL_VERSION)) {
        check_version(headers, claimed)?;
    }
    if headers.contains_key(&METHOD) {
        check_method(headers, message.method())?;
    }
    Ok(())
}

/// `Mcp-Name` names what the request is routed by.
// MCP 2026-07-28 streamable-http, Standard Request Headers
pub(in crate::front) fn check_name(
    headers: &HeaderMap,
    message: &Message,
    facts: &Facts,
) -> Result<(), Refusal> {
    let Some(key) = facts.header_name else { return Ok(()) };
    let Some(name) = message.param(key).and_then(|value| value.as_str()) else {
        return Err(Refusal::bad_request(code::INVALID_PARAMS, format!("params.{key} must be a string")));
    };
    same_decoded(required(headers, &NAME)?, "Mcp-Name", |text| text == name)
}

/// Each `Mcp-Param-*` that the tool's schema asks for repeats its argument. Arguments that can be read in more than one
/// way are refused as `unreadable` says: a server may find in them what we do not.
// MCP 2026-07-28 streamable-http, Custom Headers
pub(in crate::front) fn check_params(
    headers: &HeaderMap,
    message: &Message,
    mirrored: &[Mirrored],
    (limits, unreadable): (&Limits, impl Fn(ScanError) -> Refusal),
) -> Result<(), Refusal> {
    for param in mirrored {
        let name = format!("{PARAM_PREFIX}{}", param.header.to_ascii_lowercase());
        let value = argument(message, &param.path, limits).map_err(&unreadable)?;
        match (single(headers, &name), value) {
            (Err(Repeated), _) => return Err(mismatch(format!("{name} comes more than once"))),
            (Ok(None), None) => {}
            (Ok(None), Some(_)) => {
                return Err(mismatch(format!("{name} is missing: the tool's schema asks for it")));
            }
            (Ok(Some(_)), None) => {
                return Err(mismatch(format!("{name} repeats an argument that is not there")));
            }
            (Ok(Some(header)), Some(value)) => {
                same_decoded(header, &name, |text| matches(param.kind, text, value.raw()))?;
            }
        }
    }
    Ok(())
}

/// The argument at `path`; null counts as absent.
fn argument<'a>(
    message: &'a Message,
    path: &[String],
    limits: &Limits,
) -> Result<Option<Value<'a>>, ScanError> {
    let bytes: &'a [u8] = message.bytes();
    let mut value = message.param("arguments");
    for key in path {
        let Some(outer) = value.filter(Value::is_object) else { return Ok(None) };
        let object = Object::scan(bytes, outer.span(), limits)?;
        value = object.get(bytes, key).map(|span| Value::new(bytes, span));
    }
    Ok(value.filter(|value| !value.is_null()))
}

fn required<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a HeaderValue, Refusal> {
    match single(headers, name) {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err(mismatch(format!("the header {name} is missing"))),
        Err(Repeated) => Err(mismatch(format!("the header {name} comes more than once"))),
    }
}

/// Names of versions and methods are plain text, never encoded. Spaces around a value are not part of it.
fn same(header: &HeaderValue, body: &str, name: &str, what: &str) -> Result<(), Refusal> {
    if header.as_bytes().trim_ascii() == body.as_bytes() {
        return Ok(());
    }
    Err(mismatch(format!("the header {name} differs from {what}")))
}

fn same_decoded(header: &HeaderValue, name: &str, is_same: impl FnOnce(&str) -> bool) -> Result<(), Refusal> {
    match decode(header.as_bytes()) {
        Ok(text) if is_same(&text) => Ok(()),
        Ok(_) => Err(mismatch(format!("the header {name} differs from the body"))),
        Err(error) => Err(mismatch(format!("{name}: {error}"))),
    }
}

fn mismatch(message: String) -> Refusal {
    Refusal::bad_request(code::HEADER_MISMATCH, message)
}

#[cfg(test)]
mod tests;
