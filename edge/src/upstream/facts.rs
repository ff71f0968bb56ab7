//! What a server says of itself in the handshake, and why a handshake may bring nothing.

use std::sync::LazyLock;

use bytes::Bytes;
use serde::Deserialize;
use wire::envelope::Value;
use wire::limits::Limits;
use wire::mcp::meta;
use wire::mcp::version::ProtocolVersion;
use wire::object::Object;
use wire::span::Span;
use wire::splice::Splice;
use wire::{Era, code};

use super::settings::EraChoice;
use crate::call::{Capabilities, List, Outcome};
use crate::error::{Error, Kind};

/// What a server declared in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The era of the handshake that it answered.
    pub era: Era,
    /// The negotiated revision.
    pub version: ProtocolVersion,
    /// `capabilities`, a JSON object.
    pub capabilities: Bytes,
    /// `serverInfo`, a JSON object.
    pub info: Option<Bytes>,
    /// `instructions`: hints for a model on how to use it.
    pub instructions: Option<String>,
}

impl Facts {
    /// Whether a capability is named at the top level of `capabilities`.
    pub fn can(&self, capability: &str) -> bool {
        member(&self.capabilities, capability).is_some()
    }

    /// Whether it declared that it takes subscriptions to its resources.
    // MCP 2025-11-25 server/resources, Capabilities: `subscribe` is optional
    pub fn can_subscribe(&self) -> bool {
        let resources = member(&self.capabilities, List::Resources.capability());
        resources.and_then(|resources| member(resources, "subscribe")) == Some(b"true")
    }

    /// Whether it offers anything that can be listed.
    pub fn can_list(&self) -> bool {
        List::ALL.into_iter().any(|list| self.can(list.capability()))
    }
}

/// The server's `serverInfo`, a JSON object, from the result of the handshake of `era`.
pub(super) fn server_info(result: &[u8], era: Era) -> Option<Bytes> {
    let info = match era {
        Era::Legacy => member(result, "serverInfo"),
        Era::Modern => member(member(result, "_meta")?, meta::SERVER_INFO),
    };
    info.map(Bytes::copy_from_slice)
}

/// The value of a member of a JSON object.
fn member<'a>(object: &'a [u8], key: &str) -> Option<&'a [u8]> {
    #[derive(Deserialize)]
    struct Named<'a>(#[serde(borrow)] std::collections::HashMap<String, &'a serde_json::value::RawValue>);
    let named: Named<'_> = serde_json::from_slice(object).ok()?;
    named.0.get(key).map(|value| value.get().as_bytes())
}

/// What is known of a server's era.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KnownEra {
    /// Unknown: the control connection finds out. Connections that were opened by an earlier assumption go on; it is
    /// kept for their sake.
    Open(Option<Era>),
    /// The probe had no answer in time, but `initialize` worked. Holds as long as the control connection.
    Assumed(Era),
    /// Proven by a handshake. Holds until another handshake proves it wrong.
    Known(Era),
    /// Configured.
    Fixed(Era),
}

impl KnownEra {
    pub(super) fn fixed(choice: EraChoice) -> Self {
        match choice {
            EraChoice::Auto => Self::Open(None),
            EraChoice::Modern => Self::Fixed(Era::Modern),
            EraChoice::Legacy => Self::Fixed(Era::Legacy),
        }
    }

    /// The era of a new connection.
    pub(super) fn get(self) -> Option<Era> {
        match self {
            Self::Open(_) => None,
            Self::Assumed(era) | Self::Known(era) | Self::Fixed(era) => Some(era),
        }
    }

    /// The era of the connections that exist.
    pub(super) fn last(self) -> Option<Era> {
        if let Self::Open(last) = self { last } else { self.get() }
    }
}

/// Why a handshake failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HandshakeFailure {
    /// The connection was closed before an answer: the bridge is full, or the process ends at start.
    Closed,
    /// No answer in time.
    TimedOut,
    /// An error that only a modern server sends.
    ModernOnly,
    /// Any other error.
    Refused,
    /// An answer that cannot be used; the reason is a clause about the server.
    Unusable(&'static str),
    /// The gateway ended the connection.
    Ended(Error),
}

impl HandshakeFailure {
    /// The result of a handshake request.
    ///
    /// # Errors
    /// When it has none.
    pub(super) fn check(outcome: Outcome) -> Result<Bytes, Self> {
        match outcome {
            Outcome::Result(parts) => Ok(parts.into_bytes()),
            Outcome::Refused(error) => {
                let is_modern = code::of_error(&error).is_some_and(|code| MODERN_CODES.contains(&code));
                Err(if is_modern { Self::ModernOnly } else { Self::Refused })
            }
            // Only a client's call can require input.
            Outcome::InputRequired(_) => Err(Self::Unusable("its first answer cannot be read")),
            Outcome::Failed(error) => Err(match error.kind {
                Kind::Died => Self::Closed,
                Kind::Timeout => Self::TimedOut,
                Kind::TooLarge | Kind::Protocol => Self::Unusable("its first answer cannot be read"),
                _ => Self::Ended(error),
            }),
        }
    }
}

// MCP 2026-07-28 basic/versioning, Backward Compatibility: an error of the modern revision proves a modern server.
const MODERN_CODES: [i64; 3] =
    [code::UNSUPPORTED_VERSION as i64, code::HEADER_MISMATCH as i64, code::MISSING_CAPABILITY as i64];

/// The gateway's own `clientInfo`.
pub(super) fn identity() -> String {
    format!(r#"{{"name":"mcp-edge","version":"{}"}}"#, env!("CARGO_PKG_VERSION"))
}

/// All capabilities that the gateway can relay, a JSON object. The control connection declares them, because servers
/// register tools by what the client can do.
pub(super) fn all_capabilities(era: Era) -> &'static str {
    static LEGACY: LazyLock<String> = LazyLock::new(|| Capabilities::RELAYED.to_json());
    static MODERN: LazyLock<String> =
        LazyLock::new(|| Capabilities::RELAYED.without(Capabilities::ROOTS_CHANGED).to_json());
    match era {
        Era::Legacy => &LEGACY,
        Era::Modern => &MODERN,
    }
}

/// The capabilities that a shared connection declares: no client behind it could be asked.
pub(super) const NO_CAPABILITIES: &str = "{}";

/// The error of a server that has no such resource: its own message and data, under the one code that the front knows for
/// this in both eras, with the URI as the client asked for it.
// MCP 2025-11-25 and 2026-07-28 server/resources, Error Handling
pub(super) fn unknown_resource(error: Value<'_>, uri: &str) -> Outcome {
    let error = Bytes::copy_from_slice(error.raw());
    let object = |at: Span| Object::scan(&error, at, &Limits::default()).ok();
    let Some(whole) = object(Span::all(&error)) else { return Outcome::Refused(error.clone()) };
    let data = whole.get(&error, "data").and_then(object);
    let uri = serde_json::Value::from(uri).to_string();
    let mut splice = Splice::new(error.clone());
    let mut edit = splice.object(&whole);
    edit.set("code", code::RESOURCE_NOT_FOUND.to_string());
    match &data {
        Some(data) => {
            edit.done();
            splice.object(data).set("uri", uri);
        }
        // Anything else than an object could not hold the URI.
        None => {
            edit.set("data", format!(r#"{{"uri":{uri}}}"#));
            edit.done();
        }
    }
    Outcome::Refused(splice.finish().into_bytes())
}
