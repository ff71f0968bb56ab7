//! The MCP gateway: one endpoint for many servers.
//!
//! A call flows down, its reply flows back:
//!
//! ```text
//! listen ─▶ front ─▶ session* ─▶ router ─▶ upstream ─▶ bridge      (* legacy clients only)
//!   tls,     origin, auth,        names,     connections,
//!   http     era adapters         catalog    id map, isolation
//! ```
//!
//! Calls cross rooms as a [`call::Call`], which is answered by a [`call::Reply`]. The seams are three traits:
//! [`call::Dispatch`] (whatever takes calls), [`call::Server`] (one server, as the router sees it) and
//! [`router::Gateway`] (all servers, as the front sees them). A file may import only rooms to its left in this
//! order (checked by `tests/layering.rs`):
//!
//! `wire < ops < error, permit, call < seal < auth < upstream < router < session < peer < front < listen < config < app < main`

pub mod app;
pub mod auth;
pub mod call;
pub mod config;
pub mod error;
pub mod front;
pub mod listen;
pub mod ops;
pub mod peer;
pub mod permit;
pub mod router;
pub mod seal;
pub mod session;
pub mod upstream;
