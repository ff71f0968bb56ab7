//! A stream of messages to the session's client, and its current reader.
//!
//! ```text
//!              poll                       poll
//!  Source ───────────▶ Stream ─▶ ring ─────────▶ Reader   (a response's body)
//!                        ▲                          │ dropped in mid-call
//!                        └────────── keeper ◀───────┘     (a task that reads on, until a client resumes)
//! ```
//! Guarantees: a stream has one reader at a time, the newest; a message is kept in the ring before a reader gets it,
//! so that a client that resumes gets every message once; a message belongs to one stream.
// MCP 2025-11-25 basic/transports, Resumability and Redelivery

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;
use wire::splice::Parts;

use super::Session;
use super::replay::{Delivery, EventId, ReplayBudget, Ring, Since};
use crate::call::EventReader;
use crate::ops::drain::DrainWatch;

/// A source of messages for one client: a call, or the session's notifications.
pub trait Source: Send {
    /// The next message, as JSON-RPC text. Must not be polled again after the last one.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Said>;

    /// Whether a client reads the messages from now on, or they are only kept for its return.
    fn set_reader(&mut self, reader: EventReader) {
        let _ = reader;
    }
}

/// What [`Source::poll_next`] yields.
#[derive(Debug)]
pub enum Said {
    /// A message; more may follow.
    Message(Parts, Delivery),
    /// The last message.
    Last(Parts),
    /// Nothing more.
    End,
}

/// One stream of a session.
pub(super) struct Stream {
    number: u64,
    /// Set for a stream that goes on without a reader, until the end of the process.
    unread_until: Option<DrainWatch>,
    /// The message for a client that needs events that are no longer kept.
    lost: Bytes,
    state: Mutex<State>,
}

struct State {
    ring: Ring,
    /// `None` once it has ended.
    source: Option<Box<dyn Source>>,
    /// When `source` ended.
    ended_at: Option<Instant>,
    /// The latest event that a reader took for a client, and not just to keep it.
    delivered: u64,
    /// Counts readers; the latest is the one that reads.
    reader: u64,
    waker: Option<Waker>,
}

/// What a client gets that resumes a stream.
#[derive(Debug)]
pub enum Resumed {
    /// The messages that it missed, then the new ones.
    From(Reader),
    /// Nothing: it missed no message, and the stream has ended.
    Complete,
    /// Some of what it missed is no longer kept. Holds the error for the request that waits, if that is known.
    Gone(Option<Bytes>),
    /// The session's own stream no longer has some of what the client missed.
    Stale,
    /// No stream of this session.
    Unknown,
}

impl Stream {
    pub(super) fn new(
        number: u64,
        source: Option<Box<dyn Source>>,
        budget: Arc<ReplayBudget>,
        ending: Option<(DrainWatch, Bytes)>,
    ) -> Self {
        let (unread_until, lost) = ending.unzip();
        let ended_at = source.is_none().then(Instant::now);
        let state = State { ring: Ring::new(budget), source, ended_at, delivered: 0, reader: 0, waker: None };
        Self { number, unread_until, lost: lost.unwrap_or_default(), state: Mutex::new(state) }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// A reader of everything that comes from now on.
    pub(super) fn attach(self: &Arc<Self>, session: &Arc<Session>) -> Reader {
        let mut state = self.state.lock();
        let seq = state.ring.last();
        self.reader(session, &mut state, seq, EventReader::Present)
    }

    /// A reader of everything after `seq`.
    pub(super) fn resume(self: &Arc<Self>, session: &Arc<Session>, seq: u64) -> Resumed {
        let mut state = self.state.lock();
        state.ring.expire(Instant::now());
        if seq > state.ring.last() {
            return Resumed::Unknown;
        }
        let nothing_left = match state.ring.since(seq) {
            Since::Gone => return self.gone(),
            Since::From(mut missed) => missed.next().is_none(),
        };
        if nothing_left && state.source.is_none() {
            return Resumed::Complete;
        }
        Resumed::From(self.reader(session, &mut state, seq, EventReader::Present))
    }

    fn gone(&self) -> Resumed {
        if self.number == LISTENING { Resumed::Stale } else { Resumed::Gone(Some(self.lost.clone())) }
    }

    fn reader(
        self: &Arc<Self>,
        session: &Arc<Session>,
        state: &mut State,
        seq: u64,
        client: EventReader,
    ) -> Reader {
        state.reader += 1;
        if let Some(source) = &mut state.source {
            source.set_reader(client);
        }
        if let Some(waker) = state.waker.take() {
            waker.wake(); // the reader before this one, to its end
        }
        if self.number == LISTENING {
            session.listener_came();
        }
        let is_keeper = client != EventReader::Present;
        Reader { session: session.clone(), stream: self.clone(), number: state.reader, seq, is_keeper }
    }

    /// Ends the stream and its reader.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.reader += 1;
        let (source, waker) = (state.end(), state.waker.take());
        drop(state); // dropping the source may take other locks
        drop(source);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Drops what is too old. `false`: the stream has ended and its client needs nothing more of it. A stream that
    /// lost events stays, because a resumption of it must be answered with `lost`: as long as an event would be kept,
    /// and, if the client certainly missed one, until others need the place.
    pub(super) fn expire(&self, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.ring.expire(now);
        let Some(ended_at) = state.ended_at.filter(|_| state.ring.is_empty()) else { return true };
        let lost = state.ring.lost();
        lost > state.delivered || (lost > 0 && !state.ring.is_too_old(ended_at, now))
    }

    /// Counts the events that are lost when this stream makes room for others.
    pub(super) fn count_lost(&self, budget: &ReplayBudget) {
        budget.forget(&self.state.lock().ring);
    }

    /// When the stream ended and what its client has of it; `None` while more may come.
    pub(super) fn ended(&self) -> Option<EndedStream> {
        let state = self.state.lock();
        let is_delivered = state.delivered >= state.ring.last();
        state.ended_at.map(|at| EndedStream { at, is_delivered })
    }
}

/// What decides how soon an ended stream makes room for others.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndedStream {
    pub(super) at: Instant,
    /// A reader took the last event for a client.
    pub(super) is_delivered: bool,
}

impl State {
    /// The next message after `seq`; `None` at the end.
    fn poll_after(&mut self, seq: u64, context: &mut Context<'_>) -> Poll<Option<(u64, Parts)>> {
        match self.ring.since(seq) {
            Since::From(mut kept) => {
                if let Some((seq, message)) = kept.next() {
                    return Poll::Ready(Some((seq, message.clone().into())));
                }
            }
            // The events expired before a slow client read them; it gets an error when it resumes.
            Since::Gone => return Poll::Ready(None),
        }
        let Some(source) = &mut self.source else { return Poll::Ready(None) };
        let (message, delivery) = match source.poll_next(context) {
            Poll::Pending => {
                self.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(Said::Message(message, delivery)) => (message, delivery),
            Poll::Ready(Said::Last(message)) => {
                self.end();
                (message, Delivery::Required)
            }
            Poll::Ready(Said::End) => {
                self.end();
                return Poll::Ready(None);
            }
        };
        // The bytes that are being sent to the client count where they came from; here only the copy that is kept counts.
        let seq = self.ring.push(&message, delivery, Instant::now());
        Poll::Ready(Some((seq, message)))
    }

    fn end(&mut self) -> Option<Box<dyn Source>> {
        self.ended_at.get_or_insert_with(Instant::now);
        self.source.take()
    }
}

/// The current reader of a stream. Dropping it gives the stream back.
pub struct Reader {
    session: Arc<Session>,
    stream: Arc<Stream>,
    /// Which of the stream's readers this is.
    number: u64,
    /// The last event it took.
    seq: u64,
    /// It is a task that keeps messages, and no client.
    is_keeper: bool,
}

impl Reader {
    /// The id of the last event that it took.
    pub fn position(&self) -> EventId {
        EventId { session: self.session.mark, stream: self.stream.number, seq: self.seq }
    }

    /// The next message and its id. `None`: the stream has ended, or has another reader.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(EventId, Parts)>> {
        let mut state = self.stream.state.lock();
        if state.reader != self.number {
            return Poll::Ready(None);
        }
        let next = std::task::ready!(state.poll_after(self.seq, context));
        if let Some((seq, _)) = next.as_ref().filter(|_| !self.is_keeper) {
            state.delivered = state.delivered.max(*seq);
        }
        drop(state);
        Poll::Ready(next.map(|(seq, message)| {
            self.seq = seq;
            (self.position(), message)
        }))
    }

    /// Reads on, so that messages are kept for a client that has left and may come back.
    async fn keep(mut self, drain: DrainWatch) {
        let stream = self.stream.clone();
        let to_the_end = async { while poll_fn(|context| self.poll_next(context)).await.is_some() {} };
        tokio::select! {
            () = to_the_end => {}
            () = drain.cut() => stream.close(),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.stream.number == LISTENING {
            self.session.listener_left();
        }
        // A runtime that shuts down drops its tasks, and would drop a new one as well.
        let can_spawn = !self.is_keeper && tokio::runtime::Handle::try_current().is_ok();
        let Some(drain) = self.stream.unread_until.clone().filter(|_| can_spawn) else { return };
        let mut state = self.stream.state.lock();
        if state.reader == self.number && state.source.is_some() {
            let seq = state.ring.last();
            let keeper = self.stream.reader(&self.session, &mut state, seq, EventReader::Absent);
            drop(state);
            drain.clone().spawn(keeper.keep(drain));
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader({} of {:?})", self.position(), self.session)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({})", self.number)
    }
}

/// The number of the session's own stream; those of calls follow.
pub(super) const LISTENING: u64 = 0;
