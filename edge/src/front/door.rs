//! What every request passes before its era is known: which path, who may come in, what it brings, and which of the
//! two adapters takes it.
//!
//! Must not know what the adapters do with a message.

pub(super) mod arrival;
pub(super) mod classify;
mod elsewhere;
pub(super) mod headers;
pub(super) mod media;
pub(super) mod metadata;
pub(super) mod origin;
pub(super) mod route;
