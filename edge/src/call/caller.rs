//! Who calls, as the credentials say.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The authenticated principal. Cheap to clone; two are the same if their principals are.
#[derive(Clone)]
pub struct Caller(Arc<Proof>);

struct Proof {
    principal: Arc<str>,
    revoked: AtomicBool,
}

impl Caller {
    /// The caller who proved to be `principal`.
    pub fn new(principal: impl Into<Arc<str>>) -> Self {
        Self(Arc::new(Proof { principal: principal.into(), revoked: AtomicBool::new(false) }))
    }

    /// The name the credentials map to; a configured word, never the credential.
    pub fn principal(&self) -> &Arc<str> {
        &self.0.principal
    }

    /// What was proved holds no longer: streams that stay open end.
    pub fn revoke(&self) {
        self.0.revoked.store(true, Ordering::Release);
    }

    /// Whether the credentials were taken back since. Others may prove to be the same principal.
    pub fn is_revoked(&self) -> bool {
        self.0.revoked.load(Ordering::Acquire)
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
