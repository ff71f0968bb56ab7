//! Liveness of a server's process: how long it may leave a call unanswered and say nothing else.
//!
//! The time runs from the first call written after the last byte that was read, and anew for a call that goes on when
//! the server has the answer of its client. It is `call_timeout`, also where that call is detached and may take longer.
//! Near its end the process gets a liveness probe, which a process that reads while it works on calls answers at once.
//!
//! ```text
//!    a call is written, or goes on     PROBE_TIMEOUT left         deadline over
//!  Alive ──────────────────▶ Awaiting ───────────────────▶ Probed ─────────────▶ Unresponsive
//!    ▲                          │                            │                        │
//!    └── bytes are read, or the server waits for its client ─┘    bytes are read, and no other connection took its place
//! ```
//! A single call is too little evidence: a tool may take longer than its call, and its process holds the state of a
//! session. Whether that call is still in flight does not matter, because most clients give up long before its
//! timeout. A process that cannot read while it works looks the same as one that hangs. An unresponsive connection
//! therefore gets no new calls, but its process gets the length of a call again (the grace period) to finish its
//! work.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;
use wire::Era;
use wire::mcp::method::Method;

use super::own::OwnRequest;
use super::turn::InTurns;
use super::{Conn, Phase, State};
use crate::call::reply;
use crate::upstream::facts::NO_CAPABILITIES;
use crate::upstream::link::Incoming;
use crate::upstream::modern;
use crate::upstream::settings::{Config, SWEEP};

/// What is known of a process's liveness. Pure: time and the number of reads are arguments.
///
/// `reads` counts the reads of the connection that brought bytes; a number that changed means that the server is alive.
#[derive(Debug)]
pub(super) struct Liveness {
    status: Status,
    probe_timeout: Duration,
    grace: Duration,
}

/// See the diagram in the module documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// No call waits, or bytes were read since it was written.
    Alive,
    /// A call waits since the connection had this number of reads.
    Awaiting { reads: u64, deadline: Instant },
    /// The same, and a liveness probe was sent.
    Probed { reads: u64, deadline: Instant },
    /// Neither the call nor the probe was answered. The process hangs if nothing is read until `grace_ends`.
    Unresponsive { reads: u64, grace_ends: Instant },
}

/// What the connection has to do after a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    None,
    /// Send a liveness probe.
    Probe,
    /// Take no new calls.
    Retire,
}

impl Liveness {
    pub(super) fn new(config: &Config) -> Self {
        let call_timeout = config.call_timeout.min(config.call_timeout_max);
        Self {
            status: Status::Alive,
            probe_timeout: PROBE_TIMEOUT.min(call_timeout / 2),
            grace: config.call_timeout,
        }
    }

    /// How long the server has to answer a probe.
    fn probe_timeout(&self) -> Duration {
        self.probe_timeout
    }

    /// A call is written, or goes on with the answer of its client; the process has until `deadline` to send anything.
    pub(super) fn call_written(&mut self, reads: u64, deadline: Instant) {
        match self.status {
            Status::Awaiting { reads: since, .. } | Status::Probed { reads: since, .. } if since == reads => {
            }
            // A process that was unresponsive stays so until the pool takes note of its recovery.
            Status::Unresponsive { .. } => {}
            Status::Alive | Status::Awaiting { .. } | Status::Probed { .. } => {
                self.status = Status::Awaiting { reads, deadline };
            }
        }
    }

    /// Starts afresh: the server waits for its client, or the connection is closing.
    fn reset(&mut self) {
        self.status = Status::Alive;
    }

    /// Moves on to `now`.
    fn tick(&mut self, reads: u64, now: Instant) -> Action {
        match self.status {
            Status::Awaiting { reads: since, .. } | Status::Probed { reads: since, .. } if since != reads => {
                self.status = Status::Alive;
                Action::None
            }
            Status::Awaiting { deadline, .. } if deadline <= now + self.probe_timeout + SWEEP => {
                // The probe gets its full time, also where a tick came late.
                let deadline = deadline.max(now + self.probe_timeout);
                self.status = Status::Probed { reads, deadline };
                Action::Probe
            }
            Status::Probed { deadline, .. } if deadline <= now => {
                self.status = Status::Unresponsive { reads, grace_ends: deadline + self.grace };
                Action::Retire
            }
            Status::Alive | Status::Awaiting { .. } | Status::Probed { .. } | Status::Unresponsive { .. } => {
                Action::None
            }
        }
    }

    /// Whether the process became unresponsive and nothing was read since.
    fn is_unresponsive(&self, reads: u64) -> bool {
        matches!(self.status, Status::Unresponsive { reads: since, .. } if since == reads)
    }

    /// Whether the process is unresponsive, and its grace period is not over: closed now, it would lose its work and
    /// state.
    fn may_be_working(&self, reads: u64, now: Instant) -> bool {
        let in_grace = matches!(self.status, Status::Unresponsive { grace_ends, .. } if now < grace_ends);
        self.is_unresponsive(reads) && in_grace
    }

    /// Whether the grace period of an unresponsive process is over.
    fn hangs(&self, reads: u64, now: Instant) -> bool {
        self.is_unresponsive(reads) && !self.may_be_working(reads, now)
    }

    /// Returns an unresponsive process that sent bytes since to `Alive`; `true` if this was one.
    fn recover(&mut self, reads: u64) -> bool {
        let has_recovered =
            matches!(self.status, Status::Unresponsive { reads: since, .. } if since != reads);
        if has_recovered {
            self.status = Status::Alive;
        }
        has_recovered
    }
}

impl Conn {
    /// How many reads brought bytes.
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Sends a liveness probe if one is due; `true` if the process has just become unresponsive.
    pub(in crate::upstream) fn check_liveness(&self, now: Instant) -> bool {
        let reads = self.reads();
        let mut state = self.state.lock();
        // A server that waits for its client in a call may hold back everything else.
        if state.phase != Phase::Open || state.waits_for_client() {
            state.liveness.reset();
        }
        match state.liveness.tick(reads, now) {
            Action::None => false,
            Action::Retire => true,
            Action::Probe => {
                self.queue_probe(&mut state);
                drop(state);
                self.wake.notify_one();
                false
            }
        }
    }

    /// Whether the process became unresponsive and nothing was read since.
    pub(in crate::upstream) fn is_unresponsive(&self) -> bool {
        self.state.lock().liveness.is_unresponsive(self.reads())
    }

    /// Whether an unresponsive process sent something again and can take calls. True once for each recovery.
    pub(in crate::upstream) fn recover(&self) -> bool {
        let reads = self.reads();
        let mut state = self.state.lock();
        state.liveness.recover(reads) && state.phase == Phase::Open
    }

    /// Whether the process is unresponsive, and may still finish work that nobody waits for any more.
    pub(super) fn may_be_working(&self, state: &State, now: Instant) -> bool {
        state.liveness.may_be_working(self.reads(), now)
    }

    /// Whether nothing is expected of the process any more.
    pub(super) fn hangs(&self, state: &State, now: Instant) -> bool {
        state.liveness.hangs(self.reads(), now)
    }

    fn queue_probe(&self, state: &mut State) {
        let timeout = state.liveness.probe_timeout();
        // Any answer will do, an error too.
        let (responder, _) = reply();
        let (method, params) = match self.spec.era {
            // MCP 2025-11-25 basic/utilities/ping: the receiver must respond promptly
            Era::Legacy => (Method::Ping, "{}".to_owned()),
            // MCP 2026-07-28 server/discover: there is no ping, and servers must implement this
            Era::Modern => (Method::Discover, modern::own_params("", NO_CAPABILITIES)),
        };
        self.queue_own(state, OwnRequest { method, params: &params, timeout }, responder);
    }
}

/// The incoming bytes of a connection. Counts the reads that brought some, because a line of many megabytes on its
/// way is a sign of life too.
pub(super) struct CountingReader {
    pub(super) incoming: InTurns<Incoming>,
    pub(super) conn: Arc<Conn>,
}

impl AsyncRead for CountingReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.incoming).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.conn.reads.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }
}

/// The time to answer a liveness probe, the last part of the call's timeout; half of that timeout if that is shorter.
/// 10 s: a server that runs tools beside its reading answers within milliseconds, and on an overloaded machine within
/// seconds.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls time out after 60 s, so probes are due 10 s and a sweep before.
    fn liveness() -> (Liveness, impl Fn(u64) -> Instant) {
        let start = Instant::now();
        let config = Config { call_timeout: Duration::from_secs(60), ..Config::default() };
        (Liveness::new(&config), move |secs| start + Duration::from_secs(secs))
    }

    #[test]
    fn unanswered_call_and_probe_make_a_process_unresponsive() {
        let (mut liveness, at) = liveness();
        assert_eq!(liveness.tick(7, at(0)), Action::None);
        liveness.call_written(7, at(60));
        liveness.call_written(7, at(90)); // the first call counts
        assert_eq!(liveness.tick(7, at(48)), Action::None);
        assert_eq!(liveness.tick(7, at(49)), Action::Probe);
        assert_eq!(liveness.tick(7, at(59)), Action::None, "one probe");
        assert!(!liveness.is_unresponsive(7));
        assert_eq!(liveness.tick(7, at(60)), Action::Retire);
        assert_eq!(liveness.tick(7, at(61)), Action::None, "told once");
        assert!(liveness.is_unresponsive(7) && liveness.may_be_working(7, at(119)));
        assert!(!liveness.hangs(7, at(119)) && liveness.hangs(7, at(120)));
        assert!(!liveness.recover(7));
    }

    #[test]
    fn late_tick_leaves_a_probe_its_full_time() {
        let (mut liveness, at) = liveness();
        liveness.call_written(1, at(60));
        assert_eq!(liveness.tick(1, at(100)), Action::Probe);
        assert_eq!(liveness.tick(1, at(109)), Action::None);
        assert_eq!(liveness.tick(1, at(110)), Action::Retire);
    }

    #[test]
    fn read_bytes_make_a_process_alive_in_every_state() {
        let (mut liveness, at) = liveness();
        liveness.call_written(1, at(60));
        assert_eq!(liveness.tick(2, at(50)), Action::None);
        assert_eq!(liveness.status, Status::Alive);

        liveness.call_written(2, at(60));
        assert_eq!(liveness.tick(2, at(50)), Action::Probe);
        liveness.call_written(3, at(110)); // read since, and not ticked
        assert_eq!(liveness.status, Status::Awaiting { reads: 3, deadline: at(110) });

        assert_eq!(liveness.tick(3, at(100)), Action::Probe);
        assert_eq!(liveness.tick(3, at(110)), Action::Retire);
        liveness.call_written(4, at(170));
        assert!(!liveness.is_unresponsive(4) && !liveness.hangs(4, at(999)));
        assert!(liveness.recover(4));
        assert!(!liveness.recover(4), "once");
        assert_eq!(liveness.status, Status::Alive);
    }

    #[test]
    fn short_call_timeout_halves_the_time_of_a_probe() {
        let config = Config { call_timeout: Duration::from_secs(6), ..Config::default() };
        assert_eq!(Liveness::new(&config).probe_timeout(), Duration::from_secs(3));
    }
}
