//! The client that a connection is all for, for as long as a session or for one call at a time: what its server is
//! told of the client, and what it may therefore ask.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use wire::Message;
use wire::frame::one_line;
use wire::mcp::method::Ask;

use super::lease::Profile;
use crate::call::{Client, SessionKey};

/// Whose connection it is, if one client's alone.
pub(super) struct Tenant {
    whose: Whose,
    pub(super) can: Abilities,
    /// `clientInfo` on one line.
    info: Option<String>,
}

enum Whose {
    /// A legacy session's, from its first call to its end.
    Session(SessionKey),
    /// That of one call after the other, all of clients that can be asked the same.
    Lease(Profile),
}

impl Tenant {
    pub(super) fn of_session(session: &SessionKey, client: &Client) -> Self {
        Self {
            whose: Whose::Session(session.clone()),
            can: Abilities::of(client.capabilities.as_ref()),
            info: client.info.clone().and_then(|info| String::from_utf8(one_line(info).into()).ok()),
        }
    }

    pub(super) fn of_lease(profile: Profile) -> Self {
        let can = Abilities::of(Some(&profile.capabilities().into()));
        Self { whose: Whose::Lease(profile), can, info: None }
    }

    /// The session, if it is one's.
    pub(super) fn session(&self) -> Option<&SessionKey> {
        match &self.whose {
            Whose::Session(session) => Some(session),
            Whose::Lease(_) => None,
        }
    }

    /// What the clients can be asked that take turns on it.
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

    /// What ends a connection from outside: the session's end, or nothing.
    pub(super) fn until(tenant: Option<&Arc<Self>>) -> CancellationToken {
        let session = tenant.and_then(|tenant| tenant.session());
        session.map_or_else(CancellationToken::new, |session| session.ended.clone())
    }
}

/// What a client can be asked, of what this gateway relays.
// MCP 2025-11-25 basic/lifecycle, Capability Negotiation
#[derive(Debug, Default)]
pub(super) struct Abilities {
    offer: String,
    roots: bool,
    roots_changed: bool,
    sampling: bool,
    sampling_tools: bool,
    sampling_context: bool,
    form: bool,
    url: bool,
}

#[derive(Default, Deserialize)]
struct Declared<'a> {
    roots: Option<Roots>,
    #[serde(borrow)]
    sampling: Option<Sampling<'a>>,
    #[serde(borrow)]
    elicitation: Option<Elicitation<'a>>,
}

#[derive(Deserialize)]
struct Roots {
    #[serde(default, rename = "listChanged")]
    list_changed: bool,
}

#[derive(Deserialize)]
struct Sampling<'a> {
    #[serde(borrow)]
    tools: Option<&'a RawValue>,
    #[serde(borrow)]
    context: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Elicitation<'a> {
    #[serde(borrow)]
    form: Option<&'a RawValue>,
    #[serde(borrow)]
    url: Option<&'a RawValue>,
}

impl Abilities {
    /// What `capabilities` declare; nothing, where they cannot be read.
    pub(super) fn of(capabilities: Option<&Bytes>) -> Self {
        let capabilities = one_line(capabilities.cloned().unwrap_or_default());
        let declared: Declared<'_> = serde_json::from_slice(&capabilities).unwrap_or_default();
        let mut can = Self::default();
        let mut offer = Vec::new();
        if let Some(roots) = declared.roots {
            (can.roots, can.roots_changed) = (true, roots.list_changed);
            let changed = if roots.list_changed { r#""listChanged":true"# } else { "" };
            offer.push(format!(r#""roots":{{{changed}}}"#));
        }
        if let Some(Sampling { tools, context }) = declared.sampling {
            (can.sampling, can.sampling_tools, can.sampling_context) =
                (true, tools.is_some(), context.is_some());
            offer.push(format!(r#""sampling":{}"#, object([("tools", tools), ("context", context)])));
        }
        if let Some(Elicitation { form, url }) = declared.elicitation {
            // MCP 2025-11-25 client/elicitation, Capabilities: an empty object means forms.
            (can.form, can.url) = (form.is_some() || url.is_none(), url.is_some());
            offer.push(format!(r#""elicitation":{}"#, object([("form", form), ("url", url)])));
        }
        can.offer = format!("{{{}}}", offer.join(","));
        can
    }

    /// What of it makes a difference to a server.
    pub(super) fn profile(&self) -> Profile {
        Profile::of([
            self.sampling,
            self.sampling_tools,
            self.sampling_context,
            self.form,
            self.url,
            self.roots,
        ])
    }

    /// The capabilities to declare to the server, a JSON object.
    pub(super) fn offer(&self) -> &str {
        &self.offer
    }

    /// Whether the server was promised news of changed roots.
    pub(super) fn tells_of_roots(&self) -> bool {
        self.roots_changed
    }

    /// What the server hears at once that asks for something the client did not declare: the rest of the
    /// response, from its comma on.
    pub(super) fn refusal(&self, kind: Ask, request: &Message) -> Option<&'static str> {
        match kind {
            Ask::Roots if self.roots => None,
            Ask::Sampling if self.sampling => {
                // MCP 2025-11-25 client/sampling, Tools in Sampling: an error unless `sampling.tools` is declared
                let has_tools = ["tools", "toolChoice"].iter().any(|key| request.param(key).is_some());
                (has_tools && !self.sampling_tools).then_some(NO_SUCH_MODE)
            }
            Ask::Elicitation => {
                let mode = request.param("mode").and_then(|mode| mode.as_str());
                // MCP 2025-11-25 client/elicitation: without a mode it is a form.
                let can = match mode.as_deref().unwrap_or("form") {
                    "form" => self.form,
                    "url" => self.url,
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
pub(super) fn required(kind: Ask, request: &Message) -> Option<&'static str> {
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

fn object<const N: usize>(members: [(&str, Option<&RawValue>); N]) -> String {
    let members: Vec<_> =
        members.iter().filter_map(|(key, value)| Some(format!(r#""{key}":{}"#, (*value)?))).collect();
    format!("{{{}}}", members.join(","))
}

// MCP 2025-11-25 client/roots, client/sampling, Error Handling: the client does not support it
const NO_SUCH_METHOD: &str = r#","error":{"code":-32601,"message":"the client does not support this"}}"#;
// MCP 2025-11-25 client/elicitation, Error Handling: a mode that was not declared
const NO_SUCH_MODE: &str =
    r#","error":{"code":-32602,"message":"the client did not declare that it can do this"}}"#;

#[cfg(test)]
mod tests {
    use super::*;
    use wire::limits::Limits;

    fn can(capabilities: &'static str) -> Abilities {
        Abilities::of(Some(&Bytes::from_static(capabilities.as_bytes())))
    }

    #[test]
    fn only_what_is_relayed_is_offered() {
        for (declared, offered) in [
            (
                r#"{"tasks":{"list":{}},"experimental":{"x":{}},"roots":{"listChanged":true,"x":1}}"#,
                r#"{"roots":{"listChanged":true}}"#,
            ),
            (
                r#"{"sampling":{"tools":{},"x":{}},"elicitation":{}}"#,
                r#"{"sampling":{"tools":{}},"elicitation":{}}"#,
            ),
            (
                "{\"elicitation\":\n{\"url\":{},\r\n\"form\":{\"a\":\n1}}}",
                r#"{"elicitation":{"form":{"a": 1},"url":{}}}"#,
            ),
            (r#"{"roots":null,"sampling":{},"sampling":{}}"#, "{}"),
            ("{}", "{}"),
        ] {
            assert_eq!(can(declared).offer(), offered);
        }
        assert_eq!(Abilities::of(None).offer(), "{}");
    }

    #[test]
    fn what_was_not_declared_is_refused() {
        let ask = |can: &Abilities, method: &str, params: &str| {
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
