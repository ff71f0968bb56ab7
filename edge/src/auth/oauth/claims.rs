//! Checks the claims of a token.
//!
//! There are two steps. [`Claims::check`] checks what every token must claim, and is cheap enough to come before the
//! signature. [`Claims::grant`] determines the principal and checks the scopes, after the signature was verified. It must
//! not know keys, nor where a request goes.

use serde_json::{Map, Value};

use super::resource::Reach;
use super::{AuthError, Config};

/// The claims of one token.
pub(super) struct Claims<'c>(pub(super) &'c Map<String, Value>);

/// What a token with valid claims is good for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CheckedClaims {
    pub(super) reach: Reach,
    /// When it expires, in seconds since 1970.
    pub(super) expires: u64,
}

impl Claims<'_> {
    /// Checks that it is an access token of the issuer, for this gateway, and within its time (`now` in seconds since 1970).
    // RFC 9068 §4; RFC 8725 §3.8 to §3.12
    pub(super) fn check(
        &self,
        config: &Config,
        now: u64,
        is_access_token: bool,
    ) -> Result<CheckedClaims, AuthError> {
        if self.text("iss") != Some(config.issuer.as_str()) {
            return Err(AuthError::Issuer); // compared letter by letter: RFC 9068 §4
        }
        let (reach, is_further) = self.reach(config).ok_or(AuthError::Audience)?;
        let expires = self.seconds("exp")?.ok_or(AuthError::Malformed)?;
        if now >= expires.saturating_add(LEEWAY_SECS) {
            return Err(AuthError::Expired);
        }
        if self.seconds("nbf")?.is_some_and(|begins| now.saturating_add(LEEWAY_SECS) < begins) {
            return Err(AuthError::NotYet);
        }
        // A further audience may be the id of a client, which is the audience of id_tokens (OIDC Core §2). Those have no scopes.
        let is_bare = is_further && self.scopes().is_empty();
        if !is_access_token && (is_bare || self.is_other_kind_of_token()) {
            return Err(AuthError::Type);
        }
        // RFC 7800 §3, RFC 9449 §6: a token that is bound to a key is not a bearer token, and proof of that key is not
        // supported here.
        if self.0.contains_key("cnf") {
            return Err(AuthError::Type);
        }
        Ok(CheckedClaims { reach, expires })
    }

    /// The name of the principal, if the token has the required scopes.
    pub(super) fn grant(&self, config: &Config) -> Result<String, AuthError> {
        let name = self.text(&config.principal).ok_or(AuthError::Principal)?;
        if name.is_empty() || name.len() > PRINCIPAL_BYTES || name.chars().any(is_unprintable) {
            return Err(AuthError::Principal);
        }
        let granted = self.scopes();
        let has_all = config.scopes.iter().all(|wanted| granted.contains(&wanted.as_str()));
        if has_all { Ok(format!("{PREFIX}{name}")) } else { Err(AuthError::Scope) }
    }

    /// Where the token is valid, by any of its audiences, and whether only by a further audience of the configuration.
    // RFC 7519 §4.1.3
    fn reach(&self, config: &Config) -> Option<(Reach, bool)> {
        let audiences = match self.0.get("aud")? {
            one @ Value::String(_) => std::slice::from_ref(one),
            Value::Array(all) => all.as_slice(),
            _ => return None,
        };
        let (mut servers, mut is_further) = (Vec::new(), false);
        for audience in audiences.iter().filter_map(Value::as_str) {
            is_further |= config.audience.iter().any(|further| further == audience);
            match config.resource.reach(audience) {
                Some(Reach::All) => return Some((Reach::All, false)),
                Some(Reach::Servers(more)) => servers.extend(more),
                None => {}
            }
        }
        if is_further {
            return Some((Reach::All, true));
        }
        (!servers.is_empty()).then_some((Reach::Servers(servers), false))
    }

    /// Whether it looks like a token of another kind: an id_token, or one for getting further tokens.
    fn is_other_kind_of_token(&self) -> bool {
        // OIDC Core §3.1.3.6, §3.3.2.11: hashes of what was issued with an id_token
        let hashes = ["at_hash", "c_hash", "s_hash"].iter().any(|name| self.0.contains_key(*name));
        // OIDC Core §2: id_tokens repeat the nonce of the client. Some issuers put it into access tokens as well, but those
        // have scopes.
        let nonce = self.0.contains_key("nonce") && self.scopes().is_empty();
        // Keycloak and Cognito mark the kinds of their tokens so.
        let kind = ["typ", "token_use"].iter().filter_map(|name| self.text(name));
        let kind = kind.map(str::to_ascii_lowercase).any(|kind| OTHERS.contains(&kind.as_str()));
        hashes || nonce || kind
    }

    // RFC 9068 §2.2.3: `scope`, words apart by spaces; Entra, Okta and others: `scp`, in the same form or as a list
    fn scopes(&self) -> Vec<&str> {
        let mut all = Vec::new();
        for name in ["scope", "scp"] {
            match self.0.get(name) {
                Some(Value::String(words)) => all.extend(words.split(' ').filter(|word| !word.is_empty())),
                Some(Value::Array(words)) => all.extend(words.iter().filter_map(Value::as_str)),
                _ => {}
            }
        }
        all
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    // RFC 7519 §2, NumericDate: also with a fraction, which is cut off
    fn seconds(&self, name: &str) -> Result<Option<u64>, AuthError> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let whole = value.as_u64();
        let fraction =
            || value.as_f64().filter(|secs| (0.0..MAX_SECS).contains(secs)).map(|secs| secs as u64);
        whole.or_else(fraction).map(Some).ok_or(AuthError::Malformed)
    }
}

/// Characters that would forge log lines, or change how they read.
fn is_unprintable(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Precedes the names of all principals of the issuer: a user called `default` there is `oauth:default` here, and cannot
/// be taken for a principal of the configuration.
pub const PREFIX: &str = "oauth:";
/// How far clocks may be apart. 30 s: more than between machines that synchronize their clocks.
pub(super) const LEEWAY_SECS: u64 = 30;
/// The longest name of a principal. 255 bytes: OIDC Core §2 allows a `sub` no more.
const PRINCIPAL_BYTES: usize = 255;
/// 2^53: above it a float is not exact, and a number of seconds is no sensible time.
const MAX_SECS: f64 = 9_007_199_254_740_992.0;
/// What issuers call tokens that are not access tokens.
const OTHERS: [&str; 5] = ["id", "refresh", "offline", "logout", "id_token"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::config;
    use super::*;
    use crate::call::ServerName;

    const NOW: u64 = 1_800_000_000;

    fn good() -> Value {
        json!({
            "iss": "https://idp.example/realms/team", "aud": "https://edge.example/mcp", "exp": NOW + 60,
            "sub": "ann", "scope": "openid mcp",
        })
    }

    /// With these claims changed; null: taken away.
    fn with(changes: Value) -> Map<String, Value> {
        let Value::Object(mut claims) = good() else { panic!() };
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                claims.remove(name)
            } else {
                claims.insert(name.clone(), value.clone())
            };
        }
        claims
    }

    fn checked(changes: Value) -> Result<Reach, AuthError> {
        Claims(&with(changes)).check(&config(), NOW, false).map(|checked| checked.reach)
    }

    fn granted(changes: Value) -> Result<String, AuthError> {
        Claims(&with(changes)).grant(&config())
    }

    #[test]
    fn each_claim_is_held_against_what_is_expected() {
        assert_eq!(checked(json!({})), Ok(Reach::All));
        for (changes, error) in [
            (json!({"iss": null}), AuthError::Issuer),
            (json!({"iss": "https://idp.example/realms/team/"}), AuthError::Issuer),
            (json!({"iss": "https://IDP.example/realms/team"}), AuthError::Issuer),
            (json!({"iss": ["https://idp.example/realms/team"]}), AuthError::Issuer),
            (json!({"aud": null}), AuthError::Audience),
            (json!({"aud": []}), AuthError::Audience),
            (json!({"aud": 7}), AuthError::Audience),
            (json!({"aud": "https://other.example/mcp"}), AuthError::Audience),
            (json!({"aud": ["account", "https://edge.example"]}), AuthError::Audience),
            (json!({"exp": null}), AuthError::Malformed),
            (json!({"exp": "2030"}), AuthError::Malformed),
            (json!({"exp": -1}), AuthError::Malformed),
            (json!({"exp": 1e300}), AuthError::Malformed),
            (json!({"exp": NOW - 30}), AuthError::Expired),
            (json!({"exp": 0}), AuthError::Expired),
            (json!({"nbf": NOW + 31}), AuthError::NotYet),
            (json!({"nbf": true}), AuthError::Malformed),
            (json!({"at_hash": "x"}), AuthError::Type),
            (json!({"nonce": "x", "scope": null}), AuthError::Type),
            (json!({"typ": "ID"}), AuthError::Type),
            (json!({"typ": "Refresh"}), AuthError::Type),
            (json!({"token_use": "id"}), AuthError::Type),
            (json!({"cnf": {"jkt": "x"}}), AuthError::Type),
            (json!({"aud": "api://further", "scope": null}), AuthError::Type),
            (
                json!({"aud": ["https://edge.example/servers/a/mcp", "api://further"], "scope": ""}),
                AuthError::Type,
            ),
        ] {
            assert_eq!(checked(changes.clone()), Err(error), "{changes}");
        }
        for changes in [
            json!({"aud": ["account", "https://EDGE.example/mcp/"]}),
            json!({"aud": "api://further"}),
            json!({"aud": "api://further", "scope": null, "scp": ["mcp"]}),
            json!({"aud": ["api://further", "https://edge.example/mcp"], "scope": null}),
            json!({"exp": NOW - 29}),
            json!({"exp": NOW as f64 + 0.5}),
            json!({"exp": u64::MAX}),
            json!({"nbf": NOW + 30}),
            json!({"typ": "Bearer", "nonce": "x"}),
            json!({"token_use": "access"}),
        ] {
            assert_eq!(checked(changes.clone()), Ok(Reach::All), "{changes}");
        }
        // RFC 9068 tokens have said what they are in their header.
        let bare = with(json!({"aud": "api://further", "scope": null}));
        assert!(Claims(&bare).check(&config(), NOW, true).is_ok());
        let claims = with(json!({"at_hash": "x"}));
        assert!(Claims(&claims).check(&config(), NOW, true).is_ok());
    }

    #[test]
    fn a_token_for_servers_reaches_those() {
        let servers = |names: &[&str]| {
            Ok(Reach::Servers(names.iter().map(|name| ServerName::parse(name).unwrap()).collect()))
        };
        let (a, b) = ("https://edge.example/servers/a/mcp", "https://edge.example/servers/b/sse");
        assert_eq!(checked(json!({"aud": [a, "other", b]})), servers(&["a", "b"]));
        assert_eq!(checked(json!({"aud": [a, "https://edge.example/sse"]})), Ok(Reach::All));
    }

    #[test]
    fn a_principal_has_a_name_that_can_be_read_and_nobody_elses() {
        assert_eq!(granted(json!({})).unwrap(), "oauth:ann");
        assert_eq!(granted(json!({"sub": "default"})).unwrap(), "oauth:default");
        assert_eq!(granted(json!({"sub": "é".repeat(127)})).unwrap().len(), 254 + PREFIX.len());
        for name in [
            json!(""),
            json!(null),
            json!(7),
            json!(["ann"]),
            json!({"a": 1}),
            json!("a\nb"),
            json!("a\u{0}"),
            json!("a\u{85}b"),
            json!("a\u{202e}b"),
            json!("a\u{200b}"),
            json!("é".repeat(128)),
        ] {
            assert_eq!(granted(json!({"sub": name.clone()})), Err(AuthError::Principal), "{name}");
        }
        let by_mail = Config { principal: "email".to_owned(), ..config() };
        let claims = with(json!({"email": "ann@example.com"}));
        assert_eq!(Claims(&claims).grant(&by_mail).unwrap(), "oauth:ann@example.com");
        assert_eq!(Claims(&with(json!({}))).grant(&by_mail), Err(AuthError::Principal));
    }

    #[test]
    fn scopes_come_in_three_forms_and_all_are_needed() {
        for scopes in [
            json!({"scope": "mcp"}),
            json!({"scope": null, "scp": "a mcp"}),
            json!({"scope": null, "scp": ["mcp"]}),
        ] {
            assert!(granted(scopes.clone()).is_ok(), "{scopes}");
        }
        for scopes in [
            json!({"scope": null}),
            json!({"scope": ""}),
            json!({"scope": "mcpx mc"}),
            json!({"scope": "MCP"}),
            json!({"scope": ["a", 7]}),
            json!({"scope": {"mcp": true}}),
        ] {
            assert_eq!(granted(scopes.clone()), Err(AuthError::Scope), "{scopes}");
        }
        let two = Config { scopes: vec!["mcp".to_owned(), "tools".to_owned()], ..config() };
        assert_eq!(Claims(&with(json!({}))).grant(&two), Err(AuthError::Scope));
        assert!(Claims(&with(json!({"scp": ["tools"]}))).grant(&two).is_ok(), "both claims count");
        let none = Config { scopes: Vec::new(), ..config() };
        assert!(Claims(&with(json!({"scope": null}))).grant(&none).is_ok());
    }
}
