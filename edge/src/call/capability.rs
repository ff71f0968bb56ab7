//! The capabilities of a client as a set of bits: parsed in one place, and small enough for a sealed token.

use memchr::memmem;
use wire::Message;
use wire::limits::Limits;
use wire::mcp::method::Ask;
use wire::object::Object;
use wire::span::Span;

use super::{Client, ServerName};
use crate::error::{Blame, Error, Kind};

/// The capabilities that a client declared, as far as the gateway or servers act on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Capabilities(u16);

// What each bit stands for (MCP 2025-11-25 schema, ClientCapabilities). Tokens outlive processes, so a bit never gets
// another meaning.
impl Capabilities {
    /// `sampling`
    pub const SAMPLING: Self = Self(1);
    /// `sampling.tools`
    pub const SAMPLING_TOOLS: Self = Self(1 << 1);
    /// `sampling.context`
    pub const SAMPLING_CONTEXT: Self = Self(1 << 2);
    /// `elicitation`
    pub const ELICITATION: Self = Self(1 << 3);
    /// `elicitation.form`; use [`Capabilities::has_forms`] to find out whether forms are allowed.
    pub const FORM: Self = Self(1 << 4);
    /// `elicitation.url`
    pub const URL: Self = Self(1 << 5);
    /// `roots`
    pub const ROOTS: Self = Self(1 << 6);
    /// `roots.listChanged`
    pub const ROOTS_CHANGED: Self = Self(1 << 7);
    // 1 << 8 to 1 << 12 stood for the tasks of 2025-11-25 that a client offers, which are not relayed.
    /// The extension `io.modelcontextprotocol/tasks`
    pub const TASKS: Self = Self(1 << 13);
    /// The extension `io.modelcontextprotocol/ui` for apps in HTML. It concerns what servers show, and asks for nothing.
    // SEP-1865, Client-Host Capabilities
    pub const APPS: Self = Self(1 << 14);
    /// `elicitation` with all that is in it.
    pub const ALL_ELICITATION: Self = Self(0b11_1000);

    /// All that the gateway relays between clients and servers.
    pub const RELAYED: Self = Self(0b1111_1111).with(Self::APPS);

    /// What `client` declared.
    pub fn of(client: &Client) -> Self {
        client.capabilities.as_deref().map(Self::read).unwrap_or_default()
    }

    /// The capabilities that a JSON object declares; none if it cannot be parsed. Copies nothing of it.
    pub fn read(declared: &[u8]) -> Self {
        if declared == b"{}" {
            return Self::default(); // the most frequent by far
        }
        let limits = Limits::default();
        let object = |at: Span| Object::scan(declared, at, &limits).ok();
        let mut can = Self::default();
        let Some(all) = object(Span { start: 0, end: declared.len() }) else { return can };
        for (key, itself, members) in GROUPS {
            let Some(group) = all.get(declared, key).and_then(object) else { continue };
            can = can.with(*itself);
            let has = |(key, _): &&(&str, Self)| {
                group.get(declared, key).is_some_and(|value| is_on(key, value.of(declared)))
            };
            can = members.iter().filter(has).fold(can, |can, (_, one)| can.with(*one));
        }
        can
    }

    /// What a client must have declared to be asked `request`; `None` if no capability covers it.
    // MCP 2025-11-25 and 2026-07-28: client/sampling, client/elicitation and client/roots, Capabilities
    pub fn needed(kind: Ask, request: &Message) -> Option<Self> {
        match kind {
            Ask::Roots => Some(Self::ROOTS),
            Ask::Sampling => {
                let has_tools = ["tools", "toolChoice"].iter().any(|key| request.param(key).is_some());
                let tools = if has_tools { Self::SAMPLING_TOOLS } else { Self::default() };
                Some(Self::SAMPLING.with(tools))
            }
            Ask::Elicitation => {
                let mode = request.param("mode").and_then(|mode| mode.as_str());
                // 2025-11-25 client/elicitation: without a mode it is a form
                let mode = match mode.as_deref().unwrap_or("form") {
                    "form" => Self::FORM,
                    "url" => Self::URL,
                    _ => return None,
                };
                Some(Self::ELICITATION.with(mode))
            }
            Ask::Ping | Ask::Other => None,
        }
    }

    /// Whether a client that declared these can be asked for what takes `needed`.
    pub fn allow(self, needed: Self) -> bool {
        self.explicit().has(needed)
    }

    /// The error of a call in which `server` asked for what takes these, and its client did not declare them.
    // MCP 2026-07-28 basic, MissingRequiredClientCapability
    pub fn missing_at(self, server: &ServerName) -> Error {
        let message =
            format!("server `{server}` needs a client that can be asked for more than this one declared");
        Error::new(Kind::MissingCapability(self.to_json()), Blame::Downstream, message)
    }

    /// The set that [`Capabilities::bits`] wrote.
    pub fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The set as a number, whose meaning never changes.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// Whether all of `wanted` are among them.
    pub fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// Whether the client fills in forms.
    // MCP 2025-11-25 client/elicitation, Capabilities: without a mode it means forms
    pub fn has_forms(self) -> bool {
        self.has(Self::ELICITATION) && (self.has(Self::FORM) || !self.has(Self::URL))
    }

    /// These and others.
    pub const fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// These but not others.
    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// The set with `elicitation` without a mode written as forms, as stateless requests declare it.
    pub fn explicit(self) -> Self {
        if self.has_forms() { self.with(Self::FORM) } else { self }
    }

    /// What servers may ask of the client and show it, as the JSON object that declares it.
    pub fn to_json(self) -> String {
        let object = |key: &str, members: &[(Self, &str)]| {
            let members: Vec<_> =
                members.iter().filter(|(one, _)| self.has(*one)).map(|(_, text)| *text).collect();
            format!(r#""{key}":{{{}}}"#, members.join(","))
        };
        let sampling = [(Self::SAMPLING_TOOLS, r#""tools":{}"#), (Self::SAMPLING_CONTEXT, r#""context":{}"#)];
        let elicitation = [(Self::FORM, r#""form":{}"#), (Self::URL, r#""url":{}"#)];
        let roots = [(Self::ROOTS_CHANGED, r#""listChanged":true"#)];
        let extensions = [(Self::APPS, DECLARED_APPS)];
        let all = [
            (Self::SAMPLING, object("sampling", &sampling)),
            (Self::ELICITATION, object("elicitation", &elicitation)),
            (Self::ROOTS, object("roots", &roots)),
            (Self::APPS, object("extensions", &extensions)),
        ];
        let all: Vec<_> = all.into_iter().filter(|(one, _)| self.has(*one)).map(|(_, text)| text).collect();
        format!("{{{}}}", all.join(","))
    }
}

/// `listChanged` is a flag, the others are objects. Apps have a type of their own.
fn is_on(key: &str, value: &[u8]) -> bool {
    match key {
        "listChanged" => value == b"true",
        APPS => value.starts_with(b"{") && memmem::find(value, APP_TYPE.as_bytes()).is_some(),
        _ => value.starts_with(b"{"),
    }
}

const APPS: &str = "io.modelcontextprotocol/ui";
/// The type of apps in HTML, the only one there is.
const APP_TYPE: &str = r#""text/html;profile=mcp-app""#;
const DECLARED_APPS: &str = r#""io.modelcontextprotocol/ui":{"mimeTypes":["text/html;profile=mcp-app"]}"#;

/// A member of the declaration, what it stands for, and those within it that count.
type Group = (&'static str, Capabilities, &'static [(&'static str, Capabilities)]);

const GROUPS: &[Group] = &[
    (
        "sampling",
        Capabilities::SAMPLING,
        &[("tools", Capabilities::SAMPLING_TOOLS), ("context", Capabilities::SAMPLING_CONTEXT)],
    ),
    ("elicitation", Capabilities::ELICITATION, &[("form", Capabilities::FORM), ("url", Capabilities::URL)]),
    ("roots", Capabilities::ROOTS, &[("listChanged", Capabilities::ROOTS_CHANGED)]),
    (
        "extensions",
        Capabilities(0),
        &[("io.modelcontextprotocol/tasks", Capabilities::TASKS), (APPS, Capabilities::APPS)],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(capabilities: Option<&'static str>) -> u16 {
        let capabilities = capabilities.map(|text| text.as_bytes().into());
        Capabilities::of(&Client { capabilities, ..Client::default() }).bits()
    }

    #[test]
    fn each_capability_has_its_bit() {
        assert_eq!(bits(None), 0);
        assert_eq!(bits(Some("{}")), 0);
        assert_eq!(
            bits(Some(r#"{"sampling":{},"elicitation":{},"roots":{"listChanged":true}}"#)),
            0b1100_1001
        );
        for nothing in [
            r#"{"sampling":null,"elicitation":[],"other":{}}"#,
            r#"{"sampling":{},"sampling":{}}"#,
            "[]",
            "{",
            "",
        ] {
            assert_eq!(bits(Some(nothing)), 0, "{nothing}");
        }
        assert_eq!(bits(Some(r#"{"roots":{"listChanged":false}}"#)), 0b100_0000);
        let all = r#"{"sampling":{"tools":{},"context":{}},"elicitation":{"form":{},"url":{}},"roots":{"listChanged":true},
            "extensions":{"io.modelcontextprotocol/tasks":{},
                          "io.modelcontextprotocol/ui":{"mimeTypes":["x","text/html;profile=mcp-app"]}}}"#;
        assert_eq!(bits(Some(all)), 0b110_0000_1111_1111);
        for others in [r#"{"mimeTypes":["text/html"]}"#, "true", "{}"] {
            let declared = format!(r#"{{"extensions":{{"io.modelcontextprotocol/ui":{others}}}}}"#);
            assert_eq!(Capabilities::read(declared.as_bytes()).bits(), 0, "{others}");
        }
        assert_eq!(Capabilities::from_bits(5).bits(), 5);
    }

    #[test]
    fn what_can_be_asked_is_declared_as_it_was() {
        for declared in [
            "{}",
            r#"{"sampling":{"tools":{},"context":{}},"elicitation":{"form":{},"url":{}},"roots":{"listChanged":true}}"#,
            r#"{"sampling":{},"elicitation":{},"roots":{}}"#,
            r#"{"elicitation":{"url":{}}}"#,
            r#"{"extensions":{"io.modelcontextprotocol/ui":{"mimeTypes":["text/html;profile=mcp-app"]}}}"#,
        ] {
            assert_eq!(Capabilities::read(declared.as_bytes()).to_json(), declared);
        }
        let more =
            r#"{"tasks":{"list":{}},"experimental":{"x":{}},"roots":{"x":1},"elicitation":{"form":{"a":1}}}"#;
        let told = r#"{"elicitation":{"form":{}},"roots":{}}"#;
        assert_eq!(Capabilities::read(more.as_bytes()).to_json(), told);
    }

    #[test]
    fn a_client_without_a_mode_fills_in_forms() {
        for (declared, forms) in [
            (r#"{"elicitation":{}}"#, true),
            (r#"{"elicitation":{"form":{}}}"#, true),
            (r#"{"elicitation":{"form":{},"url":{}}}"#, true),
            (r#"{"elicitation":{"url":{}}}"#, false),
            ("{}", false),
        ] {
            let can = Capabilities::read(declared.as_bytes());
            assert_eq!(
                (can.has_forms(), can.explicit().has(Capabilities::FORM)),
                (forms, forms),
                "{declared}"
            );
        }
    }
}
