//! Subscriptions to resources: who subscribes, where updates go, and the guard that keeps a subscription.

use std::fmt;
use std::sync::Arc;

use wire::Message;

use super::{Affinity, Caller, Client};

/// A subscriber to resources.
#[derive(Clone)]
pub struct Subscriber {
    /// Whose connections are used.
    pub caller: Caller,
    /// What the client declared of itself.
    pub client: Arc<Client>,
    /// Which connections are its own.
    pub affinity: Affinity,
    /// Where the news goes.
    pub sink: Arc<dyn UpdateSink>,
}

/// Where news of resources goes.
pub trait UpdateSink: Send + Sync {
    /// A resource changed, or one within it: a `notifications/resources/updated` that belongs to nobody yet. Must
    /// not block; called without a lock held.
    fn updated(&self, message: &Message);

    /// Nothing more will be heard of any of its resources from one server, for it is configured no longer, or is another
    /// one. Called under the same conditions.
    fn lost(&self) {}
}

/// Bytes that all subscriptions of one session, or of one listen, may cost together. 128 KiB: a thousand of the usual
/// length; with 10,000 sessions at this bound it still fits into the memory of a large pod.
pub const SUBSCRIPTIONS_BYTES: usize = 128 << 10;

/// What a subscription costs: its URI, and 64 bytes for what is kept beside it.
pub fn subscription_bytes(uri: &str) -> usize {
    uri.len() + 64
}

/// A subscription to one resource; it ends when this is dropped.
pub struct Subscription {
    uri: String,
    _held: Box<dyn Send + Sync>,
}

impl Subscription {
    /// A subscription that lasts as long as `held`.
    pub fn new(uri: String, held: impl Send + Sync + 'static) -> Self {
        Self { uri, _held: Box::new(held) }
    }

    /// The resource, as the subscriber named it.
    pub fn uri(&self) -> &str {
        &self.uri
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription")
    }
}
