//! Tokens that were verified: what is known of one is found by its digest, so that a signature is checked once and not with
//! each request.
//!
//! Bounded: two generations of half the bound each. What is asked for is kept in the younger; when that is full the older
//! one goes, and with it what nobody has shown for a while. Tokens themselves are not kept.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::digest::{SHA256, digest};

use super::resource::Reach;
use crate::call::Caller;

/// See the module.
#[derive(Debug)]
pub(super) struct Known {
    /// Of one generation.
    most: usize,
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Digest, Verified>,
    old: HashMap<Digest, Verified>,
}

/// What is known of a token.
#[derive(Clone, Debug)]
pub(super) struct Verified {
    /// Runs out with the token.
    pub(super) caller: Caller,
    pub(super) reach: Reach,
}

/// Of a token.
pub(super) type Digest = [u8; 32];

/// Nobody finds another token of the same digest, so that one stands for the token.
pub(super) fn digest_of(token: &[u8]) -> Digest {
    digest(&SHA256, token).as_ref().first_chunk().copied().unwrap_or_default()
}

impl Known {
    /// For so many tokens.
    pub(super) fn new(tokens: usize) -> Self {
        Self { most: (tokens / 2).max(1), generations: Mutex::default() }
    }

    /// The caller of a token that was verified and is valid still, and whether it counts at the endpoint of `server`.
    pub(super) fn find(&self, token: &Digest, server: Option<&str>) -> Option<(Caller, bool)> {
        let mut all = self.generations();
        let answer = |known: &Verified| (known.caller.clone(), known.reach.covers(server));
        if let Some(known) = all.young.get(token) {
            return (!known.caller.is_over()).then(|| answer(known));
        }
        let known = all.old.remove(token).filter(|known| !known.caller.is_over())?;
        let found = answer(&known);
        all.put(self.most, *token, known);
        Some(found)
    }

    /// Keeps what is known of a token; how many were forgotten for it that are valid still.
    pub(super) fn put(&self, token: Digest, verified: Verified) -> usize {
        self.generations().put(self.most, token, verified)
    }

    /// Forgets all, so that each is verified anew.
    pub(super) fn clear(&self) {
        *self.generations() = Generations::default();
    }

    fn generations(&self) -> MutexGuard<'_, Generations> {
        // Every state is valid at any point, so poison carries no news.
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn put(&mut self, most: usize, token: Digest, verified: Verified) -> usize {
        let mut forgotten = 0;
        if self.young.len() >= most && !self.young.contains_key(&token) {
            let gone = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            forgotten = gone.values().filter(|known| !known.caller.is_over()).count();
        }
        self.young.insert(token, verified);
        forgotten
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
        Verified { caller: Caller::until("oauth:a", Revocation::default(), ends), reach: Reach::All }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_stays_and_the_rest_goes() {
        let known = Known::new(20);
        let token = |number: usize| digest_of(&number.to_be_bytes());
        let mut forgotten = 0;
        for number in 0..1_000 {
            forgotten += known.put(token(number), verified(60));
            assert!(known.find(&token(0), None).is_some(), "{number}");
            let all = known.generations();
            assert!(all.young.len() + all.old.len() <= 20);
        }
        assert!(known.find(&token(1), None).is_none() && known.find(&token(999), None).is_some());
        assert!((950..1_000).contains(&forgotten), "{forgotten}");
        known.clear();
        assert!(known.find(&token(0), None).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_known_until_it_runs_out() {
        let known = Known::new(4);
        known.put([1; 32], verified(60));
        advance(Duration::from_secs(59)).await;
        assert!(known.find(&[1; 32], None).is_some());
        advance(Duration::from_secs(1)).await;
        assert!(known.find(&[1; 32], None).is_none());
        for number in 2..10 {
            assert!(known.put([number; 32], verified(60)) <= 2);
        }
    }
}
