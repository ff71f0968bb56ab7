//! Where a path leads, and which HTTP methods an endpoint takes.

use http::{HeaderMap, Method};
use wire::mcp::version::looks_modern;

use super::headers;
use crate::auth::oauth::WELL_KNOWN;
use crate::call::ServerName;
use crate::front::refusal::Refusal;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::front) enum Route<'a> {
    /// An endpoint for all servers, or for the one of this slug.
    To(EndpointKind, Option<&'a str>),
    Health,
    Ready,
    /// The metadata (RFC 9728) about the endpoint at this path, or about the gateway if the path is empty.
    Metadata(&'a str),
    Nothing,
}

/// What an endpoint serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::front) enum EndpointKind {
    /// Streamable HTTP, all revisions.
    Mcp,
    /// One tool call as plain JSON.
    Call,
    /// HTTP+SSE: the stream.
    Sse,
    /// HTTP+SSE: the address that clients post their messages to.
    Messages,
}

impl<'a> Route<'a> {
    pub(in crate::front) fn of(path: &'a str) -> Self {
        let path = path.strip_suffix('/').unwrap_or(path);
        if let Some(about) = path.strip_prefix(WELL_KNOWN) {
            return Self::Metadata(about);
        }
        let scoped = path.strip_prefix("/servers/").and_then(|rest| rest.split_once('/'));
        match (path, scoped) {
            ("/health", _) => Self::Health,
            ("/ready", _) => Self::Ready,
            ("/stream", _) => Self::To(EndpointKind::Mcp, None),
            (_, Some((slug, kind))) => {
                EndpointKind::of(kind).map_or(Self::Nothing, |kind| Self::To(kind, Some(slug)))
            }
            (path, None) => {
                let kind = path.strip_prefix('/').and_then(EndpointKind::of);
                kind.map_or(Self::Nothing, |kind| Self::To(kind, None))
            }
        }
    }
}

/// The endpoint of a transport at this path, for all servers or for what may be the name of one. Whether there is a server
/// of that name is not checked here, because callers without credentials must not learn it.
pub(super) fn endpoint(path: &str) -> Option<EndpointKind> {
    let is_name = |slug: &str| ServerName::parse(slug).is_some();
    match Route::of(path) {
        Route::To(kind @ (EndpointKind::Mcp | EndpointKind::Sse), slug) if slug.is_none_or(is_name) => {
            Some(kind)
        }
        _ => None,
    }
}

impl EndpointKind {
    /// The path, in two parts, of the endpoint that a token must be for: the one that a client connects to first.
    pub(in crate::front) fn path(self, path: &str) -> [&str; 2] {
        let path = path.strip_suffix('/').unwrap_or(path);
        match self {
            Self::Mcp | Self::Sse => [path, ""],
            Self::Call => [path.strip_suffix("/call").unwrap_or(path), ""],
            Self::Messages => [path.strip_suffix("messages").unwrap_or(path), "sse"],
        }
    }

    fn of(name: &str) -> Option<Self> {
        match name {
            "mcp" => Some(Self::Mcp),
            "mcp/call" => Some(Self::Call),
            "sse" => Some(Self::Sse),
            "messages" => Some(Self::Messages),
            _ => None,
        }
    }

    /// Refuses a wrong method. Checked before credentials, because it reveals nothing.
    pub(in crate::front) fn check_method(self, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
        match self {
            Self::Mcp => check_mcp(method, headers),
            Self::Sse if method == Method::GET => Ok(()),
            // Clients that were given this address for streamable HTTP fall back on 405.
            // MCP 2025-11-25 basic/transports, Backwards Compatibility
            Self::Sse => Err(Refusal::method_not_allowed("GET", "use GET")),
            Self::Call | Self::Messages if method == Method::POST => Ok(()),
            Self::Call | Self::Messages => Err(Refusal::method_not_allowed("POST", "use POST")),
        }
    }
}

fn check_mcp(method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
    let refuse = |message| Err(Refusal::method_not_allowed("GET, POST, DELETE", message));
    let session = headers.contains_key(&headers::SESSION_ID);
    match *method {
        // MCP 2026-07-28 streamable-http: GET and DELETE are 405; legacy ones belong to a session
        Method::GET if !session => refuse("GET requires an active session"),
        Method::DELETE if !session && headers::version(headers).is_some_and(looks_modern) => {
            refuse("this revision has no sessions; use POST")
        }
        Method::GET | Method::POST | Method::DELETE => Ok(()),
        _ => refuse("use POST, GET or DELETE"),
    }
}
