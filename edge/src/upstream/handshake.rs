//! The first request on a connection, which finds out what the server is: `initialize` in the legacy era,
//! `server/discover` in the modern one.

use std::time::Duration;

use bytes::Bytes;
use wire::Era;
use wire::mcp::lifecycle::{DiscoverResult, InitializeResult};
use wire::mcp::method::{Method, Notice};
use wire::mcp::version::{LATEST_LEGACY, LATEST_MODERN, ProtocolVersion};

use super::conn::Conn;
use super::facts::{Facts, HandshakeFailure, identity, server_info};
use super::modern::own_params;

/// Performs the handshake of the connection's era. `capabilities` is a JSON object: servers register tools by it, and
/// ask only for what it names.
///
/// # Errors
/// When the server does not answer in time, or not as a server of that era.
pub(super) async fn handshake(
    conn: &Conn,
    capabilities: &str,
    timeout: Duration,
) -> Result<Facts, HandshakeFailure> {
    match conn.spec().era {
        Era::Legacy => initialize(conn, capabilities, timeout).await,
        Era::Modern => discover(conn, capabilities, timeout).await,
    }
}

// MCP 2025-11-25 basic/lifecycle, Initialization
async fn initialize(conn: &Conn, capabilities: &str, timeout: Duration) -> Result<Facts, HandshakeFailure> {
    let info = conn.spec().client.as_ref().and_then(|client| client.info());
    let info = info.map_or_else(identity, str::to_owned);
    let params = format!(
        r#"{{"protocolVersion":"{LATEST_LEGACY}","capabilities":{capabilities},"clientInfo":{info}}}"#
    );
    let result = HandshakeFailure::check(conn.ask(Method::Initialize, &params, timeout).await)?;
    let answer: InitializeResult = serde_json::from_slice(&result)
        .map_err(|_| HandshakeFailure::Unusable("its answer to initialize is malformed"))?;
    // Every revision with a handshake will do: they differ in content, not in form.
    let version = ProtocolVersion::parse(&answer.protocol_version);
    let Some(version) = version.filter(|version| version.era() == Era::Legacy) else {
        return Err(HandshakeFailure::Unusable(
            "it answered initialize with a protocol version nobody knows",
        ));
    };
    conn.notify(format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, Notice::Initialized.as_str()));
    Ok(Facts {
        era: Era::Legacy,
        version,
        capabilities: Bytes::copy_from_slice(answer.capabilities.get().as_bytes()),
        info: server_info(&result, Era::Legacy),
        instructions: answer.instructions,
    })
}

/// The revision does not require it, but it shows that a process answers at all before a call is entrusted to it: a
/// bridge that is full closes the connection at the first byte.
async fn discover(conn: &Conn, capabilities: &str, timeout: Duration) -> Result<Facts, HandshakeFailure> {
    let params = own_params("", capabilities);
    let result = HandshakeFailure::check(conn.ask(Method::Discover, &params, timeout).await)?;
    let answer: DiscoverResult = serde_json::from_slice(&result)
        .map_err(|_| HandshakeFailure::Unusable("its answer to server/discover is malformed"))?;
    // MCP 2026-07-28 basic/versioning: a client picks from the versions that the server supports.
    if !answer.supported_versions.iter().any(|version| version == LATEST_MODERN.as_str()) {
        return Err(HandshakeFailure::Unusable(
            "it supports no modern protocol version that this gateway speaks",
        ));
    }
    Ok(Facts {
        era: Era::Modern,
        version: LATEST_MODERN,
        capabilities: Bytes::copy_from_slice(answer.capabilities.get().as_bytes()),
        info: server_info(&result, Era::Modern),
        instructions: answer.instructions,
    })
}
