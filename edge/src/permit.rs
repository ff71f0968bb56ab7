//! Permits for bounded resources, taken in one fixed order: connection → principal → bytes → slot.
//!
//! Two are waited for: a connection's, outside, in the kernel's backlog, and a slot, bounded in count and in time. Every
//! other bound answers at once. Each permit gives its room back when dropped, whatever happened meanwhile. What is not
//! here: seats of leased connections (`upstream/lease.rs`), and the answer to a refused caller (`front/reply.rs`).

mod bound;
mod listens;
mod principals;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

pub use self::bound::{Bound, Metrics, RETRY_AFTER};

pub use listens::ListenPermit;
use principals::Principals;

/// The bounds of the whole process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Downstream connections. 10,000: one file descriptor each, within a common `ulimit -n` of 20,000
    /// with the upstream ones.
    pub connections: usize,
    /// Calls in flight at a time. 10,000: one per connection.
    pub calls: usize,
    /// Calls of one principal in flight at a time; the global bound unless configured.
    pub principal_calls: usize,
    /// Listens that one principal keeps open at a time. 64: a client needs one or two, and a host runs several
    /// clients under one token.
    pub listens: usize,
    /// Bytes of request bodies and unfetched answers held at a time. 256 MiB: what a pod with the usual
    /// 512 MiB limit can spare.
    pub held_bytes: usize,
}

impl Config {
    /// The bytes that one principal may hold of `held_bytes`.
    pub fn principal_bytes(&self) -> usize {
        let (part, of) = PRINCIPAL_SHARE;
        self.held_bytes / of * part
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections: 10_000,
            calls: 10_000,
            principal_calls: 10_000,
            listens: 64,
            held_bytes: 256 << 20,
        }
    }
}

/// The process-wide permits.
#[derive(Clone, Debug)]
pub struct Permits {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    metrics: Metrics,
    connections: Arc<Semaphore>,
    calls: AtomicUsize,
    principals: Principals,
    listens: listens::Counts,
    held_bytes: AtomicUsize,
}

impl Permits {
    /// Permits of which none is taken.
    pub fn new(config: Config, metrics: Metrics) -> Self {
        let connections = Arc::new(Semaphore::new(config.connections.min(Semaphore::MAX_PERMITS)));
        Self {
            shared: Arc::new(Shared {
                config,
                metrics,
                connections,
                calls: AtomicUsize::new(0),
                principals: Principals::default(),
                listens: Mutex::default(),
                held_bytes: AtomicUsize::new(0),
            }),
        }
    }

    /// Counts `bytes` against the byte budget for as long as any slice of what is returned lives, be it in a queue, a
    /// stream or a socket's buffer.
    ///
    /// # Errors
    /// [`Bound::HeldBytes`] when the budget is spent; the bytes come back uncounted.
    pub fn hold(&self, bytes: Bytes) -> Result<(Bytes, Held), (Bytes, Bound)> {
        if let Err(bound) = self.shared.hold(bytes.len()) {
            return Err((bytes, bound));
        }
        let (shared, count) = (self.shared.clone(), bytes.len());
        let held = Arc::new(HeldBytes { shared, count, principal: OnceLock::new() });
        Ok((Bytes::from_owner(HeldSlice { bytes, _held: held.clone() }), Held(held)))
    }

    /// The counters of refusals, which other rooms use too.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Waits for the permit of one downstream connection. The listener accepts none meanwhile, so connections wait in
    /// the kernel's backlog.
    pub async fn connection(&self) -> Option<ConnPermit> {
        if self.shared.connections.available_permits() == 0 {
            self.shared.metrics.hit(Bound::Connections);
        }
        // The semaphore is never closed; `None` would mean that the process is going down.
        let permit = self.shared.connections.clone().acquire_owned().await.ok()?;
        Some(ConnPermit { _permit: permit })
    }

    /// The permit of one call of `principal`.
    ///
    /// # Errors
    /// The bound that is reached: the principal's own, or the process's.
    pub fn call(&self, principal: &Arc<str>) -> Result<CallPermit, Bound> {
        let shared = &self.shared;
        if !shared.principals.add_call(principal, shared.config.principal_calls.min(shared.config.calls)) {
            // Where both bounds are equal the process is full, not this one principal.
            let own = shared.config.principal_calls < shared.config.calls;
            return Err(shared.hit(if own { Bound::PrincipalCalls } else { Bound::Calls }));
        }
        let principal = principal.clone();
        let permit = CallPermit { shared: shared.clone(), principal, bytes: 0, own_bytes: 0, counts: true };
        if shared.calls.fetch_add(1, Ordering::Relaxed) >= shared.config.calls {
            return Err(shared.hit(Bound::Calls)); // dropping the permit decreases the count again
        }
        Ok(permit)
    }

    /// Registers what is held now.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(Gauges(self.clone())));
    }

    /// Calls in flight.
    pub fn calls_in_flight(&self) -> usize {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// Bytes held.
    pub fn held_bytes(&self) -> usize {
        self.shared.held_bytes.load(Ordering::Relaxed)
    }
}

/// Reads the gauges when metrics are collected, so that taking and releasing permits costs nothing more.
#[derive(Debug)]
struct Gauges(Permits);

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: usize| {
            let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)
        };
        gauge(
            "calls_held",
            "Calls that hold a place of limits.calls, from before their body is read; near it, add replicas or raise it",
            self.0.calls_in_flight(),
        )?;
        gauge(
            "held_bytes",
            "Bytes of bodies, and of answers not yet fetched; near limits.held_bytes, add replicas or raise it",
            self.0.held_bytes(),
        )
    }
}

impl Default for Permits {
    fn default() -> Self {
        Self::new(Config::default(), Metrics::default())
    }
}

/// Bytes that count against the budget until they are dropped ([`Permits::hold`]).
struct HeldSlice {
    bytes: Bytes,
    _held: Arc<HeldBytes>,
}

/// The count of the bytes that [`Permits::hold`] returned.
pub struct Held(Arc<HeldBytes>);

struct HeldBytes {
    shared: Arc<Shared>,
    count: usize,
    /// Whose share they count against too.
    principal: OnceLock<Arc<str>>,
}

impl Held {
    /// A copy of `bytes`, the ones that are counted; the count is over when both are dropped.
    pub fn copy(&self, bytes: &Bytes) -> Bytes {
        let bytes = Bytes::copy_from_slice(bytes);
        Bytes::from_owner(HeldSlice { bytes, _held: self.0.clone() })
    }

    /// Counts the bytes against the share of `principal` too.
    ///
    /// # Errors
    /// [`Bound::PrincipalBytes`] when that is spent.
    pub fn attribute(&self, principal: &Arc<str>) -> Result<(), Bound> {
        let held = &self.0;
        held.shared.attribute(principal, held.count)?;
        // Attributed once: each answer has one call.
        if held.principal.set(principal.clone()).is_err() {
            held.shared.principals.free_bytes(principal, held.count);
        }
        Ok(())
    }
}

impl AsRef<[u8]> for HeldSlice {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.shared.held_bytes.fetch_sub(self.count, Ordering::Relaxed);
        if let Some(principal) = self.principal.get() {
            self.shared.principals.free_bytes(principal, self.count);
        }
    }
}

impl Shared {
    fn hold(&self, more: usize) -> Result<(), Bound> {
        let before = self.held_bytes.fetch_add(more, Ordering::Relaxed);
        if before.saturating_add(more) > self.config.held_bytes {
            self.held_bytes.fetch_sub(more, Ordering::Relaxed);
            return Err(self.hit(Bound::HeldBytes));
        }
        Ok(())
    }

    fn attribute(&self, principal: &Arc<str>, bytes: usize) -> Result<(), Bound> {
        if self.principals.add_bytes(principal, bytes, self.config.principal_bytes()) {
            return Ok(());
        }
        Err(self.hit(Bound::PrincipalBytes))
    }

    fn hit(&self, bound: Bound) -> Bound {
        self.metrics.hit(bound);
        bound
    }
}

/// One downstream connection.
#[derive(Debug)]
pub struct ConnPermit {
    _permit: OwnedSemaphorePermit,
}

/// One call of one principal, and the bytes held for it.
pub struct CallPermit {
    shared: Arc<Shared>,
    principal: Arc<str>,
    bytes: usize,
    /// Those of them that count against the principal's share.
    own_bytes: usize,
    /// Whether it still counts as a call; its bytes count either way.
    counts: bool,
}

impl CallPermit {
    /// Stops counting as a call in flight; the bytes still count.
    pub fn release(&mut self) {
        if !std::mem::take(&mut self.counts) {
            return;
        }
        self.shared.calls.fetch_sub(1, Ordering::Relaxed);
        self.shared.principals.end_call(&self.principal);
    }

    /// Counts `more` bytes of this call's body; called before they are kept.
    ///
    /// # Errors
    /// [`Bound::HeldBytes`] when the process's byte budget is spent, [`Bound::PrincipalBytes`] when the principal's share
    /// is.
    pub fn hold_bytes(&mut self, more: usize) -> Result<(), Bound> {
        self.shared.hold(more)?;
        self.bytes += more; // given back with the permit in any case
        let own_bytes = self.bytes.saturating_sub(FREE_BYTES);
        if own_bytes > self.own_bytes {
            self.shared.attribute(&self.principal, own_bytes - self.own_bytes)?;
            self.own_bytes = own_bytes;
        }
        Ok(())
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.shared.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        if self.own_bytes > 0 {
            self.shared.principals.free_bytes(&self.principal, self.own_bytes);
        }
        self.release();
    }
}

impl fmt::Debug for CallPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallPermit({} bytes)", self.bytes)
    }
}

/// The part of `held_bytes` that one principal may have, of bodies and of unfetched answers. Three quarters: the rest is
/// there for others, and a gateway with one principal loses little.
const PRINCIPAL_SHARE: (usize, usize) = (3, 4);
/// The bytes of each call's body that do not count against the principal's share. 4 KiB: usual calls take no lock for
/// it, and all that `calls` allows are 40 MB.
const FREE_BYTES: usize = 4 << 10;

/// The slots of one server: calls in flight there, and a bounded, timed queue for them.
#[derive(Clone, Debug)]
pub struct Slots {
    free: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    config: SlotConfig,
    metrics: Metrics,
}

/// Bounds of [`Slots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotConfig {
    /// Calls in flight on one server. 1,024: beyond that a stdio server only queues them in its own memory.
    pub slots: usize,
    /// Calls that may wait for a slot or a connection. 256: at a usual 40 ms a call they are served within
    /// `queue_timeout`.
    pub queue: usize,
    /// The longest wait. 10 s: clients give up after 60 s, and most retry.
    pub queue_timeout: Duration,
}

impl Default for SlotConfig {
    fn default() -> Self {
        Self { slots: 1024, queue: 256, queue_timeout: Duration::from_secs(10) }
    }
}

impl Slots {
    /// All slots free.
    pub fn new(config: SlotConfig, metrics: Metrics) -> Self {
        let free = Arc::new(Semaphore::new(config.slots.min(Semaphore::MAX_PERMITS)));
        Self { free, waiting: Arc::default(), config, metrics }
    }

    /// A slot without waiting. Nobody overtakes those who wait for one: the semaphore hands a slot that comes
    /// free to the first of them, so that none is there to be taken. Who waits in the queue for something else,
    /// a handshake say, holds nobody up.
    pub fn try_take(&self) -> Option<SlotPermit> {
        let free = self.free.clone().try_acquire_owned().ok();
        if free.is_none() {
            self.metrics.hit(Bound::Slots);
        }
        free.map(|permit| SlotPermit { _permit: permit })
    }

    /// A place in the queue, for a call that has to wait for a slot, a connection or a handshake.
    ///
    /// # Errors
    /// [`Bound::Queue`] when as many wait already.
    pub fn queue(&self) -> Result<QueuePermit, Bound> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.config.queue {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.metrics.hit(Bound::Queue);
            return Err(Bound::Queue);
        }
        Ok(QueuePermit { slots: self.clone() })
    }

    /// Whether no call is in flight and none waits.
    pub fn is_idle(&self) -> bool {
        let all = self.config.slots.min(Semaphore::MAX_PERMITS);
        self.waiting.load(Ordering::Relaxed) == 0 && self.free.available_permits() == all
    }

    /// The configured bounds.
    pub fn config(&self) -> SlotConfig {
        self.config
    }
}

/// A place in the queue of one server.
#[derive(Debug)]
pub struct QueuePermit {
    slots: Slots,
}

impl QueuePermit {
    /// Waits for a slot, at most `queue_timeout`.
    ///
    /// # Errors
    /// [`Bound::QueueTimeout`] when none came free in time.
    pub async fn slot(&self) -> Result<SlotPermit, Bound> {
        match timeout(self.slots.config.queue_timeout, self.slots.free.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(SlotPermit { _permit: permit }),
            Ok(Err(_)) | Err(_) => {
                self.slots.metrics.hit(Bound::QueueTimeout);
                Err(Bound::QueueTimeout)
            }
        }
    }
}

impl Drop for QueuePermit {
    fn drop(&mut self) {
        self.slots.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One call in flight on one server.
#[derive(Debug)]
pub struct SlotPermit {
    _permit: OwnedSemaphorePermit,
}

#[cfg(test)]
mod tests;
