//! Who calls, as the credentials say, and for how long they say it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

/// The authenticated principal. Cheap to clone; two are the same if their principals are.
#[derive(Clone)]
pub struct Caller(Arc<Proof>);

struct Proof {
    principal: Arc<str>,
    revocation: Revocation,
    /// When the credentials run out by themselves.
    ends: Option<Instant>,
    /// Whether the credentials were shown to another replica, which alone hears of it when they are taken back.
    vouched: bool,
    /// See [`Caller::standing`]: the edition in the upper half.
    standing: AtomicU64,
}

impl Proof {
    fn of(principal: Arc<str>, revocation: Revocation, ends: Option<Instant>) -> Self {
        Self { principal, revocation, ends, vouched: false, standing: AtomicU64::new(0) }
    }
}

/// Takes back what callers proved; all who share it at once.
#[derive(Clone, Debug, Default)]
pub struct Revocation(Arc<AtomicBool>);

/// Whether credentials hold still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// They do.
    Good,
    /// They ran out by themselves, then.
    RanOut(Instant),
    /// They were taken back.
    Revoked,
}

impl Revocation {
    /// From now on.
    pub fn revoke(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was.
    pub fn is_revoked(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Caller {
    /// The caller who proved to be `principal`, until that is taken back.
    pub fn new(principal: impl Into<Arc<str>>) -> Self {
        Self::until(principal, Revocation::default(), None)
    }

    /// The same, until `ends` at the latest; `None`: further away than a clock reaches.
    pub fn until(principal: impl Into<Arc<str>>, revocation: Revocation, ends: Option<Instant>) -> Self {
        Self(Arc::new(Proof::of(principal.into(), revocation, ends)))
    }

    /// The caller who proved it to another replica, with credentials that end then, if they do by themselves.
    pub fn vouched(principal: impl Into<Arc<str>>, ends: Option<Instant>) -> Self {
        Self(Arc::new(Proof { vouched: true, ..Proof::of(principal.into(), Revocation::default(), ends) }))
    }

    /// When the credentials run out by themselves.
    pub fn ends(&self) -> Option<Instant> {
        self.0.ends
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
        self.hold() != Hold::Good
    }

    /// The same, and which of both.
    pub fn hold(&self) -> Hold {
        match self.0.ends {
            _ if self.0.revocation.is_revoked() => Hold::Revoked,
            Some(ends) if ends <= Instant::now() => Hold::RanOut(ends),
            _ => Hold::Good,
        }
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
pub struct Standing(Arc<Mutex<Held>>);

#[derive(Debug)]
struct Held {
    caller: Caller,
    /// How long another replica says that the same principal may stay.
    vouched: Option<Instant>,
}

impl Standing {
    /// As long as those of `caller` hold.
    pub fn of(caller: Caller) -> Self {
        Self(Arc::new(Mutex::new(Held { caller, vouched: None })))
    }

    /// As long as those hold that the same principal has shown now, if that is longer. What another replica vouches for
    /// prolongs it, but takes nothing from here: what is taken back here ends the stream all the same.
    pub fn renew(&self, caller: &Caller) {
        let mut held = self.0.lock();
        if held.caller != *caller || Arc::ptr_eq(&held.caller.0, &caller.0) {
            return;
        }
        let forever = |ends: Option<Instant>| (ends.is_none(), ends); // later than any time
        if caller.0.vouched {
            held.vouched = held.vouched.max(caller.0.ends);
        } else if held.caller.is_over() || forever(caller.0.ends) >= forever(held.caller.0.ends) {
            held.caller = caller.clone();
        }
    }

    /// Whether the stream has to end.
    pub fn is_over(&self) -> bool {
        self.hold() != Hold::Good
    }

    /// The same, and why.
    pub fn hold(&self) -> Hold {
        let held = self.0.lock();
        match (held.caller.hold(), held.vouched) {
            (Hold::RanOut(_), Some(ends)) if ends > Instant::now() => Hold::Good,
            (Hold::RanOut(one), Some(other)) => Hold::RanOut(one.max(other)),
            (hold, _) => hold,
        }
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
            Caller::until("a", all.clone(), Some(later)),
            Caller::until("b", all.clone(), Some(later + Duration::from_secs(60))),
        );
        assert!(!one.is_over() && !other.is_over());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(one.is_over() && !other.is_over());
        all.revoke();
        assert!(other.is_over());
    }

    fn until(name: &str, secs: u64) -> Caller {
        Caller::until(name, Revocation::default(), Some(Instant::now() + Duration::from_secs(secs)))
    }

    async fn pass(secs: u64) {
        tokio::time::advance(Duration::from_secs(secs)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_stands_as_long_as_the_newest_credentials_of_its_principal() {
        let standing = Standing::of(until("a", 60));
        standing.renew(&until("b", 600));
        standing.renew(&Caller::vouched("a", None));
        let seen = standing.clone();
        pass(59).await;
        assert!(!seen.is_over());
        pass(1).await;
        assert_eq!(seen.hold(), Hold::RanOut(Instant::now()));
        standing.renew(&until("a", 60));
        assert!(!seen.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn shorter_credentials_take_nothing_from_a_stream_unless_those_before_are_over() {
        let long = until("a", 600);
        let standing = Standing::of(long.clone());
        standing.renew(&until("a", 60));
        pass(61).await;
        assert!(!standing.is_over());
        long.revoke();
        assert_eq!(standing.hold(), Hold::Revoked);
        standing.renew(&until("a", 60));
        assert!(!standing.is_over());
        standing.renew(&Caller::new("a"));
        standing.renew(&until("a", 60));
        pass(1_000).await;
        assert!(!standing.is_over(), "without an end is the latest");
    }

    #[tokio::test(start_paused = true)]
    async fn another_replica_prolongs_a_stream_and_keeps_nothing_that_is_taken_back() {
        let own = until("a", 60);
        let standing = Standing::of(own.clone());
        let vouched = |name, secs| Caller::vouched(name, Some(Instant::now() + Duration::from_secs(secs)));
        standing.renew(&vouched("b", 600));
        standing.renew(&vouched("a", 120));
        standing.renew(&vouched("a", 90));
        pass(119).await;
        assert!(!standing.is_over());
        pass(1).await;
        assert_eq!(standing.hold(), Hold::RanOut(Instant::now()));
        standing.renew(&vouched("a", 60));
        assert!(!standing.is_over());
        own.revoke();
        assert_eq!(standing.hold(), Hold::Revoked);
    }
}
