//! The time of day, for what leaves this process: tokens, proofs and sealed states.
//!
//! Everything that only this process measures uses `tokio::time`, which tests can pause.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970, or 0 if the clock is before that, which Linux does not allow.
pub fn now_unix_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}
