//! Error codes of JSON-RPC and MCP, each with the place that defines it, and how to read the code of an error object.

use crate::limits::Limits;
use crate::object::Object;
use crate::span::Span;

/// The message is not JSON. JSON-RPC 2.0 §5.1.
pub const PARSE_ERROR: i32 = -32700;
/// JSON, but not a message that is valid here. JSON-RPC 2.0 §5.1.
pub const INVALID_REQUEST: i32 = -32600;
/// There is no such method, or it belongs to a capability that was not offered. JSON-RPC 2.0 §5.1.
pub const METHOD_NOT_FOUND: i32 = -32601;
/// Unknown tool or prompt, bad cursor, missing `_meta`. JSON-RPC 2.0 §5.1.
pub const INVALID_PARAMS: i32 = -32602;
/// Any error that the caller could not have avoided. JSON-RPC 2.0 §5.1.
pub const INTERNAL_ERROR: i32 = -32603;
/// MCP 2025-11-25 server/resources, Error Handling. Never to a modern client.
pub const RESOURCE_NOT_FOUND: i32 = -32002;
/// MCP 2025-11-25 client/elicitation, URL Elicitation Required Error. Never to a modern client.
pub const URL_ELICITATION_REQUIRED: i32 = -32042;
/// A header is missing, malformed or contradicts the body. MCP 2026-07-28 streamable-http, Server Validation. Modern only.
pub const HEADER_MISMATCH: i32 = -32020;
/// The client lacks a capability that the call needs. MCP 2026-07-28 basic, Error Codes. Modern only.
pub const MISSING_CAPABILITY: i32 = -32021;
/// MCP 2026-07-28 basic/versioning. Modern only.
pub const UNSUPPORTED_VERSION: i32 = -32022;

/// The code of an error object; `None` if it is not an error object.
pub fn of_error(error: &[u8]) -> Option<i64> {
    in_error(&Object::scan(error, Span::all(error), &Limits::default()).ok()?, error)
}

/// The code of an error object that was scanned.
pub fn in_error(object: &Object, error: &[u8]) -> Option<i64> {
    std::str::from_utf8(object.get(error, "code")?.of(error)).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{METHOD_NOT_FOUND, of_error};

    #[test]
    fn a_code_is_found_at_the_top_level_alone() {
        let error = br#" {"message":"no","data":{"code":1}, "code": -32601 } "#;
        assert_eq!(of_error(error), Some(i64::from(METHOD_NOT_FOUND)));
        for none in
            ["", "7", "[]", "{}", r#"{"code":"1"}"#, r#"{"code":1.5}"#, r#"{"code":null}"#, r#"{"code":1"#]
        {
            assert_eq!(of_error(none.as_bytes()), None, "{none}");
        }
    }
}
