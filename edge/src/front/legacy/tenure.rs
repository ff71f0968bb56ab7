//! How long a channel of HTTP+SSE stays open: it is the one way back for all of its calls, so that it does not end with the
//! credentials that it was opened with while calls are on their way, nor before their client could show fresh ones.
//!
//! ```text
//!  credentials hold ──▶ they run out ──▶ calls go on ──▶ the last has ended ──▶ RENEW_WITHIN ──▶ over
//!         ▲                                  │                                       │
//!         └──────── a POST with fresh ones ──┴───────────────────────────────────────┘
//! ```
//! What is taken back ends it at once. Guarantees: without fresh credentials nothing new begins, for each message needs its
//! own, and calls have deadlines; so this is bounded. It must not know what is sent.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::call::{Caller, Hold, Standing};
use crate::front::sse::Stands;

/// See the module. Clones are one.
#[derive(Clone)]
pub(super) struct Tenure {
    standing: Standing,
    calls: Arc<Mutex<Calls>>,
}

#[derive(Default)]
struct Calls {
    running: usize,
    /// When the last one ended.
    ended: Option<Instant>,
}

/// A call that is on its way, for as long as it lives.
pub(super) struct Running(Tenure);

impl Tenure {
    pub(super) fn of(caller: Caller) -> Self {
        Self { standing: Standing::of(caller), calls: Arc::default() }
    }

    /// By the credentials of a message.
    pub(super) fn renew(&self, caller: &Caller) {
        self.standing.renew(caller);
    }

    /// A call begins.
    pub(super) fn call(&self) -> Running {
        self.calls.lock().running += 1;
        Running(self.clone())
    }

    /// Whether nobody came with fresh credentials in time.
    pub(super) fn has_lapsed(&self) -> bool {
        let Hold::RanOut(then) = self.standing.hold() else { return false };
        let calls = self.calls.lock();
        let since = calls.ended.map_or(then, |ended| ended.max(then));
        calls.running == 0 && since.elapsed() >= RENEW_WITHIN
    }
}

impl Stands for Tenure {
    fn is_over(&self) -> bool {
        self.standing.hold() == Hold::Revoked || self.has_lapsed()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut calls = self.0.calls.lock();
        calls.running = calls.running.saturating_sub(1);
        calls.ended = Some(Instant::now());
    }
}

/// From the end of the credentials, or of the last call that went on after it, to that of the channel, for a message with
/// fresh ones. 60 s: clients fetch them when they have something to say and hear 401; until then nothing is said here but
/// that lists have changed.
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
        let tenure = Tenure::of(caller.clone());
        let (one, other) = (tenure.call(), tenure.call());
        pass(10 + 600).await;
        assert!(!tenure.is_over());
        drop(one);
        pass(600).await;
        assert!(!tenure.is_over());
        drop(other);
        pass(RENEW_WITHIN.as_secs() - 1).await;
        assert!(!tenure.is_over());
        pass(1).await;
        assert!(tenure.is_over());
        let _running = tenure.call();
        caller.revoke();
        assert!(tenure.is_over(), "what is taken back is so for calls' streams, too");
    }
}
