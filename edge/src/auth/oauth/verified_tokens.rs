//! Remembers verified tokens by their digest, so that a signature is verified once and not with each request.
//!
//! Bounded by two generations of half the bound each. Tokens that are presented move to the younger generation. When that is
//! full, the older one is dropped, with the tokens that were not presented for a while. The tokens themselves are not kept.

use std::collections::HashMap;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use ring::digest::{SHA256, digest};

use super::resource::Reach;
use crate::call::Caller;

/// The verified tokens.
#[derive(Debug)]
pub(super) struct VerifiedTokens {
    /// The bound of one generation.
    most: usize,
    generations: Mutex<Generations>,
    /// Valid tokens that were dropped to make room.
    forgotten: Counter,
}

#[derive(Debug, Default)]
struct Generations {
    young: Generation,
    old: Generation,
}

type Generation = HashMap<Digest, Verified>;

/// The result of verifying a token.
#[derive(Clone, Debug)]
pub(super) struct Verified {
    /// Expires with the token, and is revoked with the key that signed it.
    pub(super) caller: Caller,
    /// When the token must be verified again at the latest, in seconds since 1970. Covers what the monotonic clock of `caller`
    /// misses: a clock that was set, and a machine that slept.
    pub(super) ends: u64,
    pub(super) reach: Reach,
}

impl Verified {
    fn holds(&self, now: u64) -> bool {
        now < self.ends && !self.caller.is_over()
    }
}

/// The SHA-256 digest of a token.
pub(super) type Digest = [u8; 32];

/// Nobody can find two tokens with the same digest, so it identifies the token.
pub(super) fn digest_of(token: &[u8]) -> Digest {
    digest(&SHA256, token).as_ref().first_chunk().copied().unwrap_or_default()
}

impl VerifiedTokens {
    /// Remembers up to so many tokens.
    pub(super) fn new(tokens: usize, forgotten: Counter) -> Self {
        Self { most: (tokens / 2).max(1), generations: Mutex::default(), forgotten }
    }

    /// The caller of a verified token that is still valid, and whether the token is valid at the endpoint of `server`. `now`
    /// is in seconds since 1970.
    pub(super) fn find(&self, token: &Digest, server: Option<&str>, now: u64) -> Option<(Caller, bool)> {
        let mut all = self.generations.lock();
        let answer = |known: &Verified| (known.caller.clone(), known.reach.covers(server));
        if let Some(known) = all.young.get(token) {
            return known.holds(now).then(|| answer(known));
        }
        let known = all.old.remove(token).filter(|known| known.holds(now))?;
        let found = answer(&known);
        let gone = all.put(self.most, *token, known);
        drop(all);
        self.forget(gone);
        Some(found)
    }

    /// Remembers a token.
    pub(super) fn put(&self, token: Digest, verified: Verified) {
        let gone = self.generations.lock().put(self.most, token, verified);
        self.forget(gone);
    }

    /// Drops a generation: outside the lock, because it may be large.
    fn forget(&self, gone: Generation) {
        self.forgotten.inc_by(gone.values().filter(|known| !known.caller.is_over()).count() as u64);
    }
}

impl Generations {
    /// Returns the generation that was dropped for it.
    fn put(&mut self, most: usize, token: Digest, verified: Verified) -> Generation {
        let mut gone = Generation::new();
        if self.young.len() >= most && !self.young.contains_key(&token) {
            gone = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        }
        self.young.insert(token, verified);
        gone
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, advance};

    use super::*;
    use crate::call::Revocation;

    fn verified(secs: u64) -> Verified {
        let ends = Instant::now() + Duration::from_secs(secs);
        let caller = Caller::until("oauth:a", Revocation::default(), Some(ends));
        Verified { caller, ends: secs, reach: Reach::All }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_stays_and_the_rest_goes() {
        let known = VerifiedTokens::new(20, Counter::default());
        let token = |number: usize| digest_of(&number.to_be_bytes());
        for number in 0..1_000 {
            known.put(token(number), verified(60));
            assert!(known.find(&token(0), None, 0).is_some(), "{number}");
            let all = known.generations.lock();
            assert!(all.young.len() + all.old.len() <= 20);
        }
        assert!(known.find(&token(1), None, 0).is_none() && known.find(&token(999), None, 0).is_some());
        assert!((950..1_000).contains(&known.forgotten.get()), "{}", known.forgotten.get());
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_known_until_it_runs_out_by_either_clock() {
        let known = VerifiedTokens::new(4, Counter::default());
        known.put([1; 32], verified(60));
        assert!(known.find(&[1; 32], None, 59).is_some());
        assert!(known.find(&[1; 32], None, 60).is_none());
        advance(Duration::from_secs(59)).await;
        assert!(known.find(&[1; 32], None, 0).is_some());
        advance(Duration::from_secs(1)).await;
        assert!(known.find(&[1; 32], None, 0).is_none());
    }
}
