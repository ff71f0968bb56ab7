//! Authenticates requests: headers in, a [`Caller`] or a refusal with its challenge out.
//!
//! Bearer tokens only, and only from the `Authorization` header. Every configured token is compared on every request, in
//! constant time, so that neither a token nor its place in the list can be found by timing. Any other token may be one of
//! an authorization server ([`oauth`]). It must not know what a caller may do, nor the HTTP answer to a refusal (`front`).

mod denied;
pub mod oauth;
mod secret;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderMap};
use parking_lot::RwLock;
use subtle::{Choice, ConditionallySelectable};
use tokio::sync::watch;

use self::denied::AuthError;
use self::oauth::jwt::Jwt;
use self::oauth::{Authority, KeySet};
use crate::call::Caller;
use crate::ops::drain::DrainWatch;

pub use denied::{Denied, Metrics};
pub use secret::Secret;

/// Who is accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The configured tokens; several, so that one can be replaced while the old one still works.
    pub tokens: Vec<Token>,
    /// The authorization server whose tokens are accepted as well.
    pub oauth: Option<oauth::Config>,
    /// Accepts everybody as [`ANONYMOUS`] if there is neither a token nor an authorization server. Off by default, because a
    /// gateway gives access to whatever its servers can do.
    pub allow_unauthenticated: bool,
}

/// One valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What the client presents.
    pub secret: Secret,
    /// The principal it stands for: isolation, limits and logs use it.
    pub principal: String,
}

impl Config {
    /// Whether there are credentials that can be presented.
    pub fn asks(&self) -> bool {
        !self.tokens.is_empty() || self.oauth.is_some()
    }
}

/// The endpoint of a request.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// Its path as clients know it, under which they look for metadata. In two parts, joined only for a refusal.
    pub path: [&'a str; 2],
    /// Its server, if it is the endpoint of a single server.
    pub server: Option<&'a str>,
}

/// The principal of everybody where no credentials are required.
pub const ANONYMOUS: &str = "anonymous";

/// Maps credentials to callers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Authenticator {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    credentials: RwLock<Credentials>,
    /// The authority of `credentials`, for the task that keeps its keys fresh.
    authority: watch::Sender<Option<Arc<Authority>>>,
    metrics: Metrics,
}

/// The credentials that are accepted.
#[derive(Debug)]
struct Credentials {
    tokens: Vec<(Secret, Caller)>,
    authority: Option<Arc<Authority>>,
    names: PrincipalSource,
    /// The caller of requests without credentials; `None` refuses them.
    anonymous: Option<Caller>,
}

impl Authenticator {
    /// Accepts the callers of `config`.
    pub fn new(config: Config) -> Self {
        let metrics = Metrics::default();
        let credentials = Credentials::of(config, &metrics);
        let authority = watch::Sender::new(credentials.authority.clone());
        Self { shared: Arc::new(Shared { credentials: RwLock::new(credentials), authority, metrics }) }
    }

    /// The key of `config` that may change only with a restart, if it changed. State is kept under the names of principals,
    /// and the same name may be another person at another issuer, or in another claim.
    pub fn restart_only_change(&self, config: &Config) -> Option<&'static str> {
        let credentials = self.shared.credentials.read();
        credentials.names.differs(config.oauth.as_ref())
    }

    /// Accepts the callers of `config` from now on. Callers whose credentials are no longer in it are revoked.
    pub fn replace(&self, config: Config) {
        let mut credentials = self.shared.credentials.write();
        let mut next = Credentials::of(config, &self.shared.metrics);
        next.inherit_from(&credentials, &self.shared.metrics);
        let before = std::mem::replace(&mut *credentials, next);
        let now = credentials.authority.clone();
        drop(credentials);
        drop(before);
        self.shared.authority.send_if_modified(|current| {
            // An authority that stays is not disturbed.
            let is_other = current.as_ref().map(Arc::as_ptr) != now.as_ref().map(Arc::as_ptr);
            if is_other {
                match &now {
                    Some(authority) => authority.update_gauges(),
                    None => self.shared.metrics.oauth.set_keys(0, 0),
                }
                *current = now;
            }
            is_other
        });
    }

    /// Keeps the keys of the configured authorization server fresh until the process stops.
    pub async fn keep_fresh(self, drain: DrainWatch) {
        let mut current = self.shared.authority.subscribe();
        loop {
            let authority = current.borrow_and_update().clone();
            let fresh = async {
                match &authority {
                    Some(authority) => authority.keep_fresh().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = fresh => return,
                changed = current.changed() => if changed.is_err() { return },
                () = drain.stopping() => return,
            }
        }
    }

    /// The caller of a request with these headers at this endpoint.
    ///
    /// # Errors
    /// The refusal: no valid token was sent.
    pub async fn authenticate(&self, headers: &HeaderMap, at: Endpoint<'_>) -> Result<Caller, Denied> {
        let error = match self.decide(headers, at) {
            Ok(caller) => return Ok(caller),
            // The issuer may have a key for it that was not fetched yet, possibly under a known key id.
            Err(AuthError::Key | AuthError::NoKeys | AuthError::Signature)
                if self.wait_for_new_keys().await =>
            {
                match self.decide(headers, at) {
                    Ok(caller) => return Ok(caller),
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        self.shared.metrics.count(error);
        // Joined only here: successful requests do not need the path.
        let (authority, path) = (self.authority(), at.path.concat());
        Err(Denied::new(error, authority.as_deref().map(|authority| (&authority.config, path.as_str()))))
    }

    /// Whether there is metadata that tells clients where to get tokens.
    pub fn has_metadata(&self) -> bool {
        self.authority().is_some()
    }

    /// The metadata that tells clients where to get tokens (RFC 9728), for an endpoint or the whole gateway. `is_endpoint` says
    /// whether a path is an endpoint.
    pub fn metadata(&self, path: &str, is_endpoint: impl FnOnce(&str) -> bool) -> Option<String> {
        let authority = self.authority()?;
        let config = &authority.config;
        let own = config.resource.own_path(path);
        if own.is_empty() {
            return Some(config.metadata(None));
        }
        is_endpoint(own).then(|| config.metadata(Some(own)))
    }

    fn decide(&self, headers: &HeaderMap, at: Endpoint<'_>) -> Result<Caller, AuthError> {
        let resolved = self.find(headers)?.resolve(at);
        // A reload meanwhile revokes what was just resolved, although the token may still be valid.
        if matches!(resolved, Err((AuthError::Key, ref by)) if self.authority().is_none_or(|now| !Arc::ptr_eq(by, &now)))
        {
            return self.find(headers)?.resolve(at).map_err(|(error, _)| error);
        }
        resolved.map_err(|(error, _)| error)
    }

    /// Looks the token up. Does not verify a signature: under the lock that would delay a reload, and with it every other
    /// request.
    fn find<'h>(&self, headers: &'h HeaderMap) -> Result<Lookup<'h>, AuthError> {
        let credentials = self.shared.credentials.read();
        if let Some(anonymous) = &credentials.anonymous {
            return Ok(Lookup::Caller(anonymous.clone()));
        }
        match presented(headers) {
            Presented::Nothing => Err(AuthError::Missing),
            Presented::Ambiguous => Err(AuthError::Ambiguous),
            Presented::Token(token) => match (credentials.of_token(token), &credentials.authority) {
                (Some(caller), _) => Ok(Lookup::Caller(caller.clone())),
                (None, Some(authority)) if Jwt::looks_like(token) => {
                    Ok(Lookup::Signed { token, keys: authority.keys(), by: authority.clone() })
                }
                (None, _) => Err(AuthError::Unknown),
            },
        }
    }

    async fn wait_for_new_keys(&self) -> bool {
        match self.authority() {
            Some(authority) => authority.wait_for_new_keys().await,
            None => false,
        }
    }

    fn authority(&self) -> Option<Arc<Authority>> {
        self.shared.credentials.read().authority.clone()
    }

    /// The issuer whose tokens are accepted.
    pub fn issuer(&self) -> Option<String> {
        self.authority().map(|authority| authority.config.issuer.as_str().to_owned())
    }

    /// The metrics of this room.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }
}

/// Where the names of principals come from: the first issuer of this process, and the claim in its tokens.
#[derive(Clone, Debug, Default)]
struct PrincipalSource(Option<(oauth::Issuer, String)>);

impl PrincipalSource {
    fn of(config: Option<&oauth::Config>) -> Self {
        Self(config.map(|config| (config.issuer.clone(), config.principal.clone())))
    }

    /// The key that changes where names come from, if it differs.
    fn differs(&self, config: Option<&oauth::Config>) -> Option<&'static str> {
        let (Some((issuer, principal)), Some(config)) = (&self.0, config) else { return None };
        if *issuer != config.issuer {
            return Some("auth.oauth.issuer");
        }
        (*principal != config.principal).then_some("auth.oauth.principal")
    }
}

impl Credentials {
    fn of(config: Config, metrics: &Metrics) -> Self {
        let is_open = !config.asks() && config.allow_unauthenticated;
        let anonymous = is_open.then(|| Caller::new(ANONYMOUS));
        let names = PrincipalSource::of(config.oauth.as_ref());
        let authority = |config| Arc::new(Authority::new(config, metrics.oauth.clone()));
        let authority = config.oauth.map(authority);
        let tokens = config.tokens.into_iter().map(|t| (t.secret, Caller::new(t.principal))).collect();
        Self { tokens, authority, names, anonymous }
    }

    /// Keeps the callers whose credentials are in both, and revokes the others of `before`.
    fn inherit_from(&mut self, before: &Self, metrics: &Metrics) {
        for known in &before.tokens {
            match self.tokens.iter_mut().find(|token| *token == known) {
                Some(token) => token.1.clone_from(&known.1),
                None => known.1.revoke(),
            }
        }
        match (&mut self.anonymous, &before.anonymous) {
            (Some(now), Some(known)) => now.clone_from(known),
            (None, Some(known)) => known.revoke(),
            (_, None) => {}
        }
        match (&mut self.authority, &before.authority) {
            (Some(now), Some(known)) => *now = known.reconfigured(now.config.clone(), metrics.oauth.clone()),
            (None, Some(known)) => known.revoke(),
            (_, None) => {}
        }
        if before.names.0.is_some() {
            self.names = before.names.clone(); // also if there was no authority for a while
        }
    }

    /// Compares with every token, whichever matches, so that the time does not reveal the place of the match.
    fn of_token(&self, token: &[u8]) -> Option<&Caller> {
        let mut found = NOBODY;
        for (number, (secret, _)) in (0_u64..).zip(&self.tokens) {
            let same: Choice = secret.matches(token);
            found.conditional_assign(&number, same);
        }
        let place = usize::try_from(found).ok()?;
        self.tokens.get(place).map(|(_, caller)| caller)
    }
}

/// The caller of a token, or what is needed to verify it: the keys in force at the lookup, and their authority.
enum Lookup<'h> {
    Caller(Caller),
    Signed { token: &'h [u8], keys: Option<Arc<KeySet>>, by: Arc<Authority> },
}

impl Lookup<'_> {
    fn resolve(self, at: Endpoint<'_>) -> Result<Caller, (AuthError, Arc<Authority>)> {
        match self {
            Self::Caller(caller) => Ok(caller),
            Self::Signed { token, keys, by } => {
                by.caller_by(keys.as_deref(), token, at.server).map_err(|error| (error, by))
            }
        }
    }
}

enum Presented<'a> {
    Nothing,
    Token(&'a [u8]),
    Ambiguous,
}

/// The bearer token of a request. Never from the query string, where it would end up in logs
/// (MCP 2025-11-25 authorization, Token Requirements).
fn presented(headers: &HeaderMap) -> Presented<'_> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Presented::Nothing };
    if values.next().is_some() {
        return Presented::Ambiguous; // two parsers could pick different ones
    }
    // RFC 9110 §11.1: the scheme is case-insensitive; §11.4: one space or more follow it.
    match value.as_bytes().split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) && rest.first() == Some(&b' ') => {
            Presented::Token(rest.trim_ascii())
        }
        _ => Presented::Nothing,
    }
}

const SCHEME: &[u8] = b"Bearer";
/// No token has this place in the list.
const NOBODY: u64 = u64::MAX;
