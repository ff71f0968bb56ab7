//! Why credentials do not do, how that is said to a client, and how often it was.

use std::fmt;

use http::StatusCode;
use http::header::HeaderValue;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::oauth;
use crate::ops::metrics::words;

/// A request without credentials that hold, or that are enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// 401, 403, 400 for a request that could be read in two ways, or 503 where it cannot be known yet.
    pub status: StatusCode,
    /// The value of `WWW-Authenticate`; none where other credentials would change nothing.
    pub challenge: Option<HeaderValue>,
    /// When to ask again, where that helps.
    pub retry_after_secs: Option<u64>,
    /// One sentence for the person who set up the client.
    pub message: &'static str,
}

/// Why credentials were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Fault {
    Missing,
    Ambiguous,
    /// No configured token, and none of an issuer by its shape.
    Unknown,
    /// Of an issuer's tokens; see `oauth`.
    Malformed,
    Type,
    Algorithm,
    Issuer,
    Audience,
    Expired,
    NotYet,
    /// No key of its name is known.
    Key,
    /// No key at all is known yet.
    NoKeys,
    Signature,
    Principal,
    Scope,
}

words!(Fault {
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

impl Fault {
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
    /// What is said of a fault at the endpoint of this path, whose tokens are to be had as the configuration says.
    pub(super) fn new(fault: Fault, at: Option<(&oauth::Config, &str)>) -> Self {
        let message = fault.message();
        if fault == Fault::NoKeys {
            // Not 401: a client would send its user to log in, for a token that is no better.
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Self { status, challenge: None, retry_after_secs: Some(AGAIN_SECS), message };
        }
        // RFC 6750 §3.1
        let status = match fault {
            Fault::Scope => StatusCode::FORBIDDEN,
            Fault::Ambiguous => StatusCode::BAD_REQUEST,
            _ => StatusCode::UNAUTHORIZED,
        };
        // RFC 6750 §3: the scheme is followed by at least one parameter
        let mut challenge = REALM.to_owned();
        let mut add = |name: &str, value: &str| challenge.push_str(&format!(", {name}=\"{value}\""));
        if let Some(code) = fault.code() {
            add("error", code);
        }
        if let Some((config, path)) = at {
            if fault.code().is_some() {
                // RFC 6750 §3: of letters that need no escape
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

/// Whether a path can stand in quotes. It comes from whoever asks, and those of our endpoints are made of these.
fn is_plain(path: &str) -> bool {
    path.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-'))
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl std::error::Error for Denied {}

/// How often credentials were refused, and what is counted of the issuer's keys.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    refused: Family<Label, Counter>,
    pub(super) oauth: oauth::Metrics,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    reason: Fault,
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

    pub(super) fn count(&self, reason: Fault) {
        self.refused.get_or_create(&Label { reason }).inc();
    }
}

const REALM: &str = r#"Bearer realm="mcp-edge""#;
/// When keys may be there that could not be fetched. 5 s: the first attempts are closer together than that.
const AGAIN_SECS: u64 = 5;
