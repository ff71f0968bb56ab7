//! How long a server may say nothing: from the first call that is written after its last word on, as long as that
//! call has. Shortly before it is asked for a sign of life, which a server at work gives at once.
//!
//! ```text
//! Heard ──a call is written──▶ Awaited ──SIGN_OF_LIFE left──▶ Asked ──the call's time is over──▶ Silent ──as long again──▶ closed
//!   ▲                            │                              │                               │
//!   └────── anything is read, or the server waits for its client ┘  anything is read, and no other connection has its place
//! ```
//! One call is too little evidence: a tool may take longer than a call does, and its process has the state of a session.
//! Nor does it matter what became of the call, for most clients leave long before its time is over. A server that cannot
//! read while it works looks the same as one that hangs. So a silent one gets no call, and yet some time to finish.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;
use wire::Era;
use wire::mcp::method::Method;

use super::{Conn, Phase, State};
use crate::call::reply;
use crate::upstream::facts::NO_CAPABILITIES;
use crate::upstream::link::Incoming;
use crate::upstream::modern;
use crate::upstream::pool::keeper::SWEEP;

/// A call waits, and nothing came since it was written.
pub(super) struct Silence {
    /// How often something had been read when it began.
    reads: u64,
    /// When the call's time is over.
    ends: Instant,
    /// Whether a sign of life was asked for.
    asked: bool,
    /// Whether the time went by.
    over: bool,
}

impl State {
    /// A call that ends at `ends` is written.
    pub(super) fn awaited(&mut self, reads: u64, ends: Instant) {
        if self.silence.as_ref().is_none_or(|silence| silence.reads != reads) {
            self.silence = Some(Silence { reads, ends, asked: false, over: false });
        }
    }

    fn is_given_up(&self, reads: u64) -> bool {
        self.silence.as_ref().is_some_and(|silence| silence.over && silence.reads == reads)
    }
}

impl Conn {
    /// How often something was read.
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Whether the server left a call and the request for a sign of life unanswered. Asks for that when it is time.
    pub(in crate::upstream) fn is_silent(&self, now: Instant) -> bool {
        let (reads, config) = (self.reads(), &self.around.config);
        let mut state = self.state.lock();
        // Where it waits for its client itself it may wait with everything.
        if state.phase != Phase::Open || !state.asks.is_empty() {
            state.silence = None;
        }
        let Some(silence) = state.silence.as_mut().filter(|silence| silence.reads == reads) else {
            return false;
        };
        if silence.asked {
            silence.over = silence.ends <= now;
            return silence.over;
        }
        let timeout = SIGN_OF_LIFE.min(config.call_timeout.min(config.call_timeout_max) / 2);
        if silence.ends <= now + timeout + SWEEP {
            // It has all of it, also where nobody looked in time.
            (silence.asked, silence.ends) = (true, silence.ends.max(now + timeout));
            self.ask_sign_of_life(&mut state, timeout);
            drop(state);
            self.wake.notify_one();
        }
        false
    }

    /// Whether it was silent for too long, and still is.
    pub(in crate::upstream) fn is_given_up(&self) -> bool {
        self.state.lock().is_given_up(self.reads())
    }

    /// Whether it was, and is no more. Says so once.
    pub(in crate::upstream) fn speaks_again(&self) -> bool {
        let reads = self.reads();
        let mut state = self.state.lock();
        let speaks = state.silence.as_ref().is_some_and(|silence| silence.over && silence.reads != reads);
        if speaks {
            state.silence = None;
        }
        speaks && state.phase == Phase::Open
    }

    /// Whether its process may be at work on what nobody waits for any more: ended now, it would lose that and its state.
    pub(super) fn may_be_at_work(&self, state: &State, now: Instant) -> bool {
        let more = self.around.config.call_timeout;
        state.is_given_up(self.reads())
            && state.silence.as_ref().is_some_and(|silence| now < silence.ends + more)
    }

    /// Whether it was silent for twice the time that a call has: nothing is expected of its process any more.
    pub(super) fn hangs(&self, state: &State, now: Instant) -> bool {
        state.is_given_up(self.reads()) && !self.may_be_at_work(state, now)
    }

    fn ask_sign_of_life(&self, state: &mut State, timeout: Duration) {
        // Whatever it says to that will do.
        let (responder, _) = reply();
        match self.spec.era {
            // MCP 2025-11-25 basic/utilities/ping: the receiver must respond promptly
            Era::Legacy => self.queue_own(state, (Method::Ping, "{}"), responder, timeout),
            // MCP 2026-07-28 server/discover: there is no ping, and servers must implement this
            Era::Modern => {
                let params = modern::own_params("", NO_CAPABILITIES);
                self.queue_own(state, (Method::Discover, &params), responder, timeout);
            }
        }
    }
}

/// What a server sends, with a count of the reads that brought something: a line of many megabytes is no silence.
pub(super) struct Counted {
    pub(super) incoming: Incoming,
    pub(super) conn: Arc<Conn>,
}

impl AsyncRead for Counted {
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

/// The time that a server has to show that it lives, the last of the first call's; half of it where that is shorter.
/// 10 s: a server that runs tools beside its reading answers within milliseconds, and on a machine that is short of
/// everything within seconds.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
