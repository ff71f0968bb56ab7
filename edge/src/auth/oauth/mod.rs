//! Tokens of an authorization server: this gateway as an OAuth 2.1 resource server.
//!
//! ```text
//! token ─▶ known? ─▶ shape ─▶ claims ─▶ key ─▶ signature ─▶ principal, scopes ─▶ Caller, until it runs out
//!            │                           ▲
//!            └─ by digest: no crypto     └── keys: fetched beside, kept while the issuer is away
//! ```
//! Guarantees: a token counts only with the signature of a key of the one issuer, for us as its audience, within its time, and
//! as long as the issuer has that key; a token that counts is verified once and known from then on, what does not count is
//! judged each time, its claims before its signature; what is asked of the issuer does not depend on how many
//! tokens come. It must not know HTTP's answers (`auth/denied.rs`), nor what principals may do.
// MCP 2025-06-18, 2025-11-25 and 2026-07-28 basic/authorization; RFC 6750, RFC 8707, RFC 9068, RFC 9728

mod claims;
mod issuer;
pub(super) mod jwt;
mod keyring;
mod keys;
mod known;
mod metrics;
mod resource;
#[cfg(test)]
pub(crate) mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use self::claims::{Claims, LEEWAY_SECS};
use self::jwt::Jwt;
use self::keyring::Keyring;
use self::known::{Known, Verified, digest_of};
use super::denied::Fault;
use crate::call::Caller;
use crate::ops::unix_time::now_unix_secs;

pub(super) use self::keyring::Set;

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
    /// Keys of which the issuer has said nothing for so long are in force no longer. 24 h: an outage of a day is somebody's
    /// day at work; who cuts us off the issuer keeps no key alive for longer that was taken back.
    pub oldest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self { period: secs(600), between: secs(30), wait: secs(3), oldest: secs(86_400) }
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
    keyring: Arc<Keyring>,
    known: Arc<Known>,
}

impl Config {
    /// Whether tokens count by this that count by `other`, for the same and as the same.
    fn takes_as(&self, other: &Self) -> bool {
        let terms = |config: &Self| {
            let Self { resource, issuer, audience, scopes, principal, .. } = config.clone();
            (resource, issuer, audience, scopes, principal)
        };
        terms(self) == terms(other)
    }

    fn has_keys_of(&self, other: &Self) -> bool {
        let places = (&self.issuer, &self.authorities) == (&other.issuer, &other.authorities);
        places && self.keys.is_place_of(&other.keys)
    }
}

impl Authority {
    pub(super) fn new(config: Config, metrics: Metrics) -> Self {
        let known = Arc::new(Known::new(config.tokens, metrics.forgotten.clone()));
        Self { keyring: Arc::new(Keyring::new(&config.keys, metrics)), known, config }
    }

    /// This one as `config` says from now on. What tokens opened goes on while they count by the same terms, and the keys
    /// that they were signed with are there; keys stay that are from the same place.
    pub(super) fn becoming(self: &Arc<Self>, config: Config, metrics: Metrics) -> Arc<Self> {
        if self.config == config {
            return self.clone();
        }
        let goes_on = config.takes_as(&self.config);
        if !goes_on {
            self.revoke();
        }
        let known = if goes_on {
            self.known.clone()
        } else {
            Arc::new(Known::new(config.tokens, metrics.forgotten.clone()))
        };
        let keyring = if config.has_keys_of(&self.config) {
            self.keyring.clone()
        } else {
            Arc::new(Keyring::after(&self.keyring, &config.keys))
        };
        if let Source::File(keys) = &config.keys {
            keyring.take(keys.clone());
        }
        Arc::new(Self { config, keyring, known })
    }

    /// Takes back what it has told of all callers.
    pub(super) fn revoke(&self) {
        self.keyring.revoke();
    }

    /// Has the gauges say what is known of keys.
    pub(super) fn show(&self) {
        self.keyring.show();
    }

    /// Those that tokens are verified with now.
    pub(super) fn keys(&self) -> Option<Arc<Set>> {
        self.keyring.in_force()
    }

    /// Whose token this is, if it counts at the endpoint of `server` or, without one, at that of all servers. By `keys` and
    /// not by those in force: who was replaced since then has taken back what they signed, and must not count by new ones.
    pub(super) fn caller_by(
        &self,
        keys: Option<&Set>,
        token: &[u8],
        server: Option<&str>,
    ) -> Result<Caller, Fault> {
        let (digest, now) = (digest_of(token), now_unix_secs());
        if let Some((caller, counts)) = self.known.find(&digest, server, now) {
            return if counts { Ok(caller) } else { Err(Fault::Audience) };
        }
        let verified = self.verify(token, keys, now)?;
        let (caller, counts) = (verified.caller.clone(), verified.reach.covers(server));
        self.known.put(digest, verified);
        match counts {
            _ if caller.is_over() => Err(Fault::Key), // it went meanwhile
            true => Ok(caller),
            false => Err(Fault::Audience),
        }
    }

    fn verify(&self, token: &[u8], keys: Option<&Set>, now: u64) -> Result<Verified, Fault> {
        let jwt = Jwt::parse(token)?;
        let claims = Claims(&jwt.claims);
        // Before the signature, which costs more: whatever is out of date or for somebody else ends here.
        let terms = claims.check(&self.config, now, jwt.header.is_access_token)?;
        let keys = keys.ok_or(Fault::NoKeys)?;
        let how = (jwt.header.algorithm, jwt.header.key_id.as_deref());
        let revocation = keys.verify(how, jwt.signed, &jwt.signature)?;
        let principal = claims.grant(&self.config)?;
        let left = terms.expires.saturating_add(LEEWAY_SECS).saturating_sub(now);
        let ends = Instant::now().checked_add(Duration::from_secs(left));
        let caller = Caller::until(principal, revocation, ends);
        Ok(Verified { caller, ends: now.saturating_add(left.min(LONGEST_SECS)), reach: terms.reach })
    }

    /// Waits for keys that may be news, if there may be any; whether there were.
    pub(super) async fn news(&self) -> bool {
        !matches!(self.config.keys, Source::File(_)) && self.keyring.news(&self.config.pace).await
    }

    /// Keeps the keys fresh, for ever.
    pub(super) async fn keep_fresh(&self) {
        if matches!(self.config.keys, Source::File(_)) {
            return std::future::pending().await;
        }
        self.keyring.keep_fresh(&self.config).await;
    }
}

/// How long a token is known at most before it is verified again: a day, whatever it says. What it opened stands as long as it
/// says.
const LONGEST_SECS: u64 = 86_400;
