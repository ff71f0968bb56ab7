//! How often a command that keeps crashing is started again. Pure: the time is an argument.
//!
//! A few crashes in a row are free, because some servers exit at a request that they do not know (rmcp 0.10 does at
//! `server/discover`), and the caller then sends another one at once. After those, each start waits twice as long as the one
//! before, so a crash loop cannot use up a core.

use std::time::Duration;

use crate::clock::Moment;

/// Counts crashes in a row and says when the next start is allowed.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    crashes: u32,
    closed_until: Moment,
}

impl Backoff {
    /// Whether a process may be started now.
    pub(crate) fn permits(&self, now: Moment) -> bool {
        now >= self.closed_until
    }

    /// When a process may be started again.
    pub(crate) fn opens_at(&self) -> Moment {
        self.closed_until
    }

    /// Counts a process that could not be started, or that failed within [`QUICKLY`] while its client was connected. Returns
    /// the pause that follows.
    pub(crate) fn crashed(&mut self, now: Moment) -> Option<Duration> {
        self.crashes = self.crashes.saturating_add(1);
        let doublings = self.crashes.checked_sub(FREE_CRASHES + 1)?;
        let pause = FIRST_PAUSE.saturating_mul(1 << doublings.min(MAX_DOUBLINGS)).min(LONGEST_PAUSE);
        self.closed_until = now + pause;
        Some(pause)
    }

    /// Forgets all crashes, because a process ended well or has lived: the command works.
    pub(crate) fn works(&mut self) {
        self.crashes = 0;
    }
}

/// A process that fails within this time is taken to have failed at its start.
pub(crate) const QUICKLY: Duration = Duration::from_secs(1);
/// Enough for a caller that probes both eras of the protocol and reconnects.
const FREE_CRASHES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Short enough that a server that needs its database is started soon after the database is up.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Keeps the shift in range; the longest pause is reached earlier.
const MAX_DOUBLINGS: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_in_a_row_double_the_pause_up_to_the_bound() {
        let now = Duration::from_secs(100);
        let mut backoff = Backoff::default();
        for _ in 0..FREE_CRASHES {
            assert_eq!(backoff.crashed(now), None);
            assert!(backoff.permits(now));
        }
        assert_eq!(backoff.crashed(now), Some(FIRST_PAUSE));
        assert!(!backoff.permits(now));
        assert!(backoff.permits(now + FIRST_PAUSE));
        assert_eq!(backoff.crashed(now), Some(FIRST_PAUSE * 2));
        for _ in 0..100 {
            backoff.crashed(now);
        }
        assert_eq!(backoff.crashed(now), Some(LONGEST_PAUSE));
        backoff.works();
        assert_eq!(backoff.crashed(now), None, "a process that lived forgives");
    }
}
