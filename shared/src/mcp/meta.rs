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
/// Which task a message belongs to. 2025-11-25 only.
pub const RELATED_TASK: &str = "io.modelcontextprotocol/related-task";
/// Wish for progress notifications that carry this token.
pub const PROGRESS_TOKEN: &str = "progressToken";

/// Whether a key is the protocol's own: its prefix has `modelcontextprotocol` or `mcp` as its first or second label.
/// 2025-06-18 reserves the first, later revisions the second; both are kept out of vendors' hands here.
pub fn is_protocol_key(key: &str) -> bool {
    let Some((prefix, _)) = key.split_once('/') else { return false };
    prefix.split('.').take(2).any(|label| matches!(label, "modelcontextprotocol" | "mcp"))
}
