//! What can be wrong with an endpoint, each with what to do about it.

use std::fmt;

use http::StatusCode;

/// The first thing that was wrong.
#[derive(Debug)]
pub enum Trouble {
    /// The name does not resolve.
    UnknownName(String),
    /// Nobody listens there.
    NobodyThere {
        /// Host and port.
        address: String,
    },
    /// Something did not come in time.
    Silent {
        /// What was waited for.
        what: &'static str,
        /// How long, in seconds.
        seconds: u64,
    },
    /// The connection failed otherwise.
    Broken(String),
    /// The other side's TLS or certificate.
    Tls(String),
    /// Our own certificates or token cannot be used.
    Ours(String),
    /// A token is wanted.
    NoToken {
        /// Where it would be taken from.
        variable: String,
    },
    /// Another token is wanted.
    WrongToken {
        /// Where it was taken from.
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
    /// A proxy's own error.
    Proxy(StatusCode),
    /// A redirect.
    Elsewhere(String),
    /// A JSON-RPC error.
    Refused(String),
    /// Something answers, but not with MCP.
    NotMcp(String),
    /// It works, but offers no tool.
    Nothing {
        /// Whether the servers' states were shown.
        asked_admin: bool,
    },
    /// Servers that are not up.
    Down(Vec<String>),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownName(host) => {
                write!(f, "the name {host} does not resolve; check how it is spelled, and the DNS")
            }
            Self::NobodyThere { address } => write!(
                f,
                "nobody listens at {address}; is the edge (or the port-forward) running, and is this its port?"
            ),
            Self::Silent { what, seconds } => write!(
                f,
                "{what} did not come within {seconds} s; a firewall or a NetworkPolicy may be in between, or the other side hangs"
            ),
            Self::Broken(why) => write!(f, "{why}"),
            Self::Tls(why) => write!(f, "TLS: {why}"),
            Self::Ours(why) => write!(f, "{why}"),
            Self::NoToken { variable } => {
                write!(f, "it wants a token; set {variable}, or name another variable with --token-env")
            }
            Self::WrongToken { variable } => write!(
                f,
                "it does not take the token in {variable}; compare it with the one the edge was started with (the Secret mcp-gateway-secret; a changed Secret needs a restart)"
            ),
            Self::Forbidden(said) => write!(f, "it refuses us{}", because(said.as_deref())),
            Self::NotHere { path } => write!(f, "nothing is served at {path}; mcp-edge serves /mcp"),
            Self::Busy(said) => write!(
                f,
                "it is busy, still starting or about to stop{}; try again in a moment, /ready tells when",
                because(said.as_deref())
            ),
            Self::Proxy(status) => {
                write!(
                    f,
                    "something in front of it answers {status}: it cannot reach the edge; look at its backend's address, port and scheme"
                )
            }
            Self::Elsewhere(to) => {
                write!(f, "it leads elsewhere: {to}; name that URL, clients do not follow")
            }
            Self::Refused(said) => write!(f, "it refuses: {said}"),
            Self::NotMcp(why) => write!(f, "that is not MCP: {why}"),
            Self::Nothing { asked_admin: true } => {
                write!(f, "it works, but none of its servers offers a tool")
            }
            Self::Nothing { asked_admin: false } => write!(
                f,
                "it works, but offers no tool; its servers may be down: --admin http://HOST:9090 tells how each of them is"
            ),
            Self::Down(names) => write!(f, "not up: {}; their tools are missing or fail", names.join(", ")),
        }
    }
}

impl std::error::Error for Trouble {}

fn because(said: Option<&str>) -> String {
    said.map(|said| format!(" ({said})")).unwrap_or_default()
}
