//! Who calls, as the credentials say, and for how long they say it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// The authenticated principal. Cheap to clone; two are the same if their principals are.
#[derive(Clone)]
pub struct Caller(Arc<Proof>);

struct Proof {
    principal: Arc<str>,
    revocation: Revocation,
    /// When the credentials run out by themselves.
    ends: Option<Instant>,
    /// Whether the credentials were shown to another replica, which alone knows how long they hold.
    vouched: bool,
    /// See [`Caller::standing`]: the edition in the upper half.
    standing: AtomicU64,
}

/// Takes back what callers proved; all who share it at once.
#[derive(Clone, Debug, Default)]
pub struct Revocation(Arc<AtomicBool>);

impl Revocation {
    /// From now on.
    pub fn revoke(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Caller {
    /// The caller who proved to be `principal`, until that is taken back.
    pub fn new(principal: impl Into<Arc<str>>) -> Self {
        Self::of(principal.into(), Revocation::default(), None)
    }

    /// The same, until `ends` at the latest.
    pub fn until(principal: impl Into<Arc<str>>, revocation: Revocation, ends: Instant) -> Self {
        Self::of(principal.into(), revocation, Some(ends))
    }

    /// The caller who proved it to another replica.
    pub fn vouched(principal: impl Into<Arc<str>>) -> Self {
        let proof = Proof {
            principal: principal.into(),
            revocation: Revocation::default(),
            ends: None,
            vouched: true,
            standing: AtomicU64::new(0),
        };
        Self(Arc::new(proof))
    }

    fn of(principal: Arc<str>, revocation: Revocation, ends: Option<Instant>) -> Self {
        let standing = AtomicU64::new(0);
        Self(Arc::new(Proof { principal, revocation, ends, vouched: false, standing }))
    }

    /// The name the credentials map to; never the credential.
    pub fn principal(&self) -> &Arc<str> {
        &self.0.principal
    }

    /// What `find` says of this principal, a number that means something in this `edition` of whatever it is looked up
    /// in. Asked once, as long as the edition stays; editions are counted from 1.
    pub fn standing(&self, edition: u32, find: impl FnOnce(&str) -> u32) -> u32 {
        // One word, so that no number is ever read with another edition.
        let known = self.0.standing.load(Ordering::Relaxed);
        if known >> 32 == u64::from(edition) {
            return u32::try_from(known & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        }
        let found = find(self.principal());
        self.0.standing.store((u64::from(edition) << 32) | u64::from(found), Ordering::Relaxed);
        found
    }

    /// What was proved holds no longer: streams that stay open end.
    pub fn revoke(&self) {
        self.0.revocation.revoke();
    }

    /// Whether the credentials were taken back since, or have run out. Others may prove to be the same principal.
    pub fn is_over(&self) -> bool {
        let has_ended = || self.0.ends.is_some_and(|ends| ends <= Instant::now());
        self.0.revocation.0.load(Ordering::Acquire) || has_ended()
    }
}

impl PartialEq for Caller {
    fn eq(&self, other: &Self) -> bool {
        self.principal() == other.principal()
    }
}

impl Eq for Caller {}

impl Hash for Caller {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.principal().hash(state);
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Caller({})", self.principal())
    }
}

/// Whose credentials a stream stands open for. Clones are one.
#[derive(Clone, Debug)]
pub struct Standing(Arc<Mutex<Caller>>);

impl Standing {
    /// As long as those of `caller` hold.
    pub fn of(caller: Caller) -> Self {
        Self(Arc::new(Mutex::new(caller)))
    }

    /// As long as those hold that the same principal has shown now. What another replica vouches for says nothing of
    /// how long, and changes nothing.
    pub fn renew(&self, caller: &Caller) {
        let mut standing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *standing == *caller && !caller.0.vouched && !Arc::ptr_eq(&standing.0, &caller.0) {
            standing.clone_from(caller);
        }
    }

    /// Whether the stream has to end.
    pub fn is_over(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_over()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn credentials_run_out_or_are_taken_back() {
        let (all, later) = (Revocation::default(), Instant::now() + Duration::from_secs(60));
        let (one, other) = (
            Caller::until("a", all.clone(), later),
            Caller::until("b", all.clone(), later + Duration::from_secs(60)),
        );
        assert!(!one.is_over() && !other.is_over());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(one.is_over() && !other.is_over());
        all.revoke();
        assert!(other.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_stands_as_long_as_the_newest_credentials_of_its_principal() {
        let until = |name: &str, secs| {
            Caller::until(name, Revocation::default(), Instant::now() + Duration::from_secs(secs))
        };
        let standing = Standing::of(until("a", 60));
        standing.renew(&until("b", 600));
        standing.renew(&Caller::vouched("a"));
        let seen = standing.clone();
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(!seen.is_over());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(seen.is_over());
        standing.renew(&until("a", 60));
        assert!(!seen.is_over());
    }
}
