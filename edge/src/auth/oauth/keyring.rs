//! Holds the keys of the issuer that are in force, and fetches them in the background.
//!
//! Guarantees: when a key is withdrawn, the callers of tokens that it signed are revoked, streams included, and no others.
//! Keys stay in force while the issuer is away, at most for [`Pace::oldest`]. How often the issuer is asked does not depend
//! on tokens. A fetched key set replaces the previous one, also if it is empty. It must not know tokens.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::keys::{Algorithm, Keys};
use super::{AuthError, Config, Metrics, Pace, Source};
use crate::call::Revocation;
use crate::ops::unix_time::now_unix_secs;

/// The keys in force, and the state of fetching them.
#[derive(Debug)]
pub(super) struct Keyring {
    held: RwLock<Held>,
    /// Notified when a token names an unknown key.
    asked: Notify,
    fetches: watch::Sender<Fetches>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Held {
    set: Option<Arc<KeySet>>,
    /// Keys from another place, until the first key set of this place decides which of them stay.
    before: Option<Arc<KeySet>>,
    /// When the issuer was last reached, by the monotonic clock and in seconds since 1970.
    fetched: Option<(Instant, u64)>,
}

/// Keys, each with the revocation of what it has signed.
#[derive(Debug)]
pub(in crate::auth) struct KeySet {
    keys: Keys,
    revocations: Vec<Revocation>,
}

/// How far fetching has come.
#[derive(Clone, Copy, Debug, Default)]
struct Fetches {
    is_running: bool,
    ended: usize,
    last: Option<Instant>,
}

impl KeySet {
    /// The set that follows `before`. Keys that are in both keep their revocation; those that are gone are revoked.
    fn after(before: Option<&Self>, keys: Keys) -> Self {
        let known = |place| {
            let known = before?.revocations.get(keys.place_in(place, &before?.keys)?)?;
            (!known.is_revoked()).then(|| known.clone())
        };
        let revocations = (0..keys.len()).map(|place| known(place).unwrap_or_default()).collect();
        if let Some(before) = before {
            let all = before.revocations.iter().enumerate();
            let gone = all.filter(|(place, _)| before.keys.place_in(*place, &keys).is_none());
            gone.for_each(|(_, gone)| gone.revoke());
        }
        Self { keys, revocations }
    }

    /// The revocation of the key that made this signature.
    pub(super) fn verify(
        &self,
        how: (Algorithm, Option<&str>),
        signed: &[u8],
        signature: &[u8],
    ) -> Result<Revocation, AuthError> {
        let place = self.keys.verify(how, signed, signature)?;
        self.revocations.get(place).cloned().ok_or(AuthError::Key)
    }

    fn revoke(&self) {
        self.revocations.iter().for_each(Revocation::revoke);
    }
}

impl Keyring {
    /// With the keys of the configuration, or without keys until they are fetched.
    pub(super) fn new(source: &Source, metrics: Metrics) -> Self {
        Self::following((None, None), source, metrics)
    }

    /// For another source of keys than that of `before`. What was signed by keys that both have stays valid.
    pub(super) fn after(before: &Self, source: &Source) -> Self {
        let held = before.held.read();
        let set = held.set.clone().or_else(|| held.before.clone());
        Self::following((set, held.fetched), source, before.metrics.clone())
    }

    fn following(
        (before, fetched): (Option<Arc<KeySet>>, Option<(Instant, u64)>),
        source: &Source,
        metrics: Metrics,
    ) -> Self {
        let file = match source {
            Source::File(keys) => Some(keys.clone()),
            Source::Discovered | Source::Url(_) => None,
        };
        // Counted as running from the start, so that the first clients wait for it.
        let fetches = watch::Sender::new(Fetches { is_running: file.is_none(), ..Fetches::default() });
        let fetched = fetched.filter(|_| file.is_none());
        let held = RwLock::new(Held { before, fetched, ..Held::default() });
        let keyring = Self { held, asked: Notify::new(), fetches, metrics };
        if let Some(keys) = file {
            keyring.take(keys);
        }
        keyring
    }

    /// The keys that tokens are verified with.
    pub(super) fn in_force(&self) -> Option<Arc<KeySet>> {
        self.held.read().set.clone().filter(|set| !set.keys.is_empty())
    }

    /// Puts these keys in force. Returns whether they differ from those before.
    pub(super) fn take(&self, keys: Keys) -> bool {
        let mut held = self.held.write();
        let is_other = held.set.as_ref().is_none_or(|set| set.keys != keys);
        let mut gone = (None, None);
        if is_other {
            let set = KeySet::after(held.set.as_deref().or(held.before.as_deref()), keys);
            gone = (held.set.replace(Arc::new(set)), held.before.take());
        }
        drop(held);
        drop(gone);
        self.update_gauges();
        is_other
    }

    /// Revokes everything that the keys have signed. The keys stay in force.
    pub(super) fn revoke(&self) {
        let mut held = self.held.write();
        held.before.take().iter().for_each(|set| set.revoke());
        if let Some(set) = held.set.take() {
            set.revoke();
            held.set = Some(Arc::new(KeySet::after(None, set.keys.clone())));
        }
    }

    /// Updates the gauges.
    pub(super) fn update_gauges(&self) {
        let held = self.held.read();
        self.metrics.set_keys(
            held.set.as_ref().map_or(0, |set| set.keys.len()),
            held.fetched.map_or(0, |(_, at)| at),
        );
    }

    /// Waits for a fetch that is running or due, within [`Pace::wait`]. Returns whether one ended.
    pub(super) async fn wait_for_new_keys(&self, pace: &Pace) -> bool {
        let mut fetches = self.fetches.subscribe();
        let seen = *fetches.borrow_and_update();
        let is_due = seen.last.is_none_or(|last| last.elapsed() >= pace.between);
        if !seen.is_running && !is_due {
            return false;
        }
        if !seen.is_running {
            self.asked.notify_one();
        }
        let ended = fetches.wait_for(|now| now.ended > seen.ended);
        timeout(pace.wait, ended).await.is_ok_and(|ended| ended.is_ok())
    }

    /// Keeps the keys fresh; never returns.
    pub(super) async fn keep_fresh(&self, config: &Config) {
        let pace = config.pace;
        let mut failures = 0;
        // A reload that changes something else does not fetch them again.
        let (is_running, fetched) = (self.fetches.borrow().is_running, self.held.read().fetched);
        if let Some((last, _)) = fetched.filter(|_| !is_running && self.in_force().is_some()) {
            self.until_due(last, pace.period, pace.between).await;
        }
        loop {
            self.fetches.send_modify(|fetches| fetches.is_running = true);
            failures = if self.fetch(config).await { 0 } else { failures + 1 };
            let now = Instant::now();
            self.fetches.send_modify(|fetches| {
                *fetches = Fetches { is_running: false, ended: fetches.ended + 1, last: Some(now) };
            });
            let next = match failures {
                0 => pace.period,
                _ => FIRST_AGAIN.saturating_mul(1 << (failures - 1).min(6)).min(LAST_AGAIN),
            };
            self.until_due(now, next, pace.between).await;
        }
    }

    async fn until_due(&self, last: Instant, next: Duration, between: Duration) {
        tokio::select! {
            () = sleep_until(last + next) => {}
            () = self.asked.notified() => sleep_until(last + between.min(next)).await,
        }
    }

    /// Fetches the keys. Returns whether the issuer has any; if not, it is asked again as soon as if it were away.
    async fn fetch(&self, config: &Config) -> bool {
        let Config { keys, issuer, authorities, pace, .. } = config;
        let issuer_name = issuer.as_str();
        self.metrics.fetches();
        match keys.keys(issuer, authorities.clone()).await {
            Ok((keys, from)) => {
                let (count, left_out) = (keys.len(), keys.left_out);
                self.held.write().fetched = Some((Instant::now(), now_unix_secs()));
                if self.take(keys) && count > 0 {
                    tracing::info!(
                        issuer = issuer_name,
                        from,
                        keys = count,
                        left_out,
                        "keys of the issuer taken"
                    );
                } else if count == 0 {
                    self.metrics.failed();
                    tracing::warn!(
                        issuer = issuer_name,
                        from,
                        left_out,
                        "the issuer publishes no key that signs tokens; none of its tokens is accepted"
                    );
                }
                count > 0
            }
            Err(error) => {
                self.metrics.failed();
                if self.has_aged(pace.oldest) {
                    tracing::error!(issuer = issuer_name, %error, "keys of the issuer cannot be fetched, and the previous ones are too old; none of its tokens is accepted");
                } else if self.in_force().is_some() {
                    tracing::warn!(issuer = issuer_name, %error, "keys of the issuer cannot be fetched; the previous ones stay in force");
                } else {
                    tracing::warn!(issuer = issuer_name, %error, "keys of the issuer cannot be fetched, and there are no previous ones");
                }
                false
            }
        }
    }

    /// Withdraws keys that the issuer has not confirmed for so long. Returns whether there were any.
    fn has_aged(&self, oldest: Duration) -> bool {
        let mut held = self.held.write();
        if held.fetched.is_none_or(|(at, _)| at.elapsed() < oldest) {
            return false;
        }
        let gone = [held.set.take(), held.before.take()];
        drop(held);
        gone.iter().flatten().for_each(|set| set.revoke());
        self.update_gauges();
        gone.iter().any(Option::is_some)
    }

    /// Requests a fetch without waiting for it.
    #[cfg(test)]
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Drops the keys without revoking what they signed.
    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.held.write().set = None;
    }
}

/// The pause after the first failed fetch, doubled with each further one. 1 s: for an issuer that starts together with us.
const FIRST_AGAIN: Duration = Duration::from_secs(1);
/// The longest pause after failed fetches. 1 min: for an issuer that is away.
const LAST_AGAIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use testkit::issuer::{Signer, key_set};

    use super::*;

    fn keys(signers: &[&Signer]) -> Keys {
        Keys::of(&key_set(signers)).unwrap()
    }

    fn revocations(keyring: &Keyring) -> Vec<Revocation> {
        keyring.in_force().unwrap().revocations.clone()
    }

    #[test]
    fn withdrawn_key_revokes_what_it_signed_and_nothing_else() {
        let (a, b, c) = (Signer::new("a", "ES256"), Signer::new("b", "ES256"), Signer::new("c", "EdDSA"));
        let keyring = Keyring::new(&Source::File(keys(&[&a, &b])), Metrics::default());
        let before = revocations(&keyring);
        assert!(!keyring.take(keys(&[&a, &b])));
        assert!(keyring.take(keys(&[&c, &b, &a])), "in another order, and one more");
        assert!(before.iter().all(|one| !one.is_revoked()));
        keyring.take(keys(&[&c, &b]));
        assert_eq!(before.iter().map(Revocation::is_revoked).collect::<Vec<_>>(), [true, false]);
        keyring.take(keys(&[&a, &b]));
        assert!(!revocations(&keyring)[0].is_revoked(), "one that comes back begins anew");
        keyring.take(Keys::of(&serde_json::json!({"keys": []})).unwrap());
        assert!(keyring.in_force().is_none() && before[1].is_revoked());
    }

    #[test]
    fn another_place_of_keys_decides_what_goes_on() {
        let (a, b) = (Signer::new("a", "ES256"), Signer::new("b", "ES256"));
        let first = Keyring::new(&Source::File(keys(&[&a, &b])), Metrics::default());
        let before = revocations(&first);
        let second = Keyring::after(&first, &Source::Discovered);
        assert!(second.in_force().is_none(), "nobody has said there that these are the issuer's");
        let third = Keyring::after(&second, &Source::File(keys(&[&b])));
        assert_eq!(before.iter().map(Revocation::is_revoked).collect::<Vec<_>>(), [true, false]);
        third.revoke();
        assert!(before[1].is_revoked() && !revocations(&third)[0].is_revoked());
    }
}
