//! What a server says of itself in the first answer of a connection, and why there may be none.

use bytes::Bytes;
use serde::Deserialize;
use wire::mcp::meta;
use wire::mcp::version::ProtocolVersion;
use wire::{Era, code};

use super::settings::EraChoice;
use crate::call::{List, Outcome};
use crate::error::{Blame, Error, Kind};

/// What a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// How it is spoken to.
    pub era: Era,
    /// The revision that was agreed on.
    pub version: ProtocolVersion,
    /// `capabilities`, a JSON object.
    pub capabilities: Bytes,
    /// `serverInfo`, a JSON object.
    pub info: Option<Bytes>,
    /// What it tells a model about its use.
    pub instructions: Option<String>,
}

impl Facts {
    /// Whether a capability is named at the top level of `capabilities`.
    pub fn can(&self, capability: &str) -> bool {
        member(&self.capabilities, capability).is_some()
    }

    /// Whether it offers anything that can be listed.
    pub fn can_list(&self) -> bool {
        List::ALL.into_iter().any(|list| self.can(list.capability()))
    }
}

/// Who a server says that it is, a JSON object, in the result of the first request of its era.
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
pub(super) enum Verdict {
    /// Nothing that a new connection could go by: the control connection finds out. Connections that an
    /// earlier assumption made go on.
    Open(Option<Era>),
    /// The probe had no answer in time, and a handshake worked. Holds as long as the control connection.
    Assumed(Era),
    /// Proven; holds until a connection proves it wrong.
    Known(Era),
    /// Configured.
    Fixed(Era),
}

impl Verdict {
    pub(super) fn fixed(choice: EraChoice) -> Self {
        match choice {
            EraChoice::Auto => Self::Open(None),
            EraChoice::Modern => Self::Fixed(Era::Modern),
            EraChoice::Legacy => Self::Fixed(Era::Legacy),
        }
    }

    /// What a new connection goes by.
    pub(super) fn era(self) -> Option<Era> {
        match self {
            Self::Open(_) => None,
            Self::Assumed(era) | Self::Known(era) | Self::Fixed(era) => Some(era),
        }
    }

    /// What a connection that exists was made by.
    pub(super) fn last(self) -> Option<Era> {
        if let Self::Open(last) = self { last } else { self.era() }
    }
}

/// Why the first request on a connection brought no facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The connection was closed before an answer: the bridge is full, or the process ends at start.
    Gone,
    /// No answer in time.
    Silent,
    /// An error that only a modern server sends.
    ModernOnly,
    /// Any other error.
    Refused,
    /// An answer that is of no use, as a clause about the server.
    Unusable(&'static str),
    /// The connection was ended from our side.
    Ended(Error),
}

impl Refusal {
    /// The result of the first request, or why there is none.
    pub(super) fn judge(outcome: Outcome) -> Result<Bytes, Self> {
        match outcome {
            Outcome::Result(parts) => Ok(parts.into_bytes()),
            Outcome::Refused(error) => {
                let is_modern = code::of_error(&error).is_some_and(|code| MODERN_CODES.contains(&code));
                Err(if is_modern { Self::ModernOnly } else { Self::Refused })
            }
            // Only a client's call can want input; this request is ours.
            Outcome::InputRequired(_) => Err(Self::Unusable("its first answer cannot be read")),
            Outcome::Failed(error) => Err(match error.kind {
                Kind::Died => Self::Gone,
                Kind::Timeout => Self::Silent,
                Kind::TooLarge | Kind::Protocol => Self::Unusable("its first answer cannot be read"),
                _ => Self::Ended(error),
            }),
        }
    }
}

// MCP 2026-07-28 basic/versioning, Backward Compatibility: an error of the modern revision proves a modern server.
const MODERN_CODES: [i64; 3] =
    [code::UNSUPPORTED_VERSION as i64, code::HEADER_MISMATCH as i64, code::MISSING_CAPABILITY as i64];

/// Who we are, to a server.
pub(super) fn identity() -> String {
    format!(r#"{{"name":"mcp-edge","version":"{}"}}"#, env!("CARGO_PKG_VERSION"))
}

/// Everything the gateway can relay. The control connection advertises it, because servers register tools by
/// what the client can do.
pub(super) fn all_capabilities(era: Era) -> &'static str {
    match era {
        Era::Legacy => {
            r#"{"roots":{"listChanged":true},"sampling":{"context":{},"tools":{}},"elicitation":{"form":{},"url":{}}}"#
        }
        Era::Modern => {
            r#"{"roots":{},"sampling":{"context":{},"tools":{}},"elicitation":{"form":{},"url":{}}}"#
        }
    }
}

/// What a connection for calls advertises: nobody behind it could answer an ask.
pub(super) const NO_CAPABILITIES: &str = "{}";

pub(super) fn unknown_resource(uri: &str) -> Error {
    Error::new(Kind::UnknownResource(uri.to_owned()), Blame::Downstream, "the server has no such resource")
}
