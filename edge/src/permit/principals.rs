//! What each principal has of the bounds that all share: calls, and bytes held.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// The principals that have anything now.
#[derive(Debug, Default)]
pub(super) struct Principals {
    shares: Mutex<HashMap<Arc<str>, Share>>,
}

#[derive(Debug, Default)]
struct Share {
    calls: usize,
    bytes: usize,
}

impl Principals {
    /// Counts a call of `principal`, unless it has `most` already.
    pub(super) fn add_call(&self, principal: &Arc<str>, most: usize) -> bool {
        let mut shares = self.shares.lock();
        let share = shares.entry(principal.clone()).or_default();
        let fits = share.calls < most;
        share.calls += usize::from(fits);
        fits
    }

    pub(super) fn end_call(&self, principal: &Arc<str>) {
        self.change(principal, |share| share.calls -= 1);
    }

    /// Counts `bytes` of `principal`, unless it would have more than `most` then.
    pub(super) fn add_bytes(&self, principal: &Arc<str>, bytes: usize, most: usize) -> bool {
        let mut fits = false;
        self.change(principal, |share| {
            fits = share.bytes.saturating_add(bytes) <= most;
            share.bytes += if fits { bytes } else { 0 };
        });
        fits
    }

    pub(super) fn free_bytes(&self, principal: &Arc<str>, bytes: usize) {
        self.change(principal, |share| share.bytes -= bytes);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.shares.lock().is_empty()
    }

    fn change(&self, principal: &Arc<str>, change: impl FnOnce(&mut Share)) {
        let mut shares = self.shares.lock();
        let share = shares.entry(principal.clone()).or_default();
        change(share);
        if share.calls == 0 && share.bytes == 0 {
            shares.remove(principal);
        }
    }
}
