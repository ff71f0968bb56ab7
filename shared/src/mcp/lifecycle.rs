//! What is said once at the start: `initialize` and `server/discover`. Capabilities stay raw; who needs one looks inside.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Name and version of a client or a server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named by the schema")]
pub struct Implementation {
    pub name: String,
    #[serde(default)]
    pub version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
}

/// Result of `initialize`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "named by the schema")]
pub struct InitializeResult {
    pub protocol_version: String,
    #[serde(default = "no_capabilities")]
    pub capabilities: Box<RawValue>,
    pub server_info: Implementation,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
}

/// Result of `server/discover`, without what every modern result carries. MCP 2026-07-28 server/discover.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "named by the schema")]
pub struct DiscoverResult {
    pub supported_versions: Vec<String>,
    #[serde(default = "no_capabilities")]
    pub capabilities: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
}

/// `{}`: servers of the field leave the member out when they have none.
pub fn no_capabilities() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{DiscoverResult, InitializeResult};

    #[test]
    fn what_is_not_understood_is_in_nobodys_way() {
        let result: InitializeResult = serde_json::from_str(
            r#"{"protocolVersion":"2024-11-05","capabilities":{"tools":{"x":[1.50]}},"serverInfo":{"name":"s","icons":[]},"instructions":null,"more":1}"#,
        )
        .unwrap();
        assert_eq!(
            serde_json::to_string(&result).unwrap(),
            r#"{"protocolVersion":"2024-11-05","capabilities":{"tools":{"x":[1.50]}},"serverInfo":{"name":"s","version":""}}"#
        );
        let discovered: DiscoverResult =
            serde_json::from_str(r#"{"supportedVersions":["2026-07-28"],"resultType":"complete"}"#).unwrap();
        assert_eq!((discovered.supported_versions.len(), discovered.capabilities.get()), (1, "{}"));
    }
}
