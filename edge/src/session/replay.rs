//! What a stream has said, kept for a client whose connection broke.
//!
//! Guarantees: an event is found again under its own stream only; what is no longer there is never passed
//! over in silence; events, bytes and age are bounded, the bytes also per session and in all. Pure: no
//! timers, no I/O; nothing is allocated before the first event. It must not know what an event means.

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

/// Bounds of what is kept.
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

/// Where a client stopped reading: session, stream and place in it.
// MCP 2025-11-25 basic/transports, Resumability: unique in the session, and it tells the stream
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId {
    /// The random mark of the session, so that an id that outlived its session, or its process, means nothing in
    /// another one.
    pub session: u64,
    /// The number of the stream in its session.
    pub stream: u64,
    /// The place in the stream; 0 is before its first event.
    pub seq: u64,
}

impl EventId {
    /// `None` for what was never an id of ours.
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

/// Whether an event may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// A later one says more, like progress: it is the first to go, and nothing is lost by it.
    Passing,
    /// Its loss has to be told.
    Lasting,
}

/// The latest events of one stream.
#[derive(Debug)]
pub struct Ring {
    events: VecDeque<Kept>,
    bytes: usize,
    /// The number of the latest event.
    last: u64,
    /// The latest of the lasting events that are no longer here.
    lost: u64,
    room: Arc<Room>,
}

#[derive(Debug)]
struct Kept {
    seq: u64,
    at: Instant,
    weight: Weight,
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
    pub fn new(room: Arc<Room>) -> Self {
        Self { events: VecDeque::new(), bytes: 0, last: 0, lost: 0, room }
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

    /// Keeps an event; its number. What is kept is a copy, made once there is room for it: a message is often a small
    /// slice of a large read buffer, which must not be kept for minutes.
    pub fn push(&mut self, message: &Parts, weight: Weight, now: Instant) -> u64 {
        self.expire(now);
        self.last += 1;
        let (seq, bytes) = (self.last, message.len_bytes());
        if let Err(reason) = self.reserve(bytes, weight) {
            self.count_out(seq, weight, reason);
            return seq;
        }
        self.bytes += bytes;
        let mut copy = BytesMut::with_capacity(bytes);
        message.iter().for_each(|slice| copy.put_slice(slice));
        self.events.push_back(Kept { seq, at: now, weight, message: copy.freeze() });
        seq
    }

    /// Reserves room for an event, and drops others for it. A passing event drops only passing ones: it is not worth
    /// one whose loss would have to be told.
    fn reserve(&mut self, bytes: usize, weight: Weight) -> Result<(), Reason> {
        let room = self.room.clone();
        let (events_max, bytes_max) = (room.config.events, room.config.stream_bytes);
        let may_exceed = weight == Weight::Lasting; // the newest one is kept whatever its size
        if !self.drop_while(weight, Reason::Events, |ring| ring.events.len() >= events_max) && !may_exceed {
            return Err(Reason::Events);
        }
        if !self.drop_while(weight, Reason::StreamBytes, |ring| ring.bytes + bytes > bytes_max) && !may_exceed
        {
            return Err(Reason::StreamBytes);
        }
        if !self.drop_while(weight, Reason::Bytes, |_| !room.take(bytes)) {
            return Err(Reason::Bytes);
        }
        Ok(())
    }

    /// Drops events as long as there is no room; `false` when there is none left that may go.
    fn drop_while(&mut self, weight: Weight, reason: Reason, is_full: impl Fn(&Self) -> bool) -> bool {
        while is_full(self) {
            if !self.drop_one(weight, reason) {
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
        now.duration_since(at) >= self.room.config.age
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

    /// Drops the oldest passing event, else for a lasting one the oldest of all. `false`: none may go.
    fn drop_one(&mut self, weight: Weight, reason: Reason) -> bool {
        let passing = self.events.iter().position(|kept| kept.weight == Weight::Passing);
        let oldest = (weight == Weight::Lasting).then_some(0);
        passing.or(oldest).is_some_and(|index| self.drop_at(index, reason))
    }

    fn drop_at(&mut self, index: usize, reason: Reason) -> bool {
        let Some(kept) = self.events.remove(index) else { return false };
        self.bytes -= kept.message.len();
        self.room.give(kept.message.len());
        self.count_out(kept.seq, kept.weight, reason);
        true
    }

    fn count_out(&mut self, seq: u64, weight: Weight, reason: Reason) {
        if weight == Weight::Lasting {
            self.lost = self.lost.max(seq);
        }
        self.room.metrics.dropped.get_or_create(&DropLabel { bound: reason }).inc();
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.room.give(self.bytes);
    }
}

/// The room that the rings of one session have, inside the room of all.
#[derive(Debug)]
pub struct Room {
    config: Config,
    metrics: Metrics,
    held: AtomicUsize,
    all: Arc<AtomicUsize>,
}

impl Room {
    /// Room within what `all` sessions hold together.
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

// The counts guard nothing but themselves, so no order with other memory is needed.
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

/// What is kept, and what no longer is.
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
