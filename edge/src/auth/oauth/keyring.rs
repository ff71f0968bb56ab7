//! The keys of the issuer that are in force, fetched beside the requests.
//!
//! Guarantees: what a key has signed ends with it, streams too, and nothing else does; keys that are in force stay while the
//! issuer is away, for [`Pace::oldest`] at most; how often the issuer is asked depends on no token. What a key set says
//! counts, also if there is no key in it. It must not know tokens.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::keys::{Algorithm, Keys};
use super::{Config, Fault, Metrics, Pace, Source};
use crate::call::Revocation;
use crate::ops::unix_time::now_unix_secs;

/// See the module.
#[derive(Debug)]
pub(super) struct Keyring {
    held: RwLock<Held>,
    /// Somebody came with a key that nobody knows.
    asked: Notify,
    fetches: watch::Sender<Fetches>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Held {
    set: Option<Arc<Set>>,
    /// Whose keys these are that were in force and may be so again: whoever says first which are, decides what goes on.
    before: Option<Arc<Set>>,
    /// When the issuer said so, by this machine's time without pauses, and in seconds since 1970.
    said: Option<(Instant, u64)>,
}

/// Keys, each with what takes back what it has signed.
#[derive(Debug)]
pub(in crate::auth) struct Set {
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

impl Set {
    /// Where a key was in `before`, what it has signed goes on; what the others of those have signed is taken back.
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

    /// What takes back what this signature says, if one of the keys has made it.
    pub(super) fn verify(
        &self,
        how: (Algorithm, Option<&str>),
        signed: &[u8],
        signature: &[u8],
    ) -> Result<Revocation, Fault> {
        let place = self.keys.verify(how, signed, signature)?;
        self.revocations.get(place).cloned().ok_or(Fault::Key)
    }

    fn revoke(&self) {
        self.revocations.iter().for_each(Revocation::revoke);
    }
}

impl Keyring {
    /// With the keys of the configuration, or with none before they are fetched.
    pub(super) fn new(source: &Source, metrics: Metrics) -> Self {
        Self::following((None, None), source, metrics)
    }

    /// For another place of keys than that of `before`: of those that are found there too, all goes on.
    pub(super) fn after(before: &Self, source: &Source) -> Self {
        let held = before.held.read();
        let set = held.set.clone().or_else(|| held.before.clone());
        Self::following((set, held.said), source, before.metrics.clone())
    }

    fn following(
        (before, said): (Option<Arc<Set>>, Option<(Instant, u64)>),
        source: &Source,
        metrics: Metrics,
    ) -> Self {
        let file = match source {
            Source::File(keys) => Some(keys.clone()),
            Source::Found | Source::Url(_) => None,
        };
        // It runs from the start, so that the first clients wait for it.
        let fetches = watch::Sender::new(Fetches { is_running: file.is_none(), ..Fetches::default() });
        let said = said.filter(|_| file.is_none());
        let held = RwLock::new(Held { before, said, ..Held::default() });
        let keyring = Self { held, asked: Notify::new(), fetches, metrics };
        if let Some(keys) = file {
            keyring.take(keys);
        }
        keyring
    }

    /// Those that tokens are checked with.
    pub(super) fn in_force(&self) -> Option<Arc<Set>> {
        self.held.read().set.clone().filter(|set| !set.keys.is_empty())
    }

    /// Puts these in force; whether they are others than before.
    pub(super) fn take(&self, keys: Keys) -> bool {
        let mut held = self.held.write();
        let is_other = held.set.as_ref().is_none_or(|set| set.keys != keys);
        let mut gone = (None, None);
        if is_other {
            let set = Set::after(held.set.as_deref().or(held.before.as_deref()), keys);
            gone = (held.set.replace(Arc::new(set)), held.before.take());
        }
        drop(held);
        drop(gone);
        self.show();
        is_other
    }

    /// Takes back all that the keys have signed; they stay in force.
    pub(super) fn revoke(&self) {
        let mut held = self.held.write();
        held.before.take().iter().for_each(|set| set.revoke());
        if let Some(set) = held.set.take() {
            set.revoke();
            held.set = Some(Arc::new(Set::after(None, set.keys.clone())));
        }
    }

    /// Puts the gauges right.
    pub(super) fn show(&self) {
        let held = self.held.read();
        self.metrics
            .has(held.set.as_ref().map_or(0, |set| set.keys.len()), held.said.map_or(0, |(_, at)| at));
    }

    /// Waits for keys that may be news, if there may be any; whether there were.
    pub(super) async fn news(&self, pace: &Pace) -> bool {
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

    /// Keeps the keys fresh, for ever.
    pub(super) async fn keep_fresh(&self, config: &Config) {
        let pace = config.pace;
        let mut failures = 0;
        // A reload that changes something else does not ask for them again.
        let (is_running, said) = (self.fetches.borrow().is_running, self.held.read().said);
        if let Some((last, _)) = said.filter(|_| !is_running && self.in_force().is_some()) {
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

    /// Whether the issuer has keys; if it has none yet, it is asked again as soon as if it were away.
    async fn fetch(&self, config: &Config) -> bool {
        let Config { keys, issuer, authorities, pace, .. } = config;
        let issuer_name = issuer.as_str();
        self.metrics.fetches();
        match keys.keys(issuer, authorities.clone()).await {
            Ok((fetched, from)) => {
                let (count, left_out) = (fetched.len(), fetched.left_out);
                self.held.write().said = Some((Instant::now(), now_unix_secs()));
                if self.take(fetched) && count > 0 {
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
                        "the issuer publishes no key that signs tokens; none of its tokens count"
                    );
                }
                count > 0
            }
            Err(error) => {
                self.metrics.failed();
                if self.has_aged(pace.oldest) {
                    tracing::error!(issuer = issuer_name, %error, "keys of the issuer cannot be fetched, and those from before are too old; none of its tokens count");
                } else if self.in_force().is_some() {
                    tracing::warn!(issuer = issuer_name, %error, "keys of the issuer cannot be fetched; those from before stay in force");
                } else {
                    tracing::warn!(issuer = issuer_name, %error, "keys of the issuer cannot be fetched, and there are none from before");
                }
                false
            }
        }
    }

    /// Puts keys out of force of which the issuer has said nothing for so long; whether it did.
    fn has_aged(&self, oldest: Duration) -> bool {
        let mut held = self.held.write();
        if held.said.is_none_or(|(at, _)| at.elapsed() < oldest) {
            return false;
        }
        let gone = [held.set.take(), held.before.take()];
        drop(held);
        gone.iter().flatten().for_each(|set| set.revoke());
        self.show();
        gone.iter().any(Option::is_some)
    }

    /// As somebody does whose key nobody knows, but waits for nothing.
    #[cfg(test)]
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }

    /// As if there never were any; what was signed by them goes on.
    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.held.write().set = None;
    }
}

/// From a fetch that failed to the next, doubled with each: 1 s, for an issuer that starts beside us,
const FIRST_AGAIN: Duration = Duration::from_secs(1);
/// to a minute, for one that is away.
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
    fn what_a_key_has_signed_ends_with_it_and_nothing_else_does() {
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
        let second = Keyring::after(&first, &Source::Found);
        assert!(second.in_force().is_none(), "nobody has said there that these are the issuer's");
        let third = Keyring::after(&second, &Source::File(keys(&[&b])));
        assert_eq!(before.iter().map(Revocation::is_revoked).collect::<Vec<_>>(), [true, false]);
        third.revoke();
        assert!(before[1].is_revoked() && !revocations(&third)[0].is_revoked());
    }
}
