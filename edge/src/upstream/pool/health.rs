//! Whether a server can be reached, as far as is known, so that a call to a server that is down fails at once instead
//! of after a timeout of its own. Pure: time and chance are arguments.
//!
//! ```text
//!            ┌───────── reached ─────────┐
//!            ▼                           │
//! Unknown ─▶ Up ───── not reached ────▶ Down (checked with backoff)
//!    ▲└────────────── not reached ──────▶│
//!    └── forgotten, where none can look ──┘
//! ```

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::link::address::Endpoint;

/// What is known of a server's health.
#[derive(Debug)]
pub(in crate::upstream) struct Health {
    state: State,
    since: Instant,
    next_check: Instant,
    backoff: Backoff,
    interval: Duration,
    /// Endpoints that took no connection lately, and when. Bounded by the addresses that there were in that time.
    missed: HashMap<Endpoint, Instant>,
}

#[derive(Debug)]
enum State {
    Unknown,
    Up,
    Down { why: String },
}

impl Health {
    /// Nothing is known yet. A server that is up is checked every `interval`.
    pub(super) fn new(now: Instant, interval: Duration, seed: u64) -> Self {
        let backoff = Backoff::new(RECHECK_FIRST, RECHECK_LAST, seed);
        let missed = HashMap::new();
        Self { state: State::Unknown, since: now, next_check: now + interval, backoff, interval, missed }
    }

    /// An endpoint took a connection; `true` if the server was down.
    pub(super) fn reached(&mut self, now: Instant) -> bool {
        let was_down = self.is_down();
        if !matches!(self.state, State::Up) {
            self.since = now;
        }
        self.state = State::Up;
        self.next_check = now + self.interval;
        self.backoff.reset();
        was_down
    }

    /// No endpoint took a connection; `true` if the server was not down before.
    pub(super) fn not_reached(&mut self, now: Instant, why: String) -> bool {
        let is_news = !self.is_down();
        if is_news {
            self.since = now;
        }
        self.state = State::Down { why };
        self.next_check = now + self.backoff.next();
        is_news
    }

    /// One endpoint took no connection.
    pub(super) fn missed(&mut self, endpoint: &Endpoint, now: Instant) {
        self.missed.retain(|_, since| now.duration_since(*since) < MISSED_LATELY);
        self.missed.insert(endpoint.clone(), now);
    }

    /// One endpoint took a connection.
    pub(super) fn met(&mut self, endpoint: &Endpoint) {
        self.missed.remove(endpoint);
    }

    /// Whether an endpoint took no connection at the last attempt, and that was lately.
    pub(super) fn was_missed(&self, endpoint: &Endpoint, now: Instant) -> bool {
        self.missed.get(endpoint).is_some_and(|since| now.duration_since(*since) < MISSED_LATELY)
    }

    /// The server cannot be checked without starting it; the next call shows whether it is back.
    pub(super) fn forget(&mut self, now: Instant) {
        self.state = State::Unknown;
        self.next_check = now + self.interval;
    }

    /// Why the server is down, if it is.
    pub(super) fn down(&self) -> Option<&str> {
        match &self.state {
            State::Down { why } => Some(why),
            State::Unknown | State::Up => None,
        }
    }

    pub(in crate::upstream) fn is_down(&self) -> bool {
        self.down().is_some()
    }

    pub(in crate::upstream) fn is_up(&self) -> bool {
        matches!(self.state, State::Up)
    }

    /// When the present state began.
    pub(in crate::upstream) fn since(&self) -> Instant {
        self.since
    }

    /// Whether the next check is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.next_check
    }
}

/// Pauses that double up to a longest one, each with a random part, so that many replicas do not retry at the same
/// moment.
#[derive(Debug)]
pub(in crate::upstream) struct Backoff {
    first: Duration,
    last: Duration,
    pause: Duration,
    seed: u64,
}

impl Backoff {
    pub(in crate::upstream) fn new(first: Duration, last: Duration, seed: u64) -> Self {
        Self { first, last, pause: first, seed }
    }

    /// A pause between half of the current length and all of it; doubles the length.
    pub(in crate::upstream) fn next(&mut self) -> Duration {
        let half = self.pause / 2;
        self.pause = (self.pause * 2).min(self.last);
        half + half.mul_f64(self.chance())
    }

    pub(in crate::upstream) fn reset(&mut self) {
        self.pause = self.first;
    }

    /// A number in `0.0..1.0`. SplitMix64: random enough for jitter, and a test can replay it.
    fn chance(&mut self) -> f64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The first pause between checks. 500 ms: a server that is restarted is back within seconds.
const RECHECK_FIRST: Duration = Duration::from_millis(500);
/// The longest pause, and so how long a server that is back may still count as down. 5 s: a connect that sends
/// nothing is cheap.
const RECHECK_LAST: Duration = Duration::from_secs(5);
/// How long an endpoint that took no connection is tried after all others. 30 s: an attempt that gets no answer costs
/// 2 s, which one new connection in this time may pay to see whether it is back.
const MISSED_LATELY: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn server_is_down_until_the_first_connection() {
        let start = Instant::now();
        let mut health = Health::new(start, Duration::from_secs(30), 1);
        assert!(!health.is_up() && !health.is_down());
        assert!(health.not_reached(start, "refused".into()));
        assert!(!health.not_reached(start + Duration::from_secs(1), "refused again".into()));
        assert_eq!(health.down(), Some("refused again"));
        assert_eq!(health.since(), start);
        assert!(health.is_due(start + Duration::from_secs(7)));
        assert!(health.reached(start + Duration::from_secs(2)));
        assert!(!health.reached(start + Duration::from_secs(3)));
        assert!(health.is_up());
        assert_eq!(health.since(), start + Duration::from_secs(2));
        assert!(!health.is_due(start + Duration::from_secs(32)));
        assert!(health.is_due(start + Duration::from_secs(33)));
        health.not_reached(start + Duration::from_secs(40), "gone".into());
        health.forget(start + Duration::from_secs(41));
        assert!(!health.is_up() && !health.is_down());
    }

    #[test]
    fn pauses_double_with_jitter_up_to_the_last() {
        let (first, last) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, last, 42);
        let pauses: Vec<_> = (0..8).map(|_| backoff.next()).collect();
        for (n, pause) in pauses.iter().enumerate() {
            let full = (first * (1 << n)).min(last);
            assert!(*pause >= full / 2 && *pause <= full, "{n}: {pause:?}");
        }
        assert_ne!(pauses[5], pauses[6], "jitter");
        backoff.reset();
        assert!(backoff.next() <= first);
    }
}
