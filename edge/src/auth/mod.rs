//! Who the credentials say you are: request headers in, a [`Caller`] or a refusal with its challenge out.
//!
//! Bearer tokens only, and only from the `Authorization` header. Every configured token is compared on every
//! request, in constant time, so that neither a token nor its place in the list can be found by timing. What is none of
//! them may be one of an authorization server ([`oauth`]). What is not here: what a caller may do, and the HTTP answer to
//! a refusal (`front`).

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

use self::denied::Fault;
use self::oauth::jwt::Jwt;
use self::oauth::{Authority, Set};
use crate::call::Caller;
use crate::ops::drain::DrainWatch;

pub use denied::{Denied, Metrics};
pub use secret::Secret;

/// Who may come in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Tokens that are valid now; several, so that one can be replaced while the old one still works.
    pub tokens: Vec<Token>,
    /// The authorization server whose tokens are taken beside them.
    pub oauth: Option<oauth::Config>,
    /// With neither: take everybody as [`ANONYMOUS`]. Off, because a gateway hands out whatever its
    /// servers can do. Without effect when there is one of them.
    pub allow_unauthenticated: bool,
}

/// One valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What the client presents.
    pub secret: Secret,
    /// The name it stands for: isolation, limits and logs go by it.
    pub principal: String,
}

impl Config {
    /// Whether somebody can show that he may come in.
    pub fn asks(&self) -> bool {
        !self.tokens.is_empty() || self.oauth.is_some()
    }
}

/// The endpoint that a request came to.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'a> {
    /// Its path, as clients know it: what they look for metadata of. In two parts, put together for whoever is refused.
    pub path: [&'a str; 2],
    /// The only server it leads to.
    pub server: Option<&'a str>,
}

/// The principal of everybody when nothing is asked for.
pub const ANONYMOUS: &str = "anonymous";

/// Maps credentials to callers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Authenticator {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    holders: RwLock<Holders>,
    /// The authority among them, for whoever keeps its keys fresh.
    authority: watch::Sender<Option<Arc<Authority>>>,
    metrics: Metrics,
}

/// Who holds what.
#[derive(Debug)]
struct Holders {
    tokens: Vec<(Secret, Caller)>,
    authority: Option<Arc<Authority>>,
    names: Names,
    /// Whoever comes without a token that counts; `None` refuses them.
    anonymous: Option<Caller>,
}

impl Authenticator {
    /// Takes callers as `config` says.
    pub fn new(config: Config) -> Self {
        let metrics = Metrics::default();
        let holders = Holders::of(config, &metrics);
        let authority = watch::Sender::new(holders.authority.clone());
        Self { shared: Arc::new(Shared { holders: RwLock::new(holders), authority, metrics }) }
    }

    /// The key of a configuration that must not be taken while this serves: a principal is a name of one issuer, and what
    /// is kept by it here would become somebody else's who is called the same by another.
    pub fn renames(&self, config: &Config) -> Option<&'static str> {
        let holders = self.shared.holders.read();
        holders.names.differs(config.oauth.as_ref())
    }

    /// Takes callers as `config` says from now on. Who came with what is not in it is revoked.
    pub fn replace(&self, config: Config) {
        let mut holders = self.shared.holders.write();
        let mut next = Holders::of(config, &self.shared.metrics);
        next.take_over(&holders, &self.shared.metrics);
        let before = std::mem::replace(&mut *holders, next);
        let now = holders.authority.clone();
        drop(holders);
        drop(before);
        self.shared.authority.send_if_modified(|current| {
            // One that goes on is left in peace.
            let is_other = current.as_ref().map(Arc::as_ptr) != now.as_ref().map(Arc::as_ptr);
            if is_other {
                match &now {
                    Some(authority) => authority.show(),
                    None => self.shared.metrics.oauth.has(0, 0),
                }
                *current = now;
            }
            is_other
        });
    }

    /// Keeps the keys of the authorization server fresh, whichever is configured, until the process stops.
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
    /// The refusal: no token was sent, or none that counts.
    pub async fn authenticate(&self, headers: &HeaderMap, at: Endpoint<'_>) -> Result<Caller, Denied> {
        let fault = match self.decide(headers, at) {
            Ok(caller) => return Ok(caller),
            // The issuer may have a key for it that nobody has fetched yet, also under a name that is known.
            Err(Fault::Key | Fault::NoKeys | Fault::Signature) if self.news().await => {
                match self.decide(headers, at) {
                    Ok(caller) => return Ok(caller),
                    Err(fault) => fault,
                }
            }
            Err(fault) => fault,
        };
        self.shared.metrics.count(fault);
        // Only here the path is needed.
        let (authority, path) = (self.authority(), at.path.concat());
        Err(Denied::new(fault, authority.as_deref().map(|authority| (&authority.config, path.as_str()))))
    }

    /// Whether there is more to say to whoever comes without a token than that he needs one.
    pub fn has_metadata(&self) -> bool {
        self.authority().is_some()
    }

    /// What clients read to learn where tokens are to be had (RFC 9728), for an endpoint of ours or the whole gateway;
    /// `is_endpoint` tells whether a path is one.
    pub fn metadata(&self, path: &str, is_endpoint: impl FnOnce(&str) -> bool) -> Option<String> {
        let authority = self.authority()?;
        let config = &authority.config;
        let own = config.resource.own_path(path);
        if own.is_empty() {
            return Some(config.metadata(None));
        }
        is_endpoint(own).then(|| config.metadata(Some(own)))
    }

    fn decide(&self, headers: &HeaderMap, at: Endpoint<'_>) -> Result<Caller, Fault> {
        let told = self.find(headers)?.tell(at);
        // A reload in the middle of it takes back what was just told, although the token may count as before.
        if matches!(told, Err((Fault::Key, ref by)) if self.authority().is_none_or(|now| !Arc::ptr_eq(by, &now)))
        {
            return self.find(headers)?.tell(at).map_err(|(fault, _)| fault);
        }
        told.map_err(|(fault, _)| fault)
    }

    /// What can be told without verifying a signature: under the lock that would keep a reload waiting, and with it every
    /// other request.
    fn find<'h>(&self, headers: &'h HeaderMap) -> Result<Found<'h>, Fault> {
        let holders = self.shared.holders.read();
        if let Some(anonymous) = &holders.anonymous {
            return Ok(Found::Caller(anonymous.clone()));
        }
        match presented(headers) {
            Presented::Nothing => Err(Fault::Missing),
            Presented::Ambiguous => Err(Fault::Ambiguous),
            Presented::Token(token) => match (holders.of_token(token), &holders.authority) {
                (Some(caller), _) => Ok(Found::Caller(caller.clone())),
                (None, Some(authority)) if Jwt::is_shape_of(token) => {
                    Ok(Found::Signed { token, keys: authority.keys(), by: authority.clone() })
                }
                (None, _) => Err(Fault::Unknown),
            },
        }
    }

    async fn news(&self) -> bool {
        match self.authority() {
            Some(authority) => authority.news().await,
            None => false,
        }
    }

    fn authority(&self) -> Option<Arc<Authority>> {
        self.shared.holders.read().authority.clone()
    }

    /// Whose tokens are taken.
    pub fn issuer(&self) -> Option<String> {
        self.authority().map(|authority| authority.config.issuer.as_str().to_owned())
    }

    /// Refusals counted here.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }
}

/// Whose names the principals of tokens are: of the first issuer of this process, in its claim.
#[derive(Clone, Debug, Default)]
struct Names(Option<(oauth::Issuer, String)>);

impl Names {
    fn of(config: Option<&oauth::Config>) -> Self {
        Self(config.map(|config| (config.issuer.clone(), config.principal.clone())))
    }

    /// The key by which names would be those of others.
    fn differs(&self, config: Option<&oauth::Config>) -> Option<&'static str> {
        let (Some((issuer, principal)), Some(config)) = (&self.0, config) else { return None };
        if *issuer != config.issuer {
            return Some("auth.oauth.issuer");
        }
        (*principal != config.principal).then_some("auth.oauth.principal")
    }
}

impl Holders {
    fn of(config: Config, metrics: &Metrics) -> Self {
        let is_open = !config.asks() && config.allow_unauthenticated;
        let anonymous = is_open.then(|| Caller::new(ANONYMOUS));
        let names = Names::of(config.oauth.as_ref());
        let authority = |config| Arc::new(Authority::new(config, metrics.oauth.clone()));
        let authority = config.oauth.map(authority);
        let tokens = config.tokens.into_iter().map(|t| (t.secret, Caller::new(t.principal))).collect();
        Self { tokens, authority, names, anonymous }
    }

    /// Callers of whom both say the same are the same; the others of `before` are revoked.
    fn take_over(&mut self, before: &Self, metrics: &Metrics) {
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
            (Some(now), Some(known)) => *now = known.becoming(now.config.clone(), metrics.oauth.clone()),
            (None, Some(known)) => known.revoke(),
            (_, None) => {}
        }
        if before.names.0.is_some() {
            self.names = before.names.clone(); // also after a time without any
        }
    }

    /// Compares with every token, whichever matches: no early end that time would tell of.
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

/// Whoever presents a token, or who can tell, by the keys in force when it was looked for.
enum Found<'h> {
    Caller(Caller),
    Signed { token: &'h [u8], keys: Option<Arc<Set>>, by: Arc<Authority> },
}

impl Found<'_> {
    fn tell(self, at: Endpoint<'_>) -> Result<Caller, (Fault, Arc<Authority>)> {
        match self {
            Self::Caller(caller) => Ok(caller),
            Self::Signed { token, keys, by } => {
                by.caller_by(keys.as_deref(), token, at.server).map_err(|fault| (fault, by))
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
        return Presented::Ambiguous; // two parsers could take a different one
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
