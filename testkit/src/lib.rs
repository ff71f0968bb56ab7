//! Support for tests and benches: scripted MCP servers, clients of both eras, and processes that end with their test.
//!
//! The testkit tests the product from outside. It parses and writes messages with `serde_json` and HTTP by hand, never with
//! the crates under test, and it can send what no conforming peer would.
//!
//! - [`script`] — what a scripted server does, built in code or parsed from flags
//! - [`scripted`] — that server over any byte stream; [`scripted::Listener`] serves it on TCP inside the test, in place of
//!   bridge and process; the binary `scripted-server` serves it on stdio
//! - [`record`] — what a scripted server saw: starts, messages, ends
//! - [`tap`] — what real servers were sent: a recording proxy before a bridge
//! - [`balancer`] — a TCP proxy that sends connections to the replicas in turn
//! - [`fault_proxy`] — a TCP proxy between client and edge that breaks connections on command
//! - [`http`], [`sse`] — one HTTP exchange with every header set by the test
//! - [`issuer`] — an authorization server's keys, and tokens signed with them
//! - [`client`] — MCP clients of both eras on top of [`http`]
//! - [`peer`] — a client with a session that records everything it receives
//! - [`process`] — programs under test: finds and starts them, waits for them, kills them on drop
//! - [`demo`] — an edge in front of a bridge with the demo server
//! - [`real`] — where the official clients and servers are
//!
//! Nothing here is part of the product. A failed expectation panics.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

pub mod balancer;
pub mod client;
pub mod demo;
pub mod fault_proxy;
pub mod http;
pub mod issuer;
pub mod peer;
pub mod process;
pub mod real;
pub mod record;
pub mod script;
pub mod scripted;
pub mod sse;
pub mod tap;

use std::time::Duration;

/// The timeout of every wait. Only a failing test waits that long.
pub const GUARD: Duration = Duration::from_secs(30);

/// Waits until `probe` returns something.
///
/// # Panics
/// After [`GUARD`], with `what` was waited for.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + GUARD;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited {GUARD:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
