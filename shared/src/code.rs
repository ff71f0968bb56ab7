//! Error codes of JSON-RPC and MCP, each with the place that defines it.

/// The message is not JSON. JSON-RPC 2.0 §5.1.
pub const PARSE_ERROR: i32 = -32700;
/// JSON, but no message that may stand here. JSON-RPC 2.0 §5.1.
pub const INVALID_REQUEST: i32 = -32600;
/// No such method, or of a capability that was not offered. JSON-RPC 2.0 §5.1.
pub const METHOD_NOT_FOUND: i32 = -32601;
/// Unknown tool or prompt, bad cursor, missing `_meta`. JSON-RPC 2.0 §5.1.
pub const INVALID_PARAMS: i32 = -32602;
/// Anything the caller could not have known. JSON-RPC 2.0 §5.1.
pub const INTERNAL_ERROR: i32 = -32603;
/// MCP 2025-11-25 server/resources, Error Handling. Never to a modern client.
pub const RESOURCE_NOT_FOUND: i32 = -32002;
/// MCP 2025-11-25 client/elicitation, URL Elicitation Required Error. Never to a modern client.
pub const URL_ELICITATION_REQUIRED: i32 = -32042;
/// A header is missing, malformed or contradicts the body. MCP 2026-07-28 streamable-http, Server Validation. Modern only.
pub const HEADER_MISMATCH: i32 = -32020;
/// The client lacks a capability the call needs. MCP 2026-07-28 basic, Error Codes. Modern only.
pub const MISSING_CAPABILITY: i32 = -32021;
/// MCP 2026-07-28 basic/versioning. Modern only.
pub const UNSUPPORTED_VERSION: i32 = -32022;
