//! Time as the bridge sees it: moments on the monotonic clock, and the list of deadlines.
//!
//! The event loop reads the clock once per turn and passes the moment on; nothing else reads it.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since boot. It stops while the machine is suspended, so no deadline passes then.
pub(crate) type Moment = Duration;

/// The present moment.
pub(crate) fn now() -> Moment {
    // CLOCK_MONOTONIC exists on every Linux; a moment of zero would only make deadlines late, never early.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// What a deadline is for. Each timer has at most one deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// The connection of this number, or the spare that will serve it.
    Connection(u64),
    /// The end of the drain, or of the stop after it.
    Phase,
    /// When to accept connections again.
    Accept,
    /// When to start spares again.
    Spares,
}

/// All deadlines; the next one is found without looking at the others.
#[derive(Default)]
pub(crate) struct Deadlines {
    due: BTreeSet<(Moment, Timer)>,
}

impl Deadlines {
    /// Replaces the deadline of `timer`; `slot` is where its owner keeps the present one.
    pub(crate) fn set(&mut self, timer: Timer, slot: &mut Option<Moment>, deadline: Option<Moment>) {
        if let Some(old) = slot.take() {
            self.due.remove(&(old, timer));
        }
        if let Some(new) = deadline {
            self.due.insert((new, timer));
        }
        *slot = deadline;
    }

    /// The timer with the earliest deadline, if that has passed.
    pub(crate) fn passed(&self, now: Moment) -> Option<Timer> {
        self.due.first().filter(|(moment, _)| *moment <= now).map(|(_, timer)| *timer)
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
    fn deadline_that_is_replaced_is_forgotten_and_the_earliest_comes_first() {
        let second = Duration::from_secs;
        let (mut deadlines, mut one, mut two) = (Deadlines::default(), None, None);
        deadlines.set(Timer::Connection(1), &mut one, Some(second(5)));
        deadlines.set(Timer::Connection(2), &mut two, Some(second(3)));
        deadlines.set(Timer::Connection(1), &mut one, Some(second(9)));
        assert_eq!(deadlines.next(), Some(second(3)));
        assert_eq!(deadlines.passed(second(2)), None);
        assert_eq!(deadlines.passed(second(6)), Some(Timer::Connection(2)));
        deadlines.set(Timer::Connection(2), &mut two, None);
        assert_eq!(deadlines.passed(second(6)), None, "the replaced deadline of 1 is forgotten");
        assert_eq!(deadlines.passed(second(9)), Some(Timer::Connection(1)));
    }
}
