//! How long a server may say nothing: from the first call that is written after its last word on, as long as that
//! call has. Shortly before it is asked for a sign of life, which a server at work gives at once.
//!
//! ```text
//! Heard ──a call is written──▶ Awaited ──SIGN_OF_LIFE left──▶ Asked ──the call's time is over──▶ silent (terminal)
//!   ▲                            │                              │
//!   └────── anything is read, or the server waits for its client ┘
//! ```
//! One call is too little evidence: a tool may take longer than a call does, and its process has the state of a session.
//! Nor does it matter what became of the call, for most clients leave long before its time is over.

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

/// A call waits, and nothing came since it was written.
pub(super) struct Silence {
    /// How often something had been read when it began.
    reads: u64,
    /// When the call's time is over.
    ends: Instant,
    /// Whether a sign of life was asked for.
    asked: bool,
}

impl State {
    /// A call that ends at `ends` is written.
    pub(super) fn awaited(&mut self, reads: u64, ends: Instant) {
        if self.silence.as_ref().is_none_or(|silence| silence.reads != reads) {
            self.silence = Some(Silence { reads, ends, asked: false });
        }
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
        let mut state = self.lock();
        // Where it waits for its client itself it may wait with everything.
        if state.phase != Phase::Open || !state.asks.is_empty() {
            state.silence = None;
        }
        let Some(silence) = state.silence.as_mut().filter(|silence| silence.reads == reads) else {
            return false;
        };
        if silence.asked {
            return silence.ends <= now;
        }
        let patience = SIGN_OF_LIFE.min(config.call_timeout.min(config.call_timeout_max) / 2);
        if silence.ends <= now + patience {
            silence.asked = true;
            self.ask_sign_of_life(&mut state, patience);
            drop(state);
            self.wake.notify_one();
        }
        false
    }

    fn ask_sign_of_life(&self, state: &mut State, patience: Duration) {
        // Whatever it says to that will do.
        let (responder, _) = reply();
        match self.spec.era {
            // MCP 2025-11-25 basic/utilities/ping: the receiver must respond promptly
            Era::Legacy => self.queue_own(state, (Method::Ping, "{}"), responder, patience),
            // MCP 2026-07-28 server/discover: there is no ping, and servers must implement this
            Era::Modern => {
                let params = modern::own_params("", NO_CAPABILITIES);
                self.queue_own(state, (Method::Discover, &params), responder, patience);
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
