//! A request that waits for its answer.

use std::time::Duration;

use tokio::time::Instant;
use wire::mcp::level::Level;
use wire::mcp::method::Method;

use crate::call::{Call, Responder};
use crate::error::Error;
use crate::permit::SlotPermit;
use crate::upstream::pool::lease::Lease;

/// A call and the place its answer goes to.
pub(in crate::upstream) struct Job {
    pub(in crate::upstream) call: Call,
    pub(in crate::upstream) responder: Responder,
    /// Its seat, where it has a connection to itself.
    pub(in crate::upstream) lease: Option<Lease>,
    /// How many connections had it before.
    pub(in crate::upstream) tries: u8,
}

/// What is kept of a request until it is answered.
pub(super) struct Pending {
    pub(super) work: Work,
    /// Counts the requests of a connection up: the lowest is the oldest.
    pub(super) age: u64,
    /// The least level of log messages that it asked a modern server for.
    pub(super) level: Option<Level>,
    /// Whether anything of it may have reached the server.
    pub(super) written: bool,
    /// What the server asked for in its course that its client did not declare: capabilities, a JSON object.
    pub(super) missing: Option<&'static str>,
    /// Whether it has all the time that any call may have: no client waits at a connection for it.
    pub(super) detached: bool,
    /// When it fails if nothing is heard of it.
    pub(super) deadline: Instant,
    /// When it fails whatever is heard of it.
    pub(super) limit: Instant,
}

impl Pending {
    /// A request that is queued now: it fails after `timeout` if nothing is heard of it, and after `most` in any case.
    pub(super) fn new(work: Work, age: u64, timeout: Duration, most: Duration) -> Self {
        let limit = Instant::now() + most;
        let detached = work.events().is_some_and(Responder::is_detached);
        let mut pending =
            Self { work, age, level: None, written: false, missing: None, detached, deadline: limit, limit };
        pending.renew(timeout);
        pending
    }

    /// Gives it `timeout` from now on.
    pub(super) fn renew(&mut self, timeout: Duration) {
        if !self.detached {
            self.deadline = (Instant::now() + timeout).min(self.limit);
        }
    }

    /// Gives it all the time that any call may have.
    pub(super) fn detach(&mut self) {
        (self.detached, self.deadline) = (true, self.limit);
    }
}

/// Whose request it is.
pub(super) enum Work {
    /// A client's.
    Call { job: Box<Job>, slot: SlotPermit },
    /// Ours: a handshake, a list, a subscription, a listen.
    Own { method: Method, responder: Responder },
}

impl Work {
    // MCP 2025-11-25 basic/utilities/cancellation: `initialize` must not be cancelled.
    pub(super) fn may_be_cancelled(&self) -> bool {
        !matches!(self, Self::Own { method: Method::Initialize, .. })
    }

    /// Whether it is a client's.
    pub(super) fn is_call(&self) -> bool {
        matches!(self, Self::Call { .. })
    }

    /// Whether it is a listen of ours.
    pub(super) fn is_listen(&self) -> bool {
        matches!(self, Self::Own { method: Method::Listen, .. })
    }

    /// Whether the server may need an answer of the client before it can answer.
    pub(super) fn may_ask(&self) -> bool {
        matches!(self, Self::Call { job, .. } if job.call.method.facts().may_ask)
    }

    /// Where a call's events go.
    pub(super) fn events(&self) -> Option<&Responder> {
        match self {
            Self::Call { job, .. } => Some(&job.responder),
            Self::Own { .. } => None,
        }
    }

    /// Its client thinks: it keeps its slot and its seat, and counts as no call on its way.
    pub(super) fn park(&mut self) {
        if let Self::Call { job, .. } = self {
            job.call.permit.release();
        }
    }

    /// Ends it without an answer. What it held is free before its caller hears of it.
    pub(super) fn fail(self, error: Error) {
        match self {
            Self::Call { job, slot } => {
                let Job { call, responder, lease, .. } = *job;
                drop((call, slot, lease));
                responder.fail(error);
            }
            Self::Own { responder, .. } => responder.fail(error),
        }
    }
}
