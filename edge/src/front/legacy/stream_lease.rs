//! How long a channel of HTTP+SSE stays open. All calls of a client are answered on it, so it must not end when the
//! credentials that opened it expire: it stays until its calls have ended and the client has had time to send fresh ones.
//!
//! ```text
//!  credentials valid ──▶ expired ──▶ calls go on ──▶ the last has ended ──▶ RENEW_WITHIN ──▶ over
//!         ▲                                  │                                    │
//!         └──── a POST with fresh credentials ┴────────────────────────────────────┘
//! ```
//! Revoked credentials end it at once. The time is bounded: every message needs credentials of its own, so nothing new
//! starts without fresh ones, and calls have deadlines. It must not know what is sent.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::call::{Caller, CredentialStatus, StreamCredentials};
use crate::front::sse::StreamValidity;

/// How long one channel stays open. Clones share it.
#[derive(Clone)]
pub(super) struct StreamLease {
    credentials: StreamCredentials,
    calls: Arc<Mutex<Calls>>,
}

#[derive(Default)]
struct Calls {
    running: usize,
    /// When the last one ended.
    ended: Option<Instant>,
}

/// A call in flight; it ends when this is dropped.
pub(super) struct Running(StreamLease);

impl StreamLease {
    pub(super) fn of(caller: Caller) -> Self {
        Self { credentials: StreamCredentials::of(caller), calls: Arc::default() }
    }

    /// Extends the lease by the credentials of a message.
    pub(super) fn renew(&self, caller: &Caller) {
        self.credentials.renew(caller);
    }

    /// Keeps the channel open for a call.
    pub(super) fn call(&self) -> Running {
        self.calls.lock().running += 1;
        Running(self.clone())
    }

    /// Whether the credentials expired and no fresh ones came in time.
    pub(super) fn has_lapsed(&self) -> bool {
        let CredentialStatus::Expired(then) = self.credentials.status() else { return false };
        let calls = self.calls.lock();
        let since = calls.ended.map_or(then, |ended| ended.max(then));
        calls.running == 0 && since.elapsed() >= RENEW_WITHIN
    }
}

impl StreamValidity for StreamLease {
    fn is_over(&self) -> bool {
        self.credentials.status() == CredentialStatus::Revoked || self.has_lapsed()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut calls = self.0.calls.lock();
        calls.running = calls.running.saturating_sub(1);
        calls.ended = Some(Instant::now());
    }
}

/// How long the channel waits for fresh credentials after the old ones expired and the last call ended. 60 s: clients
/// fetch new ones when a POST is answered with 401, and until then the stream carries list changes at most.
const RENEW_WITHIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Revocation;

    async fn pass(secs: u64) {
        tokio::time::advance(Duration::from_secs(secs)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn calls_and_a_while_for_fresh_credentials_keep_a_channel_and_nothing_else() {
        let ends = Some(Instant::now() + Duration::from_secs(10));
        let caller = Caller::until("a", Revocation::default(), ends);
        let lease = StreamLease::of(caller.clone());
        let (one, other) = (lease.call(), lease.call());
        pass(10 + 600).await;
        assert!(!lease.is_over());
        drop(one);
        pass(600).await;
        assert!(!lease.is_over());
        drop(other);
        pass(RENEW_WITHIN.as_secs() - 1).await;
        assert!(!lease.is_over());
        pass(1).await;
        assert!(lease.is_over());
        let _running = lease.call();
        caller.revoke();
        assert!(lease.is_over(), "what is taken back is so for calls' streams, too");
    }
}
