//! What can be wrong with an endpoint, and what to do about it.

use std::fmt;

use http::StatusCode;

use crate::ops::http_client::FetchError;

/// The first thing that is wrong with an endpoint.
#[derive(Debug)]
pub enum Diagnosis {
    /// No response arrived.
    Fetch(FetchError),
    /// The token cannot be sent in a header.
    UnusableToken,
    /// 401 without a token.
    NoToken {
        /// The variable that would hold it.
        variable: String,
    },
    /// 401 with a token.
    WrongToken {
        /// The variable that holds it.
        variable: String,
    },
    /// 403.
    Forbidden(Option<String>),
    /// 404.
    NotHere {
        /// The path of the URL.
        path: String,
    },
    /// 429 or 503.
    Busy(Option<String>),
    /// 502 or 504, which come from a proxy in front of the edge.
    Proxy(StatusCode),
    /// A redirect.
    Elsewhere(String),
    /// A JSON-RPC error.
    Refused(String),
    /// The answer is not MCP.
    NotMcp(String),
    /// The endpoint works but offers no tool.
    Nothing {
        /// Whether the states of the servers were printed.
        asked_admin: bool,
    },
    /// These servers are not up.
    Down(Vec<String>),
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fetch(error @ FetchError::ConnectionRefused { .. }) => {
                write!(f, "{error}; is the edge (or the port-forward) running, and is this its port?")
            }
            Self::Fetch(error @ FetchError::Timeout { .. }) => {
                write!(f, "{error}; a firewall or a NetworkPolicy may be in between, or the other side hangs")
            }
            Self::Fetch(error @ FetchError::NotHttp { .. }) => write!(f, "that is not MCP: {error}"),
            Self::Fetch(error) => error.fmt(f),
            Self::UnusableToken => write!(
                f,
                "the token cannot be sent: it holds a line break or another character that headers cannot carry"
            ),
            Self::NoToken { variable } => {
                write!(f, "it requires a token; set {variable}, or name another variable with --token-env")
            }
            Self::WrongToken { variable } => write!(
                f,
                "it does not take the token in {variable}; compare it with the one that the edge was started with (the Secret mcp-gateway-secret; a changed Secret needs a restart)"
            ),
            Self::Forbidden(said) => write!(f, "it refuses us{}", reason(said.as_deref())),
            Self::NotHere { path } => write!(f, "nothing is served at {path}; mcp-edge serves /mcp"),
            Self::Busy(said) => write!(
                f,
                "it is busy, still starting or about to stop{}; try again in a moment; /ready answers 200 when it is",
                reason(said.as_deref())
            ),
            Self::Proxy(status) => {
                write!(
                    f,
                    "something in front of it answers {status}: it cannot reach the edge; look at its backend's address, port and scheme"
                )
            }
            Self::Elsewhere(to) => {
                write!(f, "it redirects to {to}; use that URL, clients do not follow redirects")
            }
            Self::Refused(said) => write!(f, "it refuses: {said}"),
            Self::NotMcp(why) => write!(f, "that is not MCP: {why}"),
            Self::Nothing { asked_admin: true } => {
                write!(f, "it works, but none of its servers offers a tool")
            }
            Self::Nothing { asked_admin: false } => write!(
                f,
                "it works, but offers no tool; its servers may be down: --admin http://HOST:9090 shows the state of each"
            ),
            Self::Down(names) => write!(f, "not up: {}; their tools are missing or fail", names.join(", ")),
        }
    }
}

impl std::error::Error for Diagnosis {}

impl From<FetchError> for Diagnosis {
    fn from(error: FetchError) -> Self {
        Self::Fetch(error)
    }
}

fn reason(said: Option<&str>) -> String {
    said.map(|said| format!(" ({said})")).unwrap_or_default()
}
