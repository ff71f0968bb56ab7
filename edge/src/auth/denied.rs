//! Why credentials are refused, how a client is told, and how often that happened.

use std::fmt;

use http::StatusCode;
use http::header::HeaderValue;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::oauth;
use crate::ops::metrics::words;

/// The refusal of a request without valid or sufficient credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// 401, 403, 400 for an ambiguous request, or 503 while the keys of the issuer are not known.
    pub status: StatusCode,
    /// The value of `WWW-Authenticate`; `None` where other credentials would not help.
    pub challenge: Option<HeaderValue>,
    /// When to try again, where that helps.
    pub retry_after_secs: Option<u64>,
    /// One sentence for the person who set up the client.
    pub message: &'static str,
}

/// Why credentials were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum AuthError {
    Missing,
    Ambiguous,
    /// Not a configured token, and not shaped like a token of an issuer.
    Unknown,
    // The following are about tokens of an issuer (`oauth`).
    /// Not a readable JWT.
    Malformed,
    Type,
    Algorithm,
    Issuer,
    Audience,
    Expired,
    NotYet,
    /// No key with its id is known.
    Key,
    /// No key at all is known.
    NoKeys,
    Signature,
    Principal,
    Scope,
}

words!(AuthError {
    Missing => "missing",
    Ambiguous => "ambiguous",
    Unknown => "unknown",
    Malformed => "malformed",
    Type => "type",
    Algorithm => "algorithm",
    Issuer => "issuer",
    Audience => "audience",
    Expired => "expired",
    NotYet => "not_yet",
    Key => "key",
    NoKeys => "no_keys",
    Signature => "signature",
    Principal => "principal",
    Scope => "scope",
});

impl AuthError {
    fn message(self) -> &'static str {
        match self {
            Self::Missing => "this endpoint requires the header `Authorization: Bearer <token>`",
            Self::Ambiguous => "send exactly one `Authorization` header",
            Self::Unknown => "the bearer token is not valid here; check that it is current",
            Self::Malformed => "the token is not a readable JWT",
            Self::Type => {
                "the token is not an access token, or it is bound to a key of its client (DPoP, mTLS)"
            }
            Self::Algorithm => "the token is signed with an algorithm that is not accepted here",
            Self::Issuer => "the token is from another issuer",
            Self::Audience => "the token is for another audience",
            Self::Expired => "the token has expired",
            Self::NotYet => "the token is not valid yet",
            Self::Key => "the token is signed with a key that its issuer does not publish",
            Self::NoKeys => "the issuer's keys are not available yet; try again",
            Self::Signature => "the signature of the token is wrong",
            Self::Principal => "the token does not name its user in a usable claim",
            Self::Scope => "the token lacks a required scope",
        }
    }

    /// The error code of the challenge.
    // RFC 6750 §3.1: none when the request carried no token at all
    fn code(self) -> Option<&'static str> {
        match self {
            Self::Missing => None,
            Self::Ambiguous => Some("invalid_request"),
            Self::Scope => Some("insufficient_scope"),
            _ => Some("invalid_token"),
        }
    }
}

impl Denied {
    /// The refusal for `error`. `at` is the path of the endpoint, with the authorization server for its tokens.
    pub(super) fn new(error: AuthError, at: Option<(&oauth::Config, &str)>) -> Self {
        let message = error.message();
        if error == AuthError::NoKeys {
            // Not 401: a client would send its user to log in, for a token that cannot be verified either.
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Self { status, challenge: None, retry_after_secs: Some(AGAIN_SECS), message };
        }
        // RFC 6750 §3.1
        let status = match error {
            AuthError::Scope => StatusCode::FORBIDDEN,
            AuthError::Ambiguous => StatusCode::BAD_REQUEST,
            _ => StatusCode::UNAUTHORIZED,
        };
        // RFC 6750 §3: the scheme is followed by at least one parameter
        let mut challenge = REALM.to_owned();
        let mut add = |name: &str, value: &str| challenge.push_str(&format!(", {name}=\"{value}\""));
        if let Some(code) = error.code() {
            add("error", code);
        }
        if let Some((config, path)) = at {
            if error.code().is_some() {
                // RFC 6750 §3: only characters that need no escape
                add("error_description", &message.replace('`', "'"));
            }
            // RFC 9728 §5.1; MCP 2025-11-25 basic/authorization, Protected Resource Metadata Discovery Requirements
            add("resource_metadata", &config.resource.metadata_url(if is_plain(path) { path } else { "" }));
            if !config.scopes.is_empty() {
                add("scope", &config.scopes.join(" "));
            }
        }
        let challenge = HeaderValue::from_str(&challenge).unwrap_or(HeaderValue::from_static(REALM));
        Self { status, challenge: Some(challenge), retry_after_secs: None, message }
    }
}

/// Whether a path can stand in a quoted string. It comes from the client; the paths of endpoints have only these characters.
fn is_plain(path: &str) -> bool {
    path.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-'))
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl std::error::Error for Denied {}

/// Refusals, and the metrics of the issuer's keys.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    refused: Family<Label, Counter>,
    pub(super) oauth: oauth::Metrics,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    reason: AuthError,
}

impl Metrics {
    /// Registers under the process's prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "auth_refused",
            "Requests without valid credentials; a rise after a rotation names clients left with an old token, `audience`, \
             `issuer` or `scope` an authorization server that is set up for something else",
            self.refused.clone(),
        );
        self.oauth.register(registry);
    }

    pub(super) fn count(&self, reason: AuthError) {
        self.refused.get_or_create(&Label { reason }).inc();
    }
}

const REALM: &str = r#"Bearer realm="mcp-edge""#;
/// When to try again while keys cannot be fetched. 5 s: the first attempts to fetch them follow each other faster.
const AGAIN_SECS: u64 = 5;
