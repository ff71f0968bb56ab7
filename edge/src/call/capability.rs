//! What a client can be asked, as a set of bits: small enough to travel inside a token.

use serde_json::Value;

use super::Client;

/// The capabilities of a legacy client that somebody else acts on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(u16);

impl Capabilities {
    /// What `client` declared.
    pub fn of(client: &Client) -> Self {
        let declared = client.capabilities.as_deref().and_then(|bytes| serde_json::from_slice(bytes).ok());
        let declared: Value = declared.unwrap_or_default();
        let has = |(_, path): &&(u16, &str)| declared.pointer(path).is_some_and(|value| is_on(path, value));
        Self(BITS.iter().filter(has).fold(0, |bits, (bit, _)| bits | bit))
    }

    /// The set that [`Capabilities::bits`] wrote.
    pub fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// As a number, whose meaning never changes.
    pub fn bits(self) -> u16 {
        self.0
    }
}

/// `listChanged` is a flag, the others are objects.
fn is_on(path: &str, value: &Value) -> bool {
    if path.ends_with("listChanged") { value == true } else { value.is_object() }
}

/// What each bit stands for (MCP 2025-11-25 schema, ClientCapabilities). Tokens outlive processes, so a bit
/// never gets another meaning. That `elicitation: {}` means forms is for the reader to know.
const BITS: &[(u16, &str)] = &[
    (1, "/sampling"),
    (1 << 1, "/sampling/tools"),
    (1 << 2, "/sampling/context"),
    (1 << 3, "/elicitation"),
    (1 << 4, "/elicitation/form"),
    (1 << 5, "/elicitation/url"),
    (1 << 6, "/roots"),
    (1 << 7, "/roots/listChanged"),
    (1 << 8, "/tasks"),
    (1 << 9, "/tasks/list"),
    (1 << 10, "/tasks/cancel"),
    (1 << 11, "/tasks/requests/sampling/createMessage"),
    (1 << 12, "/tasks/requests/elicitation/create"),
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
        assert_eq!(bits(Some(r#"{"roots":{"listChanged":false},"sampling":null,"other":{}}"#)), 0b100_0000);
        let all = r#"{"sampling":{"tools":{},"context":{}},"elicitation":{"form":{},"url":{}},"roots":{"listChanged":true},
            "tasks":{"list":{},"cancel":{},"requests":{"sampling":{"createMessage":{}},"elicitation":{"create":{}}}}}"#;
        assert_eq!(bits(Some(all)), 0b1_1111_1111_1111);
        assert_eq!(Capabilities::from_bits(5).bits(), 5);
    }
}
