//! The two ends of a call's answer.
//!
//! A lock held for a few instructions guards a bounded queue of events and one place for the outcome. A channel does
//! not fit: `event` must never wait, the least important event must be dropped first, and the outcome must always fit.
//! What is not here: which event is dropped (`reply/worth`).

mod worth;

use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use wire::Message;
use wire::mcp::level::Level;
use wire::mcp::method::Notice;
use wire::splice::Parts;

use self::worth::Waiting;
use super::{Ask, InputRequired, ServerName};
use crate::error::{Blame, Error, Kind};

/// Bytes of events one reply holds for a client that reads slowly, with what each takes beside its message (ARCHITECTURE,
/// Bounds): enough for hundreds of progress lines, small enough that 10,000 stuck streams fit into memory.
pub const EVENT_BYTES: usize = 256 * 1024;

/// Something that happens before the outcome.
#[derive(Debug)]
pub enum Event {
    /// `notifications/progress`, as the server sent it; the token in it is the upstream one.
    Progress(Message),
    /// Any other notification for this client, as the server sent it: log messages, updates of resources, changes of
    /// lists.
    Notice(Notice, Message),
    /// The server asks the client something and waits for the answer.
    Ask(Ask),
}

/// How a call ended. There is exactly one.
#[derive(Debug)]
pub enum Outcome {
    /// The `result` value: a JSON object in slices.
    Result(Parts),
    /// A modern server needs input of the client first; holds the call, to be sent again with the input.
    InputRequired(Box<InputRequired>),
    /// The server's own `error` value: a JSON object, verbatim.
    Refused(Bytes),
    /// The call failed without an answer.
    Failed(Error),
}

/// What [`Reply::next`] yields.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart at once; a box would cost an allocation each"
)]
pub enum Next {
    /// An event; more follows.
    Event(Event),
    /// The end; nothing follows.
    Outcome(Outcome),
}

/// Whether the client reads the events of a reply. Producers that can choose between replies go by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventReader {
    /// Each event reaches the client as it comes.
    #[default]
    Present,
    /// Events do not reach the client now, and may never.
    Absent,
    /// No event will reach the client by this reply.
    Gone,
    /// The client takes the outcome alone, and with it no question.
    Unwanted,
}

/// Who can take a call back: the connection it is on.
pub trait Cancel: Send + Sync {
    /// The consumer of the call that was registered under `token` is gone. Called without a lock held.
    fn cancel(&self, token: u64);

    /// The consumer waits for a person before it reads on: resources that others could use meanwhile are released. Called
    /// without a lock held.
    fn park(&self, token: u64);

    /// The person has answered: the consumer reads on, and gets log messages of `level` or worse, or none. Called without a
    /// lock held.
    fn resume(&self, token: u64, level: Option<Level>);

    /// No client waits at a connection for the outcome any more: from now on the call may take as long as any call
    /// may. Called without a lock held.
    fn detach(&self, token: u64);
}

/// A new pair.
pub fn reply() -> (Responder, Reply) {
    let shared = Arc::new(Mutex::new(Shared::default()));
    (Responder { shared: shared.clone() }, Reply { shared, inspect: None, server: None })
}

/// The consumer's end. Dropping it cancels the call.
pub struct Reply {
    shared: Arc<Mutex<Shared>>,
    inspect: Option<Inspect>,
    server: Option<ServerName>,
}

type Inspect = Box<dyn FnOnce(&Outcome) + Send>;

impl Reply {
    /// A reply that is already complete.
    pub fn ready(outcome: Outcome) -> Self {
        let (responder, reply) = reply();
        responder.finish(outcome);
        reply
    }

    /// A reply that already failed.
    pub fn failed(error: Error) -> Self {
        Self::ready(Outcome::Failed(error))
    }

    /// Says which server answers.
    pub fn from_server(mut self, server: ServerName) -> Self {
        self.server = Some(server);
        self
    }

    /// The server that answers, if one alone does.
    pub fn server(&self) -> Option<&ServerName> {
        self.server.as_ref()
    }

    /// Calls `inspect` with the outcome before the consumer gets it.
    pub fn inspect(mut self, inspect: impl FnOnce(&Outcome) + Send + 'static) -> Self {
        self.inspect = Some(Box::new(inspect));
        self
    }

    /// The next event, or the outcome. Called again after the outcome, it returns the error `Lost`.
    ///
    /// Cancel-safe: what was not returned stays queued.
    pub async fn next(&mut self) -> Next {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// Whether `next` would return at once.
    pub fn is_ready(&self) -> bool {
        let shared = self.shared.lock();
        !shared.events.is_empty() || !matches!(shared.end, End::Open)
    }

    /// Says whether the client reads the events from now on.
    pub fn set_reader(&self, reader: EventReader) {
        self.shared.lock().reader = reader;
    }

    /// For events that are forwarded to `to`: the reader of these events is the one of that reply, also when it changes, and
    /// what is said to that reply's connection is said to the one of this.
    pub fn follow(&self, to: &Responder) {
        self.shared.lock().forwarded_to = Arc::downgrade(&to.shared);
        let is_detached = {
            let mut outer = to.shared.lock();
            outer.forwarded_from = Arc::downgrade(&self.shared);
            outer.detached
        };
        if is_detached {
            self.detach();
        }
    }

    /// Whether a connection has the call: from then on nothing refuses it for want of room.
    pub fn is_under_way(&self) -> bool {
        connection(&self.shared).is_some()
    }

    /// Whether events were dropped for lack of room since the last call of this.
    pub fn take_lost(&self) -> bool {
        std::mem::take(&mut self.shared.lock().lost)
    }

    /// The poll form of [`Reply::next`].
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        let mut shared = self.shared.lock();
        if let Some(event) = shared.events.pop() {
            return Poll::Ready(Next::Event(event));
        }
        match std::mem::replace(&mut shared.end, End::Taken) {
            End::Open => {
                shared.end = End::Open;
                shared.consumer = Some(context.waker().clone());
                Poll::Pending
            }
            End::Outcome(outcome) => {
                drop(shared);
                if let Some(inspect) = self.inspect.take() {
                    inspect(&outcome);
                }
                Poll::Ready(Next::Outcome(outcome))
            }
            End::Taken => Poll::Ready(Next::Outcome(Outcome::Failed(Error::new(
                Kind::Lost,
                Blame::Edge,
                "the call's answer was already taken",
            )))),
        }
    }

    /// Tells the connection that the consumer waits for a person before it reads on.
    pub fn park(&self) {
        if let Some((connection, token)) = connection(&self.shared) {
            connection.park(token);
        }
    }

    /// Tells the connection that the consumer reads on, and the lowest level of log messages that it wants from now on.
    pub fn resume(&self, level: Option<Level>) {
        if let Some((connection, token)) = connection(&self.shared) {
            connection.resume(token, level);
        }
    }

    /// Whether the call has failed, so that its error is all that is left of it.
    pub fn has_failed(&self) -> bool {
        matches!(self.shared.lock().end, End::Outcome(Outcome::Failed(_)))
    }

    /// Says that no client waits at a connection for the outcome, as of a task: the call may take as long as any call
    /// may, whether a connection has it already or not.
    pub fn detach(&self) {
        let mut next = Some(self.shared.clone());
        while let Some(shared) = next {
            let mut shared = shared.lock(); // one lock at a time
            shared.detached = true;
            next = shared.forwarded_from.upgrade();
        }
        if let Some((connection, token)) = connection(&self.shared) {
            connection.detach(token);
        }
    }

    /// Drops events and waits for the outcome.
    pub async fn outcome(mut self) -> Outcome {
        loop {
            if let Next::Outcome(outcome) = self.next().await {
                return outcome;
            }
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("ready", &self.is_ready()).finish_non_exhaustive()
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // Asks among the events send a refusal when they are dropped, so they are dropped after the lock.
        let (producer, _events) = {
            let mut shared = self.shared.lock();
            shared.gone = true;
            (std::mem::take(&mut shared.producer), std::mem::take(&mut shared.events))
        };
        match producer {
            Producer::Absent => {}
            Producer::Waiting(waker) => waker.wake(),
            Producer::Connection(whom, token) => whom.cancel(token),
        }
    }
}

/// The producer's end. Dropping it without an outcome fails the call as `Lost`.
#[derive(Debug)]
pub struct Responder {
    shared: Arc<Mutex<Shared>>,
}

impl Responder {
    /// Queues an event; never waits. `false`: an event was dropped, because the consumer is gone or its [`EVENT_BYTES`]
    /// are used up. The least important is dropped, among equals the newest one in the queue.
    pub fn event(&self, event: Event) -> bool {
        self.offer(event).unwrap_or(false)
    }

    /// Queues an event as [`Responder::event`] does, for a producer that holds a lock of its own: an event that finds no
    /// room is returned, because dropping an ask answers it. `Ok(false)`: events other than asks were dropped.
    ///
    /// # Errors
    /// The event, if the consumer is gone or its [`EVENT_BYTES`] are full of more important ones.
    #[expect(clippy::result_large_err, reason = "what comes back is what was given, not an error")]
    pub fn offer(&self, event: Event) -> Result<bool, Event> {
        let mut fits = true;
        let waker = {
            let mut shared = self.shared.lock();
            if shared.gone {
                return Err(event);
            }
            if event.bytes() > EVENT_BYTES {
                shared.lost = true;
                let consumer = shared.consumer.take();
                drop(shared);
                consumer.into_iter().for_each(Waker::wake);
                return Err(event);
            }
            let over = (shared.events.bytes() + event.bytes()).saturating_sub(EVENT_BYTES);
            if over > 0 {
                (fits, shared.lost) = (false, true);
                if !shared.events.make_room(over, event.worth()) {
                    return Err(event);
                }
            }
            shared.events.push(event);
            shared.consumer.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(fits)
    }

    /// Ends the call.
    pub fn finish(self, outcome: Outcome) {
        self.end(outcome);
    }

    /// Ends the call in failure.
    pub fn fail(self, error: Error) {
        self.end(Outcome::Failed(error));
    }

    /// Whether the client reads the events.
    pub fn reader(&self) -> EventReader {
        let (reader, forwarded_to) = {
            let shared = self.shared.lock();
            (shared.reader, shared.forwarded_to.upgrade())
        };
        forwarded_to.map_or(reader, |to| to.lock().reader) // one lock at a time
    }

    /// Says whether the client reads the events from now on, where the consumer's end has been given away.
    pub fn set_reader(&self, reader: EventReader) {
        self.shared.lock().reader = reader;
    }

    /// Whether the consumer dropped its end.
    pub fn is_cancelled(&self) -> bool {
        self.shared.lock().gone
    }

    /// Whether no client waits at a connection for the outcome.
    pub fn is_detached(&self) -> bool {
        self.shared.lock().detached
    }

    /// Resolves when the consumer drops its end. One waiter at a time.
    pub async fn cancelled(&self) {
        poll_fn(|context| self.poll_cancelled(context)).await;
    }

    /// The poll form of [`Responder::cancelled`].
    pub fn poll_cancelled(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut shared = self.shared.lock();
        if shared.gone {
            return Poll::Ready(());
        }
        shared.producer = Producer::Waiting(context.waker().clone());
        Poll::Pending
    }

    /// Sets who is notified when the consumer drops its end, instead of a waiter of `cancelled`. `false`: the consumer is
    /// gone already, and nobody will be notified.
    ///
    /// It takes an object and a number, no waker: a connection learns which of its calls to cancel without a search, and
    /// without an allocation for each call.
    pub fn on_cancel(&self, whom: Arc<dyn Cancel>, token: u64) -> bool {
        let mut shared = self.shared.lock();
        if !shared.gone {
            shared.producer = Producer::Connection(whom, token);
        }
        !shared.gone
    }

    fn end(&self, outcome: Outcome) {
        let (waker, _producer) = {
            let mut shared = self.shared.lock();
            if !matches!(shared.end, End::Open) {
                return;
            }
            shared.end = End::Outcome(outcome);
            (shared.consumer.take(), std::mem::take(&mut shared.producer))
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        // Checked first, because the error costs an allocation.
        if !matches!(self.shared.lock().end, End::Open) {
            return;
        }
        self.end(Outcome::Failed(Error::new(
            Kind::Lost,
            Blame::Edge,
            "the call was lost inside the gateway; please report this as a bug",
        )));
    }
}

#[derive(Debug, Default)]
struct Shared {
    events: Waiting,
    end: End,
    /// Events were dropped for lack of room.
    lost: bool,
    gone: bool,
    reader: EventReader,
    /// See [`Reply::detach`].
    detached: bool,
    /// The reply that these events are forwarded to, if any.
    forwarded_to: Weak<Mutex<Shared>>,
    /// The reply whose events are forwarded to this one, if any.
    forwarded_from: Weak<Mutex<Shared>>,
    consumer: Option<Waker>,
    producer: Producer,
}

/// The connection that has the call, and the call's token there; that of a reply which is forwarded to this one also counts.
/// It recurses once for each forwarding, and a call is forwarded once: while it waits for names, or for a session's lists.
fn connection(shared: &Mutex<Shared>) -> Option<(Arc<dyn Cancel>, u64)> {
    let inner = {
        let shared = shared.lock();
        if let Producer::Connection(whom, token) = &shared.producer {
            return Some((whom.clone(), *token));
        }
        shared.forwarded_from.upgrade()
    };
    connection(&*inner?) // after the lock: one at a time
}

/// Who is notified when the consumer is dropped.
#[derive(Default)]
enum Producer {
    #[default]
    Absent,
    Waiting(Waker),
    Connection(Arc<dyn Cancel>, u64),
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("Absent"),
            Self::Waiting(_) => f.write_str("Waiting"),
            Self::Connection(_, token) => write!(f, "Connection({token})"),
        }
    }
}

/// `Open → Outcome → Taken`.
#[derive(Debug, Default)]
enum End {
    #[default]
    Open,
    Outcome(Outcome),
    Taken,
}

#[cfg(test)]
mod tests;
