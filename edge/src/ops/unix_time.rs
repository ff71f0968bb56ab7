//! The time of day, as what leaves this process says it: in tokens, proofs and sealed states.
//!
//! Everything that only this process measures goes by `tokio::time`, which tests can pause.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970. A clock before that makes what others gave out look early, and what we gave out look old: the safe
/// side.
pub fn now_unix_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}
