//! The events of a stream, kept for a client whose connection breaks.
//!
//! Guarantees: an event is found again in its own stream only; a gap is always reported; events, bytes and age are
//! bounded, the bytes also per session and in all. Pure: no timers, no I/O; nothing is allocated before the first
//! event. It must not know what an event means.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use wire::splice::Parts;

use crate::ops::metrics::words;

/// Bounds of the events that are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Events of one stream. 256: a chatty call of some minutes.
    pub events: usize,
    /// Bytes of one stream; the newest event is kept whatever its size. 1 MiB: most answers, and logs of some
    /// minutes before one.
    pub stream_bytes: usize,
    /// Bytes of one session. 16 MiB: the largest answer there is, and a quarter of all at most.
    pub session_bytes: usize,
    /// Bytes in all. 64 MiB: an eighth of a pod with the usual 512 MiB limit.
    pub bytes: usize,
    /// How long an event is kept. 5 m: clients come back after seconds, a laptop that changes networks after a
    /// minute or two.
    pub age: Duration,
    /// Streams of one session whose call has ended. 64: a client that calls in parallel loses them all at once.
    pub ended_streams: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            events: 256,
            stream_bytes: 1 << 20,
            session_bytes: 16 << 20,
            bytes: 64 << 20,
            age: Duration::from_secs(5 * 60),
            ended_streams: 64,
        }
    }
}

/// An event's id: session, stream, and place in the stream.
// MCP 2025-11-25 basic/transports, Resumability: unique in the session, and it tells the stream
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId {
    /// The random mark of the session, so that an id that outlived its session, or its process, means nothing in
    /// another one.
    pub session: u64,
    /// The number of the stream in its session.
    pub stream: u64,
    /// The place in the stream, from 1; 0 stands for the beginning.
    pub seq: u64,
}

impl EventId {
    /// `None` for text that is no event id of this gateway.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('-').map(|digits| {
            let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            u64::from_str_radix(digits, 16).ok().filter(|_| plain)
        });
        let mut next = || numbers.next().flatten();
        let id = Self { session: next()?, stream: next()?, seq: next()? };
        numbers.next().is_none().then_some(id)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.session, self.stream, self.seq)
    }
}

/// Whether an event must reach the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It may be dropped, because a later one says more: progress.
    BestEffort,
    /// Its loss must be reported.
    Required,
}

/// The latest events of one stream.
#[derive(Debug)]
pub struct Ring {
    events: VecDeque<Kept>,
    bytes: usize,
    /// The number of the latest event.
    last: u64,
    /// The number of the latest required event that is no longer kept.
    lost: u64,
    budget: Arc<ReplayBudget>,
}

#[derive(Debug)]
struct Kept {
    seq: u64,
    at: Instant,
    delivery: Delivery,
    message: Bytes,
}

/// What comes after a place in a stream.
#[derive(Debug)]
pub enum Since<I> {
    /// These events, oldest first, and what the stream will say.
    From(I),
    /// Some of it is no longer there.
    Gone,
}

impl Ring {
    /// Empty.
    pub fn new(budget: Arc<ReplayBudget>) -> Self {
        Self { events: VecDeque::new(), bytes: 0, last: 0, lost: 0, budget }
    }

    /// The number of the latest event; 0 before the first.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The number of the latest event that is no longer kept and would be missed; 0 if there is none.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Keeps an event and returns its number. A copy is kept, made once there is room for it: a message is often a
    /// small slice of a large read buffer, which must not stay in memory for minutes.
    pub fn push(&mut self, message: &Parts, delivery: Delivery, now: Instant) -> u64 {
        self.expire(now);
        self.last += 1;
        let (seq, bytes) = (self.last, message.len_bytes());
        if let Err(reason) = self.reserve(bytes, delivery) {
            self.count_out(seq, delivery, reason);
            return seq;
        }
        self.bytes += bytes;
        let mut copy = BytesMut::with_capacity(bytes);
        message.iter().for_each(|slice| copy.put_slice(slice));
        self.events.push_back(Kept { seq, at: now, delivery, message: copy.freeze() });
        seq
    }

    /// Reserves room for an event, and drops others for it. A best-effort event displaces only best-effort ones, never
    /// one whose loss would have to be reported.
    fn reserve(&mut self, bytes: usize, delivery: Delivery) -> Result<(), Reason> {
        let budget = self.budget.clone();
        let (events_max, bytes_max) = (budget.config.events, budget.config.stream_bytes);
        let may_exceed = delivery == Delivery::Required; // the newest one is kept whatever its size
        if !self.drop_while(delivery, Reason::Events, |ring| ring.events.len() >= events_max) && !may_exceed {
            return Err(Reason::Events);
        }
        if !self.drop_while(delivery, Reason::StreamBytes, |ring| ring.bytes + bytes > bytes_max)
            && !may_exceed
        {
            return Err(Reason::StreamBytes);
        }
        if !self.drop_while(delivery, Reason::Bytes, |_| !budget.take(bytes)) {
            return Err(Reason::Bytes);
        }
        Ok(())
    }

    /// Drops events until `is_full` is false; returns `false` if none is left that may be dropped.
    fn drop_while(&mut self, delivery: Delivery, reason: Reason, is_full: impl Fn(&Self) -> bool) -> bool {
        while is_full(self) {
            if !self.drop_one(delivery, reason) {
                return false;
            }
        }
        true
    }

    /// What comes after `seq`.
    pub fn since(&self, seq: u64) -> Since<impl Iterator<Item = (u64, &Bytes)>> {
        if seq < self.lost {
            return Since::Gone;
        }
        let start = self.events.partition_point(|kept| kept.seq <= seq);
        Since::From(self.events.iter().skip(start).map(|kept| (kept.seq, &kept.message)))
    }

    /// Whether what happened `at` that time is no longer kept `now`.
    pub fn is_too_old(&self, at: Instant, now: Instant) -> bool {
        now.duration_since(at) >= self.budget.config.age
    }

    /// Drops what is too old.
    pub fn expire(&mut self, now: Instant) {
        while self.events.front().is_some_and(|oldest| self.is_too_old(oldest.at, now)) {
            self.drop_at(0, Reason::Age);
        }
        if self.events.is_empty() {
            self.events = VecDeque::new();
        }
    }

    /// Drops the oldest best-effort event; if there is none and room is needed for a required one, the oldest event.
    /// `false`: none may be dropped.
    fn drop_one(&mut self, delivery: Delivery, reason: Reason) -> bool {
        let best_effort = self.events.iter().position(|kept| kept.delivery == Delivery::BestEffort);
        let oldest = (delivery == Delivery::Required).then_some(0);
        best_effort.or(oldest).is_some_and(|index| self.drop_at(index, reason))
    }

    fn drop_at(&mut self, index: usize, reason: Reason) -> bool {
        let Some(kept) = self.events.remove(index) else { return false };
        self.bytes -= kept.message.len();
        self.budget.give(kept.message.len());
        self.count_out(kept.seq, kept.delivery, reason);
        true
    }

    fn count_out(&mut self, seq: u64, delivery: Delivery, reason: Reason) {
        if delivery == Delivery::Required {
            self.lost = self.lost.max(seq);
        }
        self.budget.metrics.dropped.get_or_create(&DropLabel { bound: reason }).inc();
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.budget.give(self.bytes);
    }
}

/// The bytes that the rings of one session may hold, within the bytes that all may hold.
#[derive(Debug)]
pub struct ReplayBudget {
    config: Config,
    metrics: Metrics,
    held: AtomicUsize,
    all: Arc<AtomicUsize>,
}

impl ReplayBudget {
    /// The budget of one session; `all` counts what all sessions hold together.
    pub fn new(config: Config, metrics: Metrics, all: Arc<AtomicUsize>) -> Self {
        Self { config, metrics, held: AtomicUsize::new(0), all }
    }

    fn take(&self, bytes: usize) -> bool {
        if !take(&self.held, bytes, self.config.session_bytes) {
            return false;
        }
        if !take(&self.all, bytes, self.config.bytes) {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.metrics.bytes.inc_by(gauge(bytes));
        true
    }

    /// Counts the events of an ended stream that makes room for others.
    pub fn forget(&self, ring: &Ring) {
        let label = DropLabel { bound: Reason::EndedStreams };
        self.metrics.dropped.get_or_create(&label).inc_by(ring.events.len() as u64);
    }

    fn give(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.all.fetch_sub(bytes, Ordering::Relaxed);
        self.metrics.bytes.dec_by(gauge(bytes));
    }
}

// Relaxed: the counts guard no other memory.
fn take(held: &AtomicUsize, bytes: usize, limit_bytes: usize) -> bool {
    let more = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= limit_bytes);
    held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

fn gauge(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Why an event is no longer kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reason {
    Events,
    StreamBytes,
    /// Of the session, or of all.
    Bytes,
    Age,
    /// With its stream, which had ended.
    EndedStreams,
}

words!(Reason {
    Events => "events",
    StreamBytes => "stream_bytes",
    Bytes => "bytes",
    Age => "age",
    EndedStreams => "ended_streams",
});

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DropLabel {
    bound: Reason,
}

/// How much is kept, and how many events were dropped.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    bytes: Gauge,
    dropped: Family<DropLabel, Counter>,
}

impl Metrics {
    /// Registers under the process's prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "replay_bytes",
            "Bytes of events kept for clients that lose their connection; near 64 MiB newer ones are not kept",
            self.bytes.clone(),
        );
        registry.register(
            "replay_dropped",
            "Events no longer kept, by bound; all but age mean calls that say much, or many clients",
            self.dropped.clone(),
        );
    }

    /// Bytes kept.
    pub fn bytes(&self) -> i64 {
        self.bytes.get()
    }
}

#[cfg(test)]
mod tests;
