//! Tokens of an authorization server: this gateway as an OAuth 2.1 resource server.
//!
//! ```text
//! token ─▶ known? ─▶ shape ─▶ claims ─▶ key ─▶ signature ─▶ principal, scopes ─▶ Caller, until it runs out
//!            │                           ▲
//!            └─ by digest: no crypto     └── keys: fetched in the background, kept while the issuer is away
//! ```
//! Guarantees: a token is valid only with the signature of a key of the one issuer, with this gateway as its audience,
//! within its time, and as long as the issuer publishes that key. A valid token is verified once and then known; an invalid
//! one is checked each time, its claims before its signature. How often the issuer is asked does not depend on the number
//! of tokens. It must not know HTTP answers (`auth/denied.rs`), nor what principals may do.
// MCP 2025-06-18, 2025-11-25 and 2026-07-28 basic/authorization; RFC 6750, RFC 8707, RFC 9068, RFC 9728

mod claims;
mod issuer;
pub(super) mod jwt;
mod keyring;
mod keys;
mod metrics;
mod resource;
#[cfg(test)]
pub(crate) mod tests;
mod verified_tokens;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use self::claims::{Claims, LEEWAY_SECS};
use self::jwt::Jwt;
use self::keyring::Keyring;
use self::verified_tokens::{Verified, VerifiedTokens, digest_of};
use super::denied::AuthError;
use crate::call::Caller;
use crate::ops::unix_time::now_unix_secs;

pub(super) use self::keyring::KeySet;

pub use self::claims::PREFIX;
pub use self::issuer::{Issuer, KeysUrl, NoKeys, Source};
pub use self::keys::Keys;
pub use self::metrics::Metrics;
pub use self::resource::{Resource, WELL_KNOWN};

/// Which tokens are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The URI of this gateway: the audience of tokens.
    pub resource: Resource,
    /// The authorization server that issues tokens.
    pub issuer: Issuer,
    /// Where its keys are.
    pub keys: Source,
    /// Further accepted audiences, for issuers that cannot put `resource` into their tokens.
    pub audience: Vec<String>,
    /// The scopes that every token must have.
    pub scopes: Vec<String>,
    /// The claim that names the principal.
    pub principal: String,
    /// A file of certificates to trust in addition to those of the system, for fetching keys.
    pub authorities: Option<PathBuf>,
    /// How many verified tokens are remembered. 10,000: as many as sessions.
    pub tokens: usize,
    /// How keys are fetched.
    pub pace: Pace,
}

/// When keys are fetched, and how long they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How often keys are fetched. 10 min: a withdrawn key is not accepted any longer than that.
    pub period: Duration,
    /// The shortest time between two fetches, whatever tokens come. 30 s: issuers publish a key minutes before they use it.
    pub between: Duration,
    /// The longest that a request waits for keys that are being fetched. 3 s: shorter than clients wait for the first byte,
    /// and longer than an issuer takes that answers at all.
    pub wait: Duration,
    /// How long keys stay in force while the issuer cannot be reached. 24 h: long enough to repair an outage; and whoever cuts
    /// the connection to the issuer can keep a withdrawn key alive no longer than that.
    pub oldest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self { period: secs(600), between: secs(30), wait: secs(3), oldest: secs(86_400) }
    }
}

impl Config {
    /// Accepts tokens of `issuer` for `resource`, with defaults for the rest.
    pub fn new(resource: Resource, issuer: Issuer) -> Self {
        Self {
            resource,
            issuer,
            keys: Source::Discovered,
            audience: Vec::new(),
            scopes: Vec::new(),
            principal: "sub".to_owned(),
            authorities: None,
            tokens: 10_000,
            pace: Pace::default(),
        }
    }

    /// The metadata that tells clients where to get tokens, for the endpoint at this path or for the gateway.
    // RFC 9728 §2
    pub(super) fn metadata(&self, path: Option<&str>) -> String {
        // RFC 9728 §3.3: exactly the URI that the well-known string was inserted into
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

/// Authenticates callers by the tokens of one issuer.
#[derive(Debug)]
pub(super) struct Authority {
    pub(super) config: Config,
    keyring: Arc<Keyring>,
    known: Arc<VerifiedTokens>,
}

impl Config {
    /// Whether it accepts the same tokens as `other`, for the same endpoints and principals.
    fn accepts_like(&self, other: &Self) -> bool {
        let rules = |config: &Self| {
            let Self { resource, issuer, audience, scopes, principal, .. } = config.clone();
            (resource, issuer, audience, scopes, principal)
        };
        rules(self) == rules(other)
    }

    fn has_key_source_of(&self, other: &Self) -> bool {
        let places = (&self.issuer, &self.authorities) == (&other.issuer, &other.authorities);
        places && self.keys.is_place_of(&other.keys)
    }
}

impl Authority {
    pub(super) fn new(config: Config, metrics: Metrics) -> Self {
        let known = Arc::new(VerifiedTokens::new(config.tokens, metrics.forgotten.clone()));
        Self { keyring: Arc::new(Keyring::new(&config.keys, metrics)), known, config }
    }

    /// The authority for a changed configuration. Callers stay valid if the rules for tokens are the same and the keys that
    /// signed their tokens are still published. Keys from the same place stay.
    pub(super) fn reconfigured(self: &Arc<Self>, config: Config, metrics: Metrics) -> Arc<Self> {
        if self.config == config {
            return self.clone();
        }
        let accepts_same = config.accepts_like(&self.config);
        if !accepts_same {
            self.revoke();
        }
        let known = if accepts_same {
            self.known.clone()
        } else {
            Arc::new(VerifiedTokens::new(config.tokens, metrics.forgotten.clone()))
        };
        let keyring = if config.has_key_source_of(&self.config) {
            self.keyring.clone()
        } else {
            Arc::new(Keyring::after(&self.keyring, &config.keys))
        };
        if let Source::File(keys) = &config.keys {
            keyring.take(keys.clone());
        }
        Arc::new(Self { config, keyring, known })
    }

    /// Revokes all its callers.
    pub(super) fn revoke(&self) {
        self.keyring.revoke();
    }

    /// Updates the gauges of keys.
    pub(super) fn update_gauges(&self) {
        self.keyring.update_gauges();
    }

    /// The keys that tokens are verified with now.
    pub(super) fn keys(&self) -> Option<Arc<KeySet>> {
        self.keyring.in_force()
    }

    /// The caller of a token, if the token is valid at the endpoint of `server`, or at that of all servers without one.
    /// Verifies with `keys` and not with those in force now: an authority that was replaced meanwhile has revoked what its
    /// keys signed, and must not accept tokens by newer keys.
    pub(super) fn caller_by(
        &self,
        keys: Option<&KeySet>,
        token: &[u8],
        server: Option<&str>,
    ) -> Result<Caller, AuthError> {
        let (digest, now) = (digest_of(token), now_unix_secs());
        if let Some((caller, counts)) = self.known.find(&digest, server, now) {
            return if counts { Ok(caller) } else { Err(AuthError::Audience) };
        }
        let verified = self.verify(token, keys, now)?;
        let (caller, counts) = (verified.caller.clone(), verified.reach.covers(server));
        self.known.put(digest, verified);
        match counts {
            _ if caller.is_over() => Err(AuthError::Key), // the key was withdrawn meanwhile
            true => Ok(caller),
            false => Err(AuthError::Audience),
        }
    }

    fn verify(&self, token: &[u8], keys: Option<&KeySet>, now: u64) -> Result<Verified, AuthError> {
        let jwt = Jwt::parse(token)?;
        let claims = Claims(&jwt.claims);
        // Before the signature, which costs more: expired tokens and those for others end here.
        let checked = claims.check(&self.config, now, jwt.header.is_access_token)?;
        let keys = keys.ok_or(AuthError::NoKeys)?;
        let how = (jwt.header.algorithm, jwt.header.key_id.as_deref());
        let revocation = keys.verify(how, jwt.signed, &jwt.signature)?;
        let principal = claims.grant(&self.config)?;
        let left = checked.expires.saturating_add(LEEWAY_SECS).saturating_sub(now);
        let ends = Instant::now().checked_add(Duration::from_secs(left));
        let caller = Caller::until(principal, revocation, ends);
        Ok(Verified { caller, ends: now.saturating_add(left.min(LONGEST_SECS)), reach: checked.reach })
    }

    /// Waits for new keys, if there may be any. Returns whether keys were fetched.
    pub(super) async fn wait_for_new_keys(&self) -> bool {
        !matches!(self.config.keys, Source::File(_))
            && self.keyring.wait_for_new_keys(&self.config.pace).await
    }

    /// Keeps the keys fresh; never returns.
    pub(super) async fn keep_fresh(&self) {
        if matches!(self.config.keys, Source::File(_)) {
            return std::future::pending().await;
        }
        self.keyring.keep_fresh(&self.config).await;
    }
}

/// How long a verified token is remembered at most: a day, whatever its expiry. What it opened lasts until its expiry.
const LONGEST_SECS: u64 = 86_400;
