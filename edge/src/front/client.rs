//! What a client says of itself, within bounds: it is kept as long as a session, a listen or a task.

use wire::code;
use wire::envelope::Value;

use super::refusal::Refusal;

/// What a client declares that it can do; `name` is what a refusal calls the place.
///
/// # Errors
/// When it is no object, or larger than anybody needs.
pub(super) fn capabilities<'m>(value: Option<Value<'m>>, name: &str) -> Result<Option<Value<'m>>, Refusal> {
    object(value, name, CAPABILITIES_BYTES)
}

/// The same for how it calls itself.
///
/// # Errors
/// When it is no object, or larger than anybody needs.
pub(super) fn info<'m>(value: Option<Value<'m>>, name: &str) -> Result<Option<Value<'m>>, Refusal> {
    object(value, name, INFO_BYTES)
}

fn object<'m>(value: Option<Value<'m>>, name: &str, most_bytes: usize) -> Result<Option<Value<'m>>, Refusal> {
    let Some(value) = value else { return Ok(None) };
    if !value.is_object() {
        return Err(Refusal::bad_request(code::INVALID_PARAMS, format!("{name} must be an object")));
    }
    if value.raw().len() > most_bytes {
        let message = format!("{name} is larger than the {most_bytes} bytes that are kept of it");
        return Err(Refusal::bad_request(code::INVALID_PARAMS, message));
    }
    Ok(Some(value))
}

/// Bytes of the capabilities of a client. 16 KiB: ten times what clients with every extension send.
const CAPABILITIES_BYTES: usize = 16 << 10;
/// Bytes of `clientInfo`. 64 KiB: room for an icon in it.
const INFO_BYTES: usize = 64 << 10;
