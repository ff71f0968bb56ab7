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
//! Rooms meet only through [`call`]: a [`call::Call`] goes in, a [`call::Reply`] comes back. A file may
//! import only rooms to its left in this order (checked by `tests/layering.rs`):
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
