//! The client that a connection serves exclusively, for the length of a session or of one call: what is declared of
//! it to the server, and what the server may therefore ask.

use wire::Message;
use wire::frame::one_line;
use wire::mcp::method::Ask;

use super::lease::Profile;
use crate::call::{Capabilities, Client, SessionHandle};

/// The client that has a connection to itself.
pub(super) struct ExclusiveClient {
    whose: Whose,
    can: Capabilities,
    /// `clientInfo` on one line.
    info: Option<String>,
}

enum Whose {
    /// A legacy session, from its first call to its end.
    Session(SessionHandle),
    /// One call after the other, all of clients with this profile.
    Lease(Profile),
}

impl ExclusiveClient {
    pub(super) fn of_session(session: &SessionHandle, client: &Client) -> Self {
        Self {
            whose: Whose::Session(session.clone()),
            can: Capabilities::of(client),
            info: client.info.clone().and_then(|info| String::from_utf8(one_line(info).into()).ok()),
        }
    }

    pub(super) fn of_lease(profile: Profile) -> Self {
        Self { whose: Whose::Lease(profile), can: profile.capabilities(), info: None }
    }

    /// The session, if it is one.
    pub(super) fn session(&self) -> Option<&SessionHandle> {
        match &self.whose {
            Whose::Session(session) => Some(session),
            Whose::Lease(_) => None,
        }
    }

    /// The common profile of the clients that lease the connection in turns.
    pub(super) fn profile(&self) -> Option<Profile> {
        match self.whose {
            Whose::Session(_) => None,
            Whose::Lease(profile) => Some(profile),
        }
    }

    /// `clientInfo`, a JSON object, if the client sent one.
    pub(super) fn info(&self) -> Option<&str> {
        self.info.as_deref()
    }

    /// The capabilities to declare to the server, a JSON object.
    // MCP 2025-11-25 basic/lifecycle, Capability Negotiation
    pub(super) fn declared(&self) -> String {
        self.can.to_json()
    }

    /// Whether `roots.listChanged` is declared to the server.
    pub(super) fn notifies_of_roots(&self) -> bool {
        self.can.has(Capabilities::ROOTS_CHANGED)
    }

    /// The answer to a request of the server for something that the client did not declare, as the rest of the
    /// response from its comma on; `None` if it was declared.
    pub(super) fn refusal(&self, kind: Ask, request: &Message) -> Option<&'static str> {
        if Capabilities::needed(kind, request).is_some_and(|needed| self.can.allow(needed)) {
            return None;
        }
        let wrong_mode =
            kind == Ask::Elicitation || (kind == Ask::Sampling && self.can.has(Capabilities::SAMPLING));
        Some(if wrong_mode { NO_SUCH_MODE } else { NO_SUCH_METHOD })
    }
}

// MCP 2025-11-25 client/roots, client/sampling, Error Handling: the client does not support it
const NO_SUCH_METHOD: &str = r#","error":{"code":-32601,"message":"the client does not support this"}}"#;
// MCP 2025-11-25 client/elicitation, Error Handling: a mode that was not declared; client/sampling, Tools in Sampling:
// an error unless `sampling.tools` is declared
const NO_SUCH_MODE: &str =
    r#","error":{"code":-32602,"message":"the client did not declare that it can do this"}}"#;

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use wire::limits::Limits;

    fn can(capabilities: &'static str) -> ExclusiveClient {
        ExclusiveClient {
            whose: Whose::Lease(Profile::default()),
            can: Capabilities::read(capabilities.as_bytes()),
            info: None,
        }
    }

    #[test]
    fn undeclared_request_is_refused() {
        let ask = |can: &ExclusiveClient, method: &str, params: &str| {
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
