//! Metrics of keys and tokens. Refused tokens are counted with all other credentials (`auth/denied.rs`).

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Metrics of keys and tokens.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    fetches: Counter,
    failures: Counter,
    keys: Gauge,
    fetched: Gauge<u64, AtomicU64>,
    pub(super) forgotten: Counter,
}

impl Metrics {
    /// Registers under the process's prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "oauth_key_fetches",
            "Times the keys of the issuer were asked for",
            self.fetches.clone(),
        );
        registry.register(
            "oauth_key_fetch_failures",
            "Of these, those that brought none: the log says why; the keys from before stay in force, for a day at most",
            self.failures.clone(),
        );
        registry.register(
            "oauth_keys",
            "Keys of the issuer that tokens are checked with; with none of them, all tokens of its are answered 503",
            self.keys.clone(),
        );
        registry.register(
            "oauth_keys_fetched_timestamp_seconds",
            "When the issuer said last which they are; if that is long ago, it is away, and a new key of its would not be known. 0: \
             never, or they are from a file",
            self.fetched.clone(),
        );
        registry.register(
            "oauth_tokens_forgotten",
            "Verified tokens, valid still, that made room for others and are verified anew when they come again",
            self.forgotten.clone(),
        );
    }

    pub(super) fn fetches(&self) {
        self.fetches.inc();
    }

    pub(super) fn failed(&self) {
        self.failures.inc();
    }

    /// Sets the number of keys, and when the issuer last published them, in seconds since 1970.
    pub(in crate::auth) fn set_keys(&self, keys: usize, fetched: u64) {
        self.keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
        self.fetched.set(fetched);
    }
}
