//! The one error of this crate: what happened, whose fault it is, and whether a retry can help.
//!
//! Only `front/reply.rs` turns it into HTTP statuses and JSON-RPC codes. The text is for people: which server, what
//! happened, what to change. It never holds arguments, results or credentials.

use std::fmt;
use std::time::Duration;

/// Why a call did not end in a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What happened.
    pub kind: Kind,
    /// Whose side has to change something.
    pub blame: Blame,
    /// After this time the same call may be sent again. `None` where it may have had effects, so that only its caller can
    /// decide.
    pub retry_after: Option<Duration>,
    /// One sentence for the caller.
    pub message: String,
}

/// What happened. The first group ends calls that were dispatched, and is reported to the caller as `data.reason`; the
/// second refuses requests before anything was sent to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No endpoint of the server took a connection.
    Unreachable,
    /// A bound is reached: slots, queue, permits or bytes.
    Busy,
    /// The server's process ended with the call in flight.
    Died,
    /// The call's deadline passed.
    Timeout,
    /// A message is larger than its bound.
    TooLarge,
    /// The server broke the protocol.
    Protocol,
    /// The call was cancelled by its caller.
    Cancelled,
    /// This process is stopping.
    Draining,
    /// What the call referred to is gone.
    Lost,

    /// The message is not what the protocol allows at this point (−32600).
    InvalidRequest,
    /// The parameters are wrong (−32602): an unknown name, a bad cursor, a missing key.
    InvalidParams,
    /// Nobody serves this method (−32601).
    UnknownMethod,
    /// No server has this resource (−32002, or −32602 for modern clients), with the URI as asked.
    UnknownResource(String),
    /// The server asked for something that the client did not declare (−32021): the capabilities that it takes, a
    /// JSON object.
    MissingCapability(String),
}

/// Whose side has to change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The client's side.
    Downstream,
    /// The server's side.
    Upstream,
    /// This process, or its configuration.
    Edge,
}

impl Error {
    /// An error whose message is sent to the caller as it is.
    pub fn new(kind: Kind, blame: Blame, message: impl Into<String>) -> Self {
        Self { kind, blame, retry_after: None, message: message.into() }
    }

    /// This error, for a call that may be sent again after `delay`.
    pub fn retry_after(self, delay: Duration) -> Self {
        Self { retry_after: Some(delay), ..self }
    }

    /// The error for a bound that is reached: nothing was sent, and the caller may retry after `after`.
    pub fn busy(blame: Blame, after: Duration, message: impl Into<String>) -> Self {
        Self::new(Kind::Busy, blame, message).retry_after(after)
    }
}

impl Kind {
    /// The value of `data.reason` (ARCHITECTURE, When things go wrong); `None` for refusals, whose code is enough.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable => Some("unreachable"),
            Self::Busy => Some("busy"),
            Self::Died => Some("died"),
            Self::Timeout => Some("timeout"),
            Self::TooLarge => Some("too_large"),
            Self::Protocol => Some("protocol"),
            Self::Cancelled => Some("cancelled"),
            Self::Draining => Some("draining"),
            Self::Lost => Some("lost"),
            Self::InvalidRequest
            | Self::InvalidParams
            | Self::UnknownMethod
            | Self::UnknownResource(_)
            | Self::MissingCapability(_) => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
