//! What tests and benches need: scripted MCP servers, clients of both eras, and processes that end with their
//! test.
//!
//! The testkit judges the product from outside. It parses and writes its messages with `serde_json` and its
//! HTTP by hand, never with the crates under test, and it may say on the wire what no honest peer would.
//!
//! - [`script`] — what a scripted server does, built in code or parsed from flags
//! - [`scripted`] — that server over any byte stream; [`scripted::Listener`] serves it on TCP inside the
//!   test, in the place of bridge and process; the binary `scripted-server` serves it on stdio
//! - [`record`] — what a scripted server saw: starts, messages, ends
//! - [`tap`] — the same for real servers: what went up on the wire to a bridge
//! - [`balancer`] — connections go to one replica after the other
//! - [`cutter`] — a way between client and edge that breaks on command
//! - [`http`], [`sse`] — one HTTP exchange with every header in the test's hands
//! - [`issuer`] — an authorization server's keys, and tokens signed as the test says
//! - [`client`] — MCP clients of both eras on top of it
//! - [`peer`] — a client with a session that keeps everything it hears
//! - [`process`] — programs under test: found, started, awaited, killed with their guard
//! - [`real`] — where the official clients and servers are
//!
//! Nothing here is part of the product; a failed expectation panics, because a test reads best that way.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

pub mod balancer;
pub mod client;
pub mod cutter;
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

/// How long a test waits for something that is bound to come. Only a failing test waits that long.
pub const GUARD: Duration = Duration::from_secs(30);

/// Waits until `probe` gives something.
///
/// # Panics
/// After [`GUARD`], naming `what` was awaited.
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
