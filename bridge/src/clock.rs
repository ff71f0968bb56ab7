//! Time as the bridge sees it: moments on the monotonic clock, and the list of what is due when.
//!
//! The event loop reads the clock once per turn and hands the moment on; nobody else reads it.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since boot. A suspended machine stops it, so no deadline passes while nobody could meet it.
pub(crate) type Moment = Duration;

/// The present moment.
pub(crate) fn now() -> Moment {
    // CLOCK_MONOTONIC exists on every Linux; a moment of zero only makes deadlines late, never early.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// Deadlines by connection, at most one each; the next one is found without looking at the others.
#[derive(Default)]
pub(crate) struct Deadlines {
    due: BTreeSet<(Moment, u64)>,
}

impl Deadlines {
    /// Replaces the deadline of `connection`; `slot` is where the connection keeps its present one.
    pub(crate) fn set(&mut self, connection: u64, slot: &mut Option<Moment>, deadline: Option<Moment>) {
        if let Some(old) = slot.take() {
            self.due.remove(&(old, connection));
        }
        if let Some(new) = deadline {
            self.due.insert((new, connection));
        }
        *slot = deadline;
    }

    /// The connection whose deadline has passed for longest, if any has.
    pub(crate) fn passed(&self, now: Moment) -> Option<u64> {
        self.due.first().filter(|(moment, _)| *moment <= now).map(|(_, connection)| *connection)
    }

    /// When the next deadline passes.
    pub(crate) fn next(&self) -> Option<Moment> {
        self.due.first().map(|(moment, _)| *moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_at_most_one_deadline_and_the_earliest_comes_first() {
        let second = Duration::from_secs;
        let (mut deadlines, mut one, mut two) = (Deadlines::default(), None, None);
        deadlines.set(1, &mut one, Some(second(5)));
        deadlines.set(2, &mut two, Some(second(3)));
        deadlines.set(1, &mut one, Some(second(9)));
        assert_eq!(deadlines.next(), Some(second(3)));
        assert_eq!(deadlines.passed(second(2)), None);
        assert_eq!(deadlines.passed(second(6)), Some(2));
        deadlines.set(2, &mut two, None);
        assert_eq!(deadlines.passed(second(6)), None, "the replaced deadline of 1 is forgotten");
        assert_eq!(deadlines.passed(second(9)), Some(1));
    }
}
