//! The client that a connection is all for, for as long as a session or for one call at a time: what its server is
//! told of the client, and what it may therefore ask.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use wire::Message;
use wire::frame::one_line;
use wire::mcp::method::Ask;

use super::lease::Profile;
use crate::call::{Capabilities, Client, SessionHandle};

/// Whose connection it is, if one client's alone.
pub(in crate::upstream) struct Tenant {
    whose: Whose,
    can: Capabilities,
    /// `clientInfo` on one line.
    info: Option<String>,
}

enum Whose {
    /// A legacy session's, from its first call to its end.
    Session(SessionHandle),
    /// That of one call after the other, all of clients that can be asked the same.
    Lease(Profile),
}

impl Tenant {
    pub(in crate::upstream) fn of_session(session: &SessionHandle, client: &Client) -> Self {
        Self {
            whose: Whose::Session(session.clone()),
            can: Capabilities::of(client),
            info: client.info.clone().and_then(|info| String::from_utf8(one_line(info).into()).ok()),
        }
    }

    pub(in crate::upstream) fn of_lease(profile: Profile) -> Self {
        Self { whose: Whose::Lease(profile), can: profile.capabilities(), info: None }
    }

    /// The session, if it is one's.
    pub(in crate::upstream) fn session(&self) -> Option<&SessionHandle> {
        match &self.whose {
            Whose::Session(session) => Some(session),
            Whose::Lease(_) => None,
        }
    }

    /// What the clients can be asked that take turns on it.
    pub(in crate::upstream) fn profile(&self) -> Option<Profile> {
        match self.whose {
            Whose::Session(_) => None,
            Whose::Lease(profile) => Some(profile),
        }
    }

    /// `clientInfo`, a JSON object, if the client sent one.
    pub(in crate::upstream) fn info(&self) -> Option<&str> {
        self.info.as_deref()
    }

    /// What ends a connection from outside: the session's end, or nothing.
    pub(super) fn until(tenant: Option<&Arc<Self>>) -> CancellationToken {
        let session = tenant.and_then(|tenant| tenant.session());
        session.map_or_else(CancellationToken::new, |session| session.ended.clone())
    }

    /// The capabilities to declare to the server, a JSON object.
    // MCP 2025-11-25 basic/lifecycle, Capability Negotiation
    pub(super) fn offer(&self) -> String {
        self.can.to_json()
    }

    /// Whether the server was promised news of changed roots.
    pub(in crate::upstream) fn tells_of_roots(&self) -> bool {
        self.can.has(Capabilities::ROOTS_CHANGED)
    }

    /// What the server hears at once that asks for something the client did not declare: the rest of the
    /// response, from its comma on.
    pub(in crate::upstream) fn refusal(&self, kind: Ask, request: &Message) -> Option<&'static str> {
        match kind {
            Ask::Roots if self.can.has(Capabilities::ROOTS) => None,
            Ask::Sampling if self.can.has(Capabilities::SAMPLING) => {
                // MCP 2025-11-25 client/sampling, Tools in Sampling: an error unless `sampling.tools` is declared
                let has_tools = ["tools", "toolChoice"].iter().any(|key| request.param(key).is_some());
                (has_tools && !self.can.has(Capabilities::SAMPLING_TOOLS)).then_some(NO_SUCH_MODE)
            }
            Ask::Elicitation => {
                let mode = request.param("mode").and_then(|mode| mode.as_str());
                // MCP 2025-11-25 client/elicitation: without a mode it is a form.
                let can = match mode.as_deref().unwrap_or("form") {
                    "form" => self.can.has_forms(),
                    "url" => self.can.has(Capabilities::URL),
                    _ => false,
                };
                (!can).then_some(NO_SUCH_MODE)
            }
            Ask::Roots | Ask::Sampling | Ask::Ping | Ask::Other => Some(NO_SUCH_METHOD),
        }
    }
}

/// The capabilities that a client needs to be asked this, a JSON object.
// MCP 2026-07-28 basic, MissingRequiredClientCapability
pub(in crate::upstream) fn required(kind: Ask, request: &Message) -> Option<&'static str> {
    let mode = request.param("mode").and_then(|mode| mode.as_str());
    let tools = request.param("tools").or(request.param("toolChoice"));
    match kind {
        Ask::Sampling if tools.is_some() => Some(r#"{"sampling":{"tools":{}}}"#),
        Ask::Sampling => Some(r#"{"sampling":{}}"#),
        Ask::Elicitation if mode.as_deref() == Some("url") => Some(r#"{"elicitation":{"url":{}}}"#),
        Ask::Elicitation => Some(r#"{"elicitation":{"form":{}}}"#),
        Ask::Roots => Some(r#"{"roots":{}}"#),
        Ask::Ping | Ask::Other => None,
    }
}

// MCP 2025-11-25 client/roots, client/sampling, Error Handling: the client does not support it
const NO_SUCH_METHOD: &str = r#","error":{"code":-32601,"message":"the client does not support this"}}"#;
// MCP 2025-11-25 client/elicitation, Error Handling: a mode that was not declared
const NO_SUCH_MODE: &str =
    r#","error":{"code":-32602,"message":"the client did not declare that it can do this"}}"#;

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use wire::limits::Limits;

    fn can(capabilities: &'static str) -> Tenant {
        Tenant {
            whose: Whose::Lease(Profile::default()),
            can: Capabilities::read(capabilities.as_bytes()),
            info: None,
        }
    }

    #[test]
    fn what_was_not_declared_is_refused() {
        let ask = |can: &Tenant, method: &str, params: &str| {
            let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
            let message = Message::scan(text.into(), &Limits::default()).unwrap();
            can.refusal(Ask::parse(method), &message)
        };
        let (none, most) = (can("{}"), can(r#"{"roots":{},"sampling":{},"elicitation":{"url":{}}}"#));
        for (method, params, of_none, of_most) in [
            ("roots/list", "{}", Some(NO_SUCH_METHOD), None),
            ("sampling/createMessage", "{}", Some(NO_SUCH_METHOD), None),
            ("sampling/createMessage", r#"{"tools":[]}"#, Some(NO_SUCH_METHOD), Some(NO_SUCH_MODE)),
            ("elicitation/create", r#"{"mode":"url"}"#, Some(NO_SUCH_MODE), None),
            ("elicitation/create", "{}", Some(NO_SUCH_MODE), Some(NO_SUCH_MODE)),
            ("elicitation/create", r#"{"mode":"smoke"}"#, Some(NO_SUCH_MODE), Some(NO_SUCH_MODE)),
            ("tasks/list", "{}", Some(NO_SUCH_METHOD), Some(NO_SUCH_METHOD)),
        ] {
            assert_eq!(ask(&none, method, params), of_none, "{method}");
            assert_eq!(ask(&most, method, params), of_most, "{method}");
        }
        assert!(
            can(r#"{"elicitation":{}}"#)
                .refusal(
                    Ask::Elicitation,
                    &Message::scan(
                        Bytes::from_static(br#"{"jsonrpc":"2.0","id":1,"method":"elicitation/create"}"#),
                        &Limits::default()
                    )
                    .unwrap()
                )
                .is_none()
        );
    }
}
