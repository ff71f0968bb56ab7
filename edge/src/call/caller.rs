//! The authenticated caller, and how long its credentials are valid.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use tokio::time::Instant;

/// The authenticated principal. Cheap to clone; two callers are equal if their principals are.
#[derive(Clone)]
pub struct Caller(Arc<Proof>);

struct Proof {
    principal: Arc<str>,
    revocation: Revocation,
    /// When the credentials expire.
    ends: Option<Instant>,
    /// Whether the credentials were checked by another replica, which alone learns when they are revoked.
    vouched: bool,
    /// The cached number of [`Caller::grant_number`], with its edition in the upper half.
    grant_number: AtomicU64,
}

impl Proof {
    fn of(principal: Arc<str>, revocation: Revocation, ends: Option<Instant>) -> Self {
        Self { principal, revocation, ends, vouched: false, grant_number: AtomicU64::new(0) }
    }
}

/// Revokes the credentials of all callers that share it, at once.
#[derive(Clone, Debug, Default)]
pub struct Revocation(Arc<AtomicBool>);

/// Whether credentials are still valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialStatus {
    /// They are.
    Valid,
    /// They expired at that time.
    Expired(Instant),
    /// They were revoked.
    Revoked,
}

impl Revocation {
    /// Revokes, from now on.
    pub fn revoke(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was revoked.
    pub fn is_revoked(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Caller {
    /// A caller authenticated as `principal`, without a time of expiry.
    pub fn new(principal: impl Into<Arc<str>>) -> Self {
        Self::until(principal, Revocation::default(), None)
    }

    /// A caller whose credentials expire at `ends`; `None`: never.
    pub fn until(principal: impl Into<Arc<str>>, revocation: Revocation, ends: Option<Instant>) -> Self {
        Self(Arc::new(Proof::of(principal.into(), revocation, ends)))
    }

    /// A caller that another replica has authenticated, with credentials that expire at `ends`.
    pub fn vouched(principal: impl Into<Arc<str>>, ends: Option<Instant>) -> Self {
        Self(Arc::new(Proof { vouched: true, ..Proof::of(principal.into(), Revocation::default(), ends) }))
    }

    /// When the credentials expire.
    pub fn ends(&self) -> Option<Instant> {
        self.0.ends
    }

    /// The name the credentials map to; never the credential.
    pub fn principal(&self) -> &Arc<str> {
        &self.0.principal
    }

    /// A hash of the principal, for tokens: names have no fixed length.
    pub fn principal_hash(&self) -> [u8; 32] {
        let hash = digest(&SHA256, self.principal().as_bytes());
        hash.as_ref().first_chunk().copied().unwrap_or_default()
    }

    /// The number that `find` returns for this principal in this `edition` of a policy. It is looked up once for each
    /// edition; editions are counted from 1.
    pub fn grant_number(&self, edition: u32, find: impl FnOnce(&str) -> u32) -> u32 {
        // One atomic word, so that a number is never read with the wrong edition.
        let known = self.0.grant_number.load(Ordering::Relaxed);
        if known >> 32 == u64::from(edition) {
            return u32::try_from(known & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        }
        let found = find(self.principal());
        self.0.grant_number.store((u64::from(edition) << 32) | u64::from(found), Ordering::Relaxed);
        found
    }

    /// Revokes the credentials: open streams end.
    pub fn revoke(&self) {
        self.0.revocation.revoke();
    }

    /// Whether these credentials were revoked or have expired. Other ones of the same principal may be valid.
    pub fn is_over(&self) -> bool {
        self.status() != CredentialStatus::Valid
    }

    /// Whether these credentials are valid, expired or revoked.
    pub fn status(&self) -> CredentialStatus {
        match self.0.ends {
            _ if self.0.revocation.is_revoked() => CredentialStatus::Revoked,
            Some(ends) if ends <= Instant::now() => CredentialStatus::Expired(ends),
            _ => CredentialStatus::Valid,
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

/// The credentials that keep a stream open. Clones share them.
#[derive(Clone, Debug)]
pub struct StreamCredentials(Arc<Mutex<Held>>);

#[derive(Debug)]
struct Held {
    caller: Caller,
    /// When the credentials expire that another replica has checked for the same principal.
    vouched: Option<Instant>,
}

impl StreamCredentials {
    /// The credentials of `caller`.
    pub fn of(caller: Caller) -> Self {
        Self(Arc::new(Mutex::new(Held { caller, vouched: None })))
    }

    /// Takes newer credentials of the same principal, if they are valid for longer. Those that another replica has
    /// checked only extend the time: a revocation here still ends the stream. Without an expiry they extend nothing, because
    /// their revocation is not heard of here either, so that nothing would ever end the stream.
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
        self.status() != CredentialStatus::Valid
    }

    /// Whether the stream's credentials are valid, expired or revoked.
    pub fn status(&self) -> CredentialStatus {
        let held = self.0.lock();
        match (held.caller.status(), held.vouched) {
            (CredentialStatus::Expired(_), Some(ends)) if ends > Instant::now() => CredentialStatus::Valid,
            (CredentialStatus::Expired(one), Some(other)) => CredentialStatus::Expired(one.max(other)),
            (status, _) => status,
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
        let credentials = StreamCredentials::of(until("a", 60));
        credentials.renew(&until("b", 600));
        credentials.renew(&Caller::vouched("a", None));
        let seen = credentials.clone();
        pass(59).await;
        assert!(!seen.is_over());
        pass(1).await;
        assert_eq!(seen.status(), CredentialStatus::Expired(Instant::now()));
        credentials.renew(&until("a", 60));
        assert!(!seen.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn shorter_credentials_take_nothing_from_a_stream_unless_those_before_are_over() {
        let long = until("a", 600);
        let credentials = StreamCredentials::of(long.clone());
        credentials.renew(&until("a", 60));
        pass(61).await;
        assert!(!credentials.is_over());
        long.revoke();
        assert_eq!(credentials.status(), CredentialStatus::Revoked);
        credentials.renew(&until("a", 60));
        assert!(!credentials.is_over());
        credentials.renew(&Caller::new("a"));
        credentials.renew(&until("a", 60));
        pass(1_000).await;
        assert!(!credentials.is_over(), "without an end is the latest");
    }

    #[tokio::test(start_paused = true)]
    async fn another_replica_prolongs_a_stream_and_keeps_nothing_that_is_taken_back() {
        let own = until("a", 60);
        let credentials = StreamCredentials::of(own.clone());
        let vouched = |name, secs| Caller::vouched(name, Some(Instant::now() + Duration::from_secs(secs)));
        credentials.renew(&vouched("b", 600));
        credentials.renew(&vouched("a", 120));
        credentials.renew(&vouched("a", 90));
        pass(119).await;
        assert!(!credentials.is_over());
        pass(1).await;
        assert_eq!(credentials.status(), CredentialStatus::Expired(Instant::now()));
        credentials.renew(&vouched("a", 60));
        assert!(!credentials.is_over());
        own.revoke();
        assert_eq!(credentials.status(), CredentialStatus::Revoked);
    }
}
