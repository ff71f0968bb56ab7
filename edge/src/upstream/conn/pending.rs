//! Requests that wait for an answer.

use std::time::Duration;

use tokio::time::Instant;
use wire::mcp::level::Level;
use wire::mcp::method::Method;

use crate::call::{Call, Capabilities, Responder};
use crate::error::Error;
use crate::permit::SlotPermit;
use crate::upstream::lease::Lease;

/// A call, and where its outcome goes.
pub(in crate::upstream) struct Job {
    pub(in crate::upstream) call: Call,
    pub(in crate::upstream) responder: Responder,
    /// Its lease, if it needs a connection to itself.
    pub(in crate::upstream) lease: Option<Lease>,
    /// The number of the connection that leads to the process of the task that it names, where that is one of several.
    pub(in crate::upstream) of_task: Option<u64>,
    /// How many connections it was given to.
    pub(in crate::upstream) tries: u8,
}

/// What is kept of a request until it is answered.
pub(super) struct Pending {
    pub(super) work: Work,
    /// The number of the request on its connection: the lowest is the oldest.
    pub(super) number: u64,
    /// The lowest level of log messages that it wants.
    pub(super) level: Option<Level>,
    /// Whether anything of it may have reached the server.
    pub(super) written: bool,
    /// Capabilities that the server needed during the call and its client did not declare.
    pub(super) missing: Option<Capabilities>,
    /// Whether no client waits at a connection for it, so that it may take as long as any call may.
    pub(super) detached: bool,
    /// Since when its client is away to ask its user; not of a task, whose client follows it.
    pub(super) parked_since: Option<Instant>,
    /// When it fails without progress.
    pub(super) deadline: Instant,
    /// When it fails in any case.
    pub(super) limit: Instant,
}

impl Pending {
    /// A request that is queued now. It fails after `timeout` without progress, and after `most` in any case.
    pub(super) fn new(work: Work, number: u64, timeout: Duration, most: Duration) -> Self {
        let limit = Instant::now() + most;
        let detached = work.events().is_some_and(Responder::is_detached);
        let mut pending = Self {
            work,
            number,
            level: None,
            written: false,
            missing: None,
            detached,
            parked_since: None,
            deadline: limit,
            limit,
        };
        pending.renew(timeout);
        pending
    }

    /// Restarts its timeout.
    pub(super) fn renew(&mut self, timeout: Duration) {
        if !self.detached {
            self.deadline = (Instant::now() + timeout).min(self.limit);
        }
    }

    /// Until when its process has to say something. A detached call may take much longer than others, which its process
    /// serves meanwhile.
    pub(super) fn liveness_deadline(&self, call_timeout: Duration) -> Instant {
        if self.detached { self.deadline.min(Instant::now() + call_timeout) } else { self.deadline }
    }

    /// Lets it take as long as any call may.
    pub(super) fn detach(&mut self) {
        (self.detached, self.deadline, self.parked_since) = (true, self.limit, None);
    }

    /// Gives the call's permit back while its client is away. It keeps its slot and its lease.
    pub(super) fn park(&mut self) {
        if let Work::Call { job, .. } = &mut self.work {
            job.call.permit.release();
        }
        self.parked_since = (!self.detached).then(Instant::now);
    }
}

/// What a request is for.
pub(super) enum Work {
    /// A client's call.
    Call { job: Box<Job>, slot: SlotPermit },
    /// A request of the gateway's own.
    Own { method: Method, responder: Responder },
}

impl Work {
    // MCP 2025-11-25 basic/utilities/cancellation: `initialize` must not be cancelled.
    pub(super) fn may_be_cancelled(&self) -> bool {
        !matches!(self, Self::Own { method: Method::Initialize, .. })
    }

    /// Whether it is a client's call.
    pub(super) fn is_call(&self) -> bool {
        matches!(self, Self::Call { .. })
    }

    /// Whether it is a listen.
    pub(super) fn is_listen(&self) -> bool {
        matches!(self, Self::Own { method: Method::Listen, .. })
    }

    /// Whether the server may ask the client something during it.
    pub(super) fn may_ask(&self) -> bool {
        matches!(self, Self::Call { job, .. } if job.call.method.facts().may_ask)
    }

    /// Where the events of a call go.
    pub(super) fn events(&self) -> Option<&Responder> {
        match self {
            Self::Call { job, .. } => Some(&job.responder),
            Self::Own { .. } => None,
        }
    }

    /// Fails it. What it held is free before its caller gets the error.
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
