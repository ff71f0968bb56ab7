//! Tokens of an authorization server: this gateway as an OAuth 2.1 resource server.
//!
//! ```text
//! token ─▶ known? ─▶ shape ─▶ claims ─▶ key ─▶ signature ─▶ principal, scopes ─▶ Caller, until it runs out
//!            │                           ▲
//!            └─ by digest: no crypto     └── keys: fetched beside, kept while the issuer is away
//! ```
//! Guarantees: a token counts only with the signature of a key of the one issuer, for us as its audience, within its time;
//! each costs one verification at most, and one that is known none; what is asked of the issuer does not depend on how many
//! tokens come. It must not know HTTP's answers (`auth/denied.rs`), nor what principals may do.
// MCP 2025-06-18, 2025-11-25 and 2026-07-28 basic/authorization; RFC 6750, RFC 8707, RFC 9068, RFC 9728

mod claims;
mod issuer;
pub(super) mod jwt;
mod keys;
mod known;
mod metrics;
mod resource;
#[cfg(test)]
pub(crate) mod tests;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::claims::{Claims, LEEWAY_SECS};
use self::jwt::Jwt;
use self::known::{Known, Verified, digest_of};
use super::denied::Fault;
use crate::call::{Caller, Revocation};

pub use self::claims::PREFIX;
pub use self::issuer::{Issuer, KeysUrl, NoKeys, Source};
pub use self::keys::Keys;
pub use self::metrics::Metrics;
pub use self::resource::{Resource, WELL_KNOWN};

/// Whose tokens are taken, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The name of this gateway: the audience of tokens.
    pub resource: Resource,
    /// Who makes tokens.
    pub issuer: Issuer,
    /// Where its keys are.
    pub keys: Source,
    /// What tokens may name in the place of `resource`, where the issuer cannot be made to name that.
    pub audience: Vec<String>,
    /// What each token must allow.
    pub scopes: Vec<String>,
    /// The claim that names the principal.
    pub principal: String,
    /// A file of certificates to trust beside this machine's own, for fetching keys.
    pub authorities: Option<PathBuf>,
    /// Verified tokens that are known. 10,000: as many as sessions.
    pub tokens: usize,
    /// How keys are fetched.
    pub pace: Pace,
}

/// How often the issuer is asked for its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// In any case. 10 min: a key that was taken back is none of ours by then.
    pub period: Duration,
    /// At most, whatever tokens come. 30 s: issuers publish a key minutes before they use it.
    pub between: Duration,
    /// The longest that a request waits for keys that are being fetched. 3 s: a client waits longer than that for the first
    /// byte, and the issuer answers sooner or not at all.
    pub wait: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let (period, between, wait) =
            (Duration::from_secs(600), Duration::from_secs(30), Duration::from_secs(3));
        Self { period, between, wait }
    }
}

impl Config {
    /// For tokens of `issuer` that are made for `resource`; the rest as it is by default.
    pub fn new(resource: Resource, issuer: Issuer) -> Self {
        Self {
            resource,
            issuer,
            keys: Source::Found,
            audience: Vec::new(),
            scopes: Vec::new(),
            principal: "sub".to_owned(),
            authorities: None,
            tokens: 10_000,
            pace: Pace::default(),
        }
    }

    /// What clients read to learn where tokens are to be had, for the endpoint at this path; without one for the gateway.
    // RFC 9728 §2
    pub(super) fn metadata(&self, path: Option<&str>) -> String {
        // RFC 9728 §3.3: the very URI that the well-known string was put into
        let resource =
            path.map_or_else(|| self.resource.as_str().to_owned(), |path| self.resource.endpoint(path));
        let mut metadata = json!({
            "resource": resource,
            "authorization_servers": [self.issuer.as_str()],
            "bearer_methods_supported": ["header"],
            "resource_name": "mcp-edge",
        });
        if let Some(members) = metadata.as_object_mut().filter(|_| !self.scopes.is_empty()) {
            members.insert("scopes_supported".to_owned(), json!(self.scopes));
        }
        metadata.to_string()
    }
}

/// Tells callers by the tokens of one issuer.
#[derive(Debug)]
pub(super) struct Authority {
    pub(super) config: Config,
    /// `None`: never fetched.
    keys: RwLock<Option<Arc<Keys>>>,
    known: Known,
    /// Of all callers that this one told.
    pub(super) revocation: Revocation,
    /// Somebody came with a key that nobody knows.
    asked: Notify,
    fetches: watch::Sender<Fetches>,
    metrics: Metrics,
}

/// How far fetching has come.
#[derive(Clone, Copy, Debug, Default)]
struct Fetches {
    is_running: bool,
    ended: usize,
    last: Option<Instant>,
}

impl Authority {
    pub(super) fn new(config: Config, metrics: Metrics) -> Self {
        let keys = match &config.keys {
            Source::File(keys) => Some(Arc::new(keys.clone())),
            Source::Found | Source::Url(_) => None,
        };
        // It runs from the start, so that the first clients wait for it.
        let fetches = Fetches { is_running: keys.is_none(), ..Fetches::default() };
        Self {
            keys: RwLock::new(keys),
            known: Known::new(config.tokens, metrics.forgotten.clone()),
            revocation: Revocation::default(),
            asked: Notify::new(),
            fetches: watch::Sender::new(fetches),
            metrics,
            config,
        }
    }

    /// Whose token this is, if it counts at the endpoint of `server` or, without one, at that of all servers.
    pub(super) fn caller(&self, token: &[u8], server: Option<&str>) -> Result<Caller, Fault> {
        let (digest, now) = (digest_of(token), unix_now());
        if let Some((caller, counts)) = self.known.find(&digest, server, now) {
            return if counts { Ok(caller) } else { Err(Fault::Audience) };
        }
        let keys = self.keys();
        let verified = self.verify(token, keys.as_deref(), now)?;
        let (caller, counts) = (verified.caller.clone(), verified.reach.covers(server));
        self.known.put(digest, verified);
        if keys.as_ref().map(Arc::as_ptr) != self.keys().as_ref().map(Arc::as_ptr) {
            self.known.clear(); // others came meanwhile, and what these have verified may count no longer
        }
        if counts { Ok(caller) } else { Err(Fault::Audience) }
    }

    /// Those that are in force.
    pub(super) fn keys(&self) -> Option<Arc<Keys>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn verify(&self, token: &[u8], keys: Option<&Keys>, now: u64) -> Result<Verified, Fault> {
        let jwt = Jwt::parse(token)?;
        let claims = Claims(&jwt.claims);
        // Before the signature, which costs more: whatever is out of date or for somebody else ends here.
        let terms = claims.check(&self.config, now, jwt.header.is_access_token)?;
        let keys = keys.ok_or(Fault::NoKeys)?;
        let how = (jwt.header.algorithm, jwt.header.key_id.as_deref());
        keys.verify(how, jwt.signed, &jwt.signature)?;
        let principal = claims.grant(&self.config)?;
        let left = terms.expires.saturating_add(LEEWAY_SECS).saturating_sub(now).min(LONGEST_SECS);
        let ends = Instant::now() + Duration::from_secs(left);
        let caller = Caller::until(principal, self.revocation.clone(), Some(ends));
        Ok(Verified { caller, ends: now.saturating_add(left), reach: terms.reach })
    }

    /// Waits for keys that may be news, if there may be any; whether there were.
    pub(super) async fn news(&self) -> bool {
        let mut fetches = self.fetches.subscribe();
        let seen = *fetches.borrow_and_update();
        let is_due = match self.config.keys {
            Source::File(_) => false,
            Source::Found | Source::Url(_) => {
                seen.last.is_none_or(|last| last.elapsed() >= self.config.pace.between)
            }
        };
        if !seen.is_running && !is_due {
            return false;
        }
        if !seen.is_running {
            self.asked.notify_one();
        }
        let ended = fetches.wait_for(|now| now.ended > seen.ended);
        timeout(self.config.pace.wait, ended).await.is_ok_and(|ended| ended.is_ok())
    }

    /// Keeps the keys fresh, for ever.
    pub(super) async fn keep_fresh(&self) {
        if matches!(self.config.keys, Source::File(_)) {
            return std::future::pending().await;
        }
        let mut failures = 0;
        loop {
            self.fetches.send_modify(|fetches| fetches.is_running = true);
            failures = if self.fetch().await { 0 } else { failures + 1 };
            let now = Instant::now();
            self.fetches.send_modify(|fetches| {
                *fetches = Fetches { is_running: false, ended: fetches.ended + 1, last: Some(now) };
            });
            let next = match failures {
                0 => self.config.pace.period,
                _ => FIRST_AGAIN.saturating_mul(1 << (failures - 1).min(6)).min(LAST_AGAIN),
            };
            tokio::select! {
                () = sleep(next) => {}
                () = self.asked.notified() => sleep_until(now + self.config.pace.between.min(next)).await,
            }
        }
    }

    /// Whether there are keys now.
    async fn fetch(&self) -> bool {
        let Config { keys, issuer, authorities, .. } = &self.config;
        self.metrics.fetches();
        match keys.keys(issuer, authorities.clone()).await {
            Ok((fetched, from)) => {
                self.metrics.has(Some(&fetched));
                let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
                if keys.as_deref() != Some(&fetched) {
                    let (count, left_out) = (fetched.len(), fetched.left_out);
                    tracing::info!(
                        issuer = issuer.as_str(),
                        from,
                        keys = count,
                        left_out,
                        "keys of the issuer taken"
                    );
                    *keys = Some(Arc::new(fetched));
                    // What a key has signed that is there no longer counts no longer.
                    self.known.clear();
                }
                true
            }
            Err(error) => {
                self.metrics.failed();
                tracing::warn!(issuer = issuer.as_str(), %error, "keys of the issuer cannot be fetched; those from before stay in force");
                false
            }
        }
    }
}

/// Seconds since 1970; a clock before that makes every token look early.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs())
}

/// How long a token is taken to be valid at most before it is looked at again: a day, whatever it says.
const LONGEST_SECS: u64 = 86_400;
/// From a fetch that failed to the next, doubled with each: 1 s, for an issuer that starts beside us,
const FIRST_AGAIN: Duration = Duration::from_secs(1);
/// to a minute, for one that is away.
const LAST_AGAIN: Duration = Duration::from_secs(60);
