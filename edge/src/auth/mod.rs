//! Who the credentials say you are: request headers in, a [`Caller`] or a refusal with its challenge out.
//!
//! Bearer tokens only, and only from the `Authorization` header. Every configured token is compared on every
//! request, in constant time, so that neither a token nor its place in the list can be found by timing. What
//! is not here: what a caller may do, and the HTTP answer to a refusal (`front`).

mod secret;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use subtle::{Choice, ConditionallySelectable};

use crate::call::Caller;
use crate::ops::metrics::words;

pub use secret::Secret;

/// Who may come in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Tokens that are valid now; several, so that one can be replaced while the old one still works.
    pub tokens: Vec<Token>,
    /// With no tokens: take everybody as [`ANONYMOUS`]. Off, because a gateway hands out whatever its
    /// servers can do. Without effect when there are tokens.
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
    metrics: Metrics,
}

/// Who holds what.
#[derive(Debug)]
struct Holders {
    tokens: Vec<(Secret, Caller)>,
    /// Whoever comes without a token that counts; `None` refuses them.
    anonymous: Option<Caller>,
}

/// A request without credentials that hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unauthorized {
    /// The value of `WWW-Authenticate`; a 401 carries it (RFC 9110 §11.6.1).
    pub challenge: HeaderValue,
    /// One sentence for the person who set up the client.
    pub message: &'static str,
}

impl Authenticator {
    /// Takes callers as `config` says.
    pub fn new(config: Config) -> Self {
        let holders = RwLock::new(Holders::of(config));
        Self { shared: Arc::new(Shared { holders, metrics: Metrics::default() }) }
    }

    /// Takes callers as `config` says from now on. Who came with what is not in it is revoked.
    pub fn replace(&self, config: Config) {
        let mut next = Holders::of(config);
        let mut holders = self.shared.holders.write().unwrap_or_else(PoisonError::into_inner);
        next.take_over(&holders);
        *holders = next;
    }

    /// The caller of a request with these headers.
    ///
    /// # Errors
    /// The refusal: no token was sent, or none that is configured.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, Unauthorized> {
        let holders = self.shared.holders.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(anonymous) = &holders.anonymous {
            return Ok(anonymous.clone());
        }
        let refusal = match presented(headers) {
            Presented::Nothing => Refusal::Missing,
            Presented::Ambiguous => Refusal::Ambiguous,
            Presented::Token(token) => match holders.of_token(token) {
                Some(caller) => return Ok(caller.clone()),
                None => Refusal::Unknown,
            },
        };
        self.shared.metrics.count(refusal);
        Err(refusal.into())
    }

    /// Refusals counted here.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }
}

impl Holders {
    fn of(config: Config) -> Self {
        let anonymous =
            (config.tokens.is_empty() && config.allow_unauthenticated).then(|| Caller::new(ANONYMOUS));
        let tokens = config.tokens.into_iter().map(|t| (t.secret, Caller::new(t.principal))).collect();
        Self { tokens, anonymous }
    }

    /// Callers of whom both say the same are the same; the others of `before` are revoked.
    fn take_over(&mut self, before: &Self) {
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

/// How often credentials were refused.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    refused: Family<RefusalLabel, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabel {
    reason: Refusal,
}

impl Metrics {
    /// Registers under the process's prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "auth_refused",
            "Requests without valid credentials; a rise after a rotation names clients left with an old token",
            self.refused.clone(),
        );
    }

    fn count(&self, reason: Refusal) {
        self.refused.get_or_create(&RefusalLabel { reason }).inc();
    }
}

/// Why credentials were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Refusal {
    Missing,
    Ambiguous,
    Unknown,
}

words!(Refusal { Missing => "missing", Ambiguous => "ambiguous", Unknown => "unknown" });

impl From<Refusal> for Unauthorized {
    fn from(refusal: Refusal) -> Self {
        // RFC 6750 §3: the scheme is followed by at least one parameter; §3.1: no error code when the request
        // carried no token at all.
        let (challenge, message) = match refusal {
            Refusal::Missing => (REALM, "this endpoint wants the header `Authorization: Bearer <token>`"),
            Refusal::Ambiguous => (INVALID, "send exactly one `Authorization` header"),
            Refusal::Unknown => (INVALID, "the bearer token is not valid here; check that it is current"),
        };
        Self { challenge: HeaderValue::from_static(challenge), message }
    }
}

impl fmt::Display for Unauthorized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl std::error::Error for Unauthorized {}

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
const REALM: &str = r#"Bearer realm="mcp-edge""#;
const INVALID: &str = r#"Bearer realm="mcp-edge", error="invalid_token""#;
/// No token has this place in the list.
const NOBODY: u64 = u64::MAX;
