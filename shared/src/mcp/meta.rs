//! Keys of `_meta`.

// MCP 2026-07-28 basic, _meta

/// Revision a request is made by. Required on modern requests.
pub const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// Who makes the request.
pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// What the client can be asked for. Required on modern requests.
pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// Lowest level of log messages wanted on this request's stream.
pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// Who made the result.
pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
/// Which `subscriptions/listen` a notification belongs to.
pub const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
/// Wish for progress notifications that carry this token.
pub const PROGRESS_TOKEN: &str = "progressToken";

/// Whether a key is the protocol's own, by its prefix. 2025-06-18 reserves prefixes with `modelcontextprotocol` or `mcp`
/// before some last label, later revisions those with it as the second label; both are kept out of vendors' hands here.
pub fn is_protocol_key(key: &str) -> bool {
    let Some((prefix, _)) = key.split_once('/') else { return false };
    let mut labels = prefix.split('.').enumerate().peekable();
    while let Some((index, label)) = labels.next() {
        if matches!(label, "modelcontextprotocol" | "mcp") && (index == 1 || labels.peek().is_some()) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::{PROGRESS_TOKEN, PROTOCOL_VERSION, is_protocol_key};

    #[test]
    fn reserved_prefixes_are_known_by_their_labels() {
        for key in [PROTOCOL_VERSION, "dev.mcp/x", "modelcontextprotocol.io/x", "a.tools.mcp.com/x"] {
            assert!(is_protocol_key(key), "{key}");
        }
        for key in [
            PROGRESS_TOKEN,
            "traceparent",
            "mcp",
            "mcp/x",
            "com.example/x",
            "com.example.mcp/x",
            "com.mcp-x/y",
        ] {
            assert!(!is_protocol_key(key), "{key}");
        }
    }
}
