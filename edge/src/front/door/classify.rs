//! Which era a POST belongs to, by its body first and its headers second.
//!
//! One endpoint serves both eras, and some clients mix the marks of both; this ladder decides once, so that no later
//! step has to guess. Pure. What is not here: whether the request is valid in its era.
//!
//! ```text
//! not JSON-RPC ─────────────────────────────▶ refused
//! response ─────────── modern header? ──────▶ refused │ legacy
//! notification ─────── claim or header ─────▶ modern notice │ legacy
//! request with claim ───────────────────────▶ modern, whatever its method
//! request, modern header, no claim ─────────▶ refused, never silently legacy
//! initialize ───────────────────────────────▶ legacy handshake
//! anything else ────────────────────────────▶ legacy, which wants a session
//! ```

use wire::code;
use wire::envelope::ScanErrorKind;
use wire::mcp::meta;
use wire::mcp::method::Method;
use wire::mcp::version::{ProtocolVersion, looks_modern};
use wire::{Kind, Message, ScanError};

use crate::front::refusal::Refusal;

/// What a POST is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::front) enum Class {
    /// A stateless request: it carries its version itself.
    Modern,
    /// A notification of a modern client.
    ModernNotice,
    /// The start of a legacy session.
    Initialize,
    /// A message within a legacy session.
    Legacy,
}

/// What the headers say.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::front) struct Clues<'a> {
    /// `MCP-Protocol-Version`.
    pub(in crate::front) version: Option<&'a str>,
    /// Whether `Mcp-Session-Id` is there.
    pub(in crate::front) session: bool,
}

/// Decides what a message is, by the ladder at the top of this file.
///
/// # Errors
/// A message that neither era allows.
pub(in crate::front) fn classify(message: &Message, clues: Clues<'_>) -> Result<Class, Refusal> {
    // MCP 2026-07-28 basic, _meta: the key that every modern request has, and no legacy one
    let claims = message.meta_value(meta::PROTOCOL_VERSION).is_some();
    let modern_header = clues.version.is_some_and(looks_modern);
    let method = Method::parse(message.method());
    match message.kind() {
        // MCP 2026-07-28 streamable-http, Sending Messages: requests and notifications only
        Kind::Response if modern_header => Err(Refusal::bad_request(
            code::INVALID_REQUEST,
            "a response cannot be sent here in this revision; answers go into inputResponses of a retry",
        )),
        Kind::Response => Ok(Class::Legacy),
        Kind::Notification if claims || modern_header => Ok(Class::ModernNotice),
        Kind::Notification => Ok(Class::Legacy),
        Kind::Request if claims => Ok(Class::Modern),
        // Server Validation: a header without the body's own claim is a mistake of the client
        Kind::Request if modern_header && method == Method::Initialize => Err(Refusal::bad_request(
            code::HEADER_MISMATCH,
            "initialize belongs to revisions before the one in MCP-Protocol-Version",
        )),
        Kind::Request if modern_header => Err(Refusal::bad_request(code::INVALID_PARAMS, MISSING_META)),
        Kind::Request if method == Method::Initialize => Ok(Class::Initialize),
        // A probe for the modern era without any of its marks gets the refusal that every client understands.
        Kind::Request if is_modern_only(method) && !clues.session => {
            Err(Refusal::unknown_method(message.method()))
        }
        Kind::Request => Ok(Class::Legacy),
    }
}

/// The refusal of a body that is no message. `Front::unreadable` also counts the bound that it exceeds.
pub(in crate::front) fn uncounted_refusal(error: &ScanError) -> Refusal {
    let code = match error.kind {
        ScanErrorKind::Syntax | ScanErrorKind::NotUtf8 => code::PARSE_ERROR,
        ScanErrorKind::TooDeep
        | ScanErrorKind::DuplicateKey
        | ScanErrorKind::TooManyMembers
        | ScanErrorKind::BadId
        // MCP 2025-06-18 changelog: batching was removed
        | ScanErrorKind::Batch
        | ScanErrorKind::NotAMessage => code::INVALID_REQUEST,
    };
    Refusal::bad_request(code, error.to_string()).answering(error.id.as_ref())
}

/// Whether a method goes to servers; all others are answered by the front, or unknown.
pub(in crate::front) fn is_routed(method: Method) -> bool {
    matches!(
        method,
        Method::ToolsList
            | Method::ToolsCall
            | Method::PromptsList
            | Method::PromptsGet
            | Method::ResourcesList
            | Method::ResourceTemplatesList
            | Method::ResourcesRead
            | Method::Complete
    )
}

/// Whether a method of a session goes to servers; sessions also have methods that set something for the session.
// MCP 2025-11-25 basic/utilities/tasks: new in that revision, and gone in the next
pub(in crate::front) fn is_routed_in_session(method: Method, version: ProtocolVersion) -> bool {
    match method {
        Method::SetLevel | Method::ResourcesSubscribe | Method::ResourcesUnsubscribe => true,
        Method::TasksList | Method::TasksGet | Method::TasksResult | Method::TasksCancel => {
            version >= ProtocolVersion::V2025_11_25
        }
        other => is_routed(other),
    }
}

/// Whether a request speaks of the modern era, by a claim or by its method.
pub(in crate::front) fn is_modern(message: &Message) -> bool {
    message.meta_value(meta::PROTOCOL_VERSION).is_some() || is_modern_only(Method::parse(message.method()))
}

fn is_modern_only(method: Method) -> bool {
    let facts = method.facts();
    facts.modern && !facts.legacy
}

/// Also told to modern requests that have `_meta` without one of the keys.
pub(in crate::front) const MISSING_META: &str = "params._meta must hold io.modelcontextprotocol/protocolVersion (a string) and \
     io.modelcontextprotocol/clientCapabilities (an object)";

#[cfg(test)]
mod tests;
