//! The questions of servers to the client of a session, until they are answered.
//!
//! ```text
//!                 ┌─ its stream has ended ──▶ orphaned ─┐
//!  put on a ──────┤                             │       ├─▶ answered by the client │ withdrawn by the server or by time
//!  stream         └─────────────────────────────┼───────┘   │ refused when the session ends
//!                            the session's own stream takes it over: it can still report a withdrawal
//! ```
//! Guarantees: an answer reaches the server that asked, once; answers to questions that are not open are ignored; the
//! end of a stream or of a call does not answer in the client's place; a question whose session ends is refused.
// MCP 2025-11-25 basic/transports, Sending Messages: an answer comes in a POST of its own, whatever stream carried
// the request

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio_util::sync::WaitForCancellationFutureOwned;
use wire::Message;
use wire::id::RequestId;

use super::{Phase, Session};
use crate::call::{Answer, Unanswered};
use crate::permit::Bound;

/// The questions of one session.
#[derive(Debug, Default)]
pub(super) struct Asked {
    open: HashMap<u64, Unanswered>,
    latest: u64,
    /// Open questions whose stream has ended.
    orphaned: Vec<u64>,
    /// Wakes the session's own stream, which takes them over.
    waker: Option<Waker>,
    /// The client can answer nothing any more.
    is_closed: bool,
}

impl Asked {
    /// Takes out the orphaned questions that are withdrawn: no stream reported that, and nobody waits for an answer.
    fn take_withdrawn(&mut self) -> Vec<Unanswered> {
        let (open, mut withdrawn) = (&mut self.open, Vec::new());
        self.orphaned.retain(|number| {
            let waits = open.get(number).is_some_and(|ask| !ask.withdrawn.is_cancelled());
            if !waits {
                withdrawn.extend(open.remove(number));
            }
            waits
        });
        withdrawn
    }

    /// Takes out the oldest question that is withdrawn, whatever stream has it. One that its stream could still report is
    /// lost to the client that way: a stream that nobody reads reports nothing, and must not keep the others away.
    fn take_oldest_withdrawn(&mut self) -> Option<Unanswered> {
        let withdrawn = self.open.iter().filter(|(_, ask)| ask.withdrawn.is_cancelled());
        let oldest = withdrawn.map(|(number, _)| *number).min()?;
        self.open.remove(&oldest)
    }
}

impl Session {
    /// Keeps `ask` until the client answers. `None`: the session has ended, or the bound of open questions is reached.
    pub fn ask(self: &Arc<Self>, ask: Unanswered) -> Option<Asking> {
        let withdrawn = Box::pin(ask.withdrawn.clone().cancelled_owned());
        let mut live = self.live.lock();
        // Only where there is no room: a stream may still report them, and the sweep drops what none can report.
        let is_full = live.asked.open.len() >= self.asks_max;
        let withdrawn_before = if is_full { live.asked.take_oldest_withdrawn() } else { None };
        let can_answer = live.phase != Phase::Ended && !live.asked.is_closed;
        if !can_answer || live.asked.open.len() >= self.asks_max {
            let full = can_answer;
            drop(live); // dropping the ask refuses it, which may take the lock
            if full {
                self.refusals.hit(Bound::Asks);
            }
            return None;
        }
        live.asked.latest += 1;
        let number = live.asked.latest;
        live.asked.open.insert(number, ask);
        drop(live);
        drop(withdrawn_before); // after the lock, as above
        Some(Asking { session: self.clone(), number, withdrawn })
    }

    /// Drops the questions that are withdrawn and that no stream can report: each holds on to the connection that asked.
    pub(super) fn expire_asks(&self) {
        let mut live = self.live.lock();
        // The session's own stream, where it is read, takes them over and reports them.
        let withdrawn = if live.listeners == 0 { live.asked.take_withdrawn() } else { Vec::new() };
        drop(live); // dropping an ask refuses it, which may take the lock
        drop(withdrawn);
    }

    /// Refuses the open questions, and those that come later: the client can answer nothing any more.
    pub fn close_asks(&self) {
        let mut live = self.live.lock();
        live.asked.is_closed = true;
        let unanswered = std::mem::take(&mut live.asked.open);
        drop(live); // as above
        drop(unanswered);
    }

    /// Passes on the client's answer to the question of that id. `false`: no such question is open.
    // MCP 2025-11-25 basic, Responses: a response answers the request of its id, once
    pub fn answer(&self, id: &RequestId, answer: Answer) -> bool {
        let Some(number) = self.asked_number(id.as_bytes()) else { return false };
        let ask = self.live.lock().asked.open.remove(&number);
        match ask {
            Some(ask) => {
                ask.answer(answer);
                true
            }
            None => false,
        }
    }

    /// Takes over a question whose stream has ended; ready when there is one.
    pub fn poll_orphaned(self: &Arc<Self>, context: &mut Context<'_>) -> Poll<Asking> {
        let mut live = self.live.lock();
        while let Some(number) = live.asked.orphaned.pop() {
            if let Some(ask) = live.asked.open.get(&number) {
                let withdrawn = Box::pin(ask.withdrawn.clone().cancelled_owned());
                return Poll::Ready(Asking { session: self.clone(), number, withdrawn });
            }
        }
        live.asked.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Passes the client's progress on the question of this token to the server that asked.
    // MCP 2025-11-25 basic/utilities/progress
    pub fn progressed(&self, token: &[u8], notice: &Message) {
        let Some(number) = self.asked_number(token) else { return };
        let asker = self.live.lock().asked.open.get(&number).and_then(Unanswered::asker);
        if let Some(asker) = asker {
            asker.progressed(notice); // after the lock: connections have their own
        }
    }

    fn asked_number(&self, token: &[u8]) -> Option<u64> {
        let text = std::str::from_utf8(token).ok()?;
        let (_, number) = text.strip_prefix("\"ask-")?.strip_suffix('"')?.split_once('-')?;
        let number: u64 = number.parse().ok()?;
        // One spelling for each number: what differs from what was sent is no answer to it.
        (self.asked_token(number) == token).then_some(number)
    }

    fn asked_token(&self, number: u64) -> Bytes {
        format!("\"ask-{:016x}-{number}\"", self.mark).into()
    }
}

/// A question that was put to the client, in the hands of the stream that it went out on. Dropping it leaves an open
/// question to the session.
pub struct Asking {
    session: Arc<Session>,
    number: u64,
    withdrawn: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Asking {
    /// The id and progress token of the question, as JSON: unique in the session, and nobody else can guess it.
    pub fn token(&self) -> Bytes {
        self.session.asked_token(self.number)
    }

    /// Whether the client has not answered yet.
    pub fn is_open(&self) -> bool {
        self.session.live.lock().asked.open.contains_key(&self.number)
    }

    /// Ready when the question is withdrawn. Not to be polled again then.
    pub fn poll_withdrawn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.withdrawn.as_mut().poll(context)
    }

    /// Takes the question back; whether it was still open.
    pub fn take_back(self) -> bool {
        // A temporary would keep the lock while the question is dropped, which answers it.
        let ask = self.session.live.lock().asked.open.remove(&self.number);
        ask.is_some()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let waker = {
            let mut live = self.session.live.lock();
            let Asked { open, orphaned, waker, .. } = &mut live.asked;
            if !open.contains_key(&self.number) {
                return;
            }
            // As few as there are open questions, also where the session's own stream does not get on.
            orphaned.retain(|number| open.contains_key(number));
            orphaned.push(self.number);
            waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Asking({} in {:?})", self.number, self.session)
    }
}
