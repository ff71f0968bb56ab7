//! What a token says, held against what is expected here.
//!
//! Two steps: [`Claims::check`] asks what any token must say, and is cheap enough to come before the signature;
//! [`Claims::grant`] says whose it is and what it allows, and counts only after it. It must not know keys, nor where a
//! request goes.

use serde_json::{Map, Value};

use super::resource::Reach;
use super::{Config, Fault};

/// The claims of one token.
pub(super) struct Claims<'c>(pub(super) &'c Map<String, Value>);

/// What holds of a token that is in order, as far as its claims go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) reach: Reach,
    /// When it runs out, in seconds since 1970.
    pub(super) expires: u64,
}

impl Claims<'_> {
    /// Whether it is for us, from our issuer, of this time (`now` in seconds since 1970), and an access token.
    // RFC 9068 §4; RFC 8725 §3.8 to §3.12
    pub(super) fn check(&self, config: &Config, now: u64, is_access_token: bool) -> Result<Terms, Fault> {
        if self.text("iss") != Some(config.issuer.as_str()) {
            return Err(Fault::Issuer); // compared letter by letter: RFC 9068 §4
        }
        let (reach, is_further) = self.reach(config).ok_or(Fault::Audience)?;
        let expires = self.seconds("exp")?.ok_or(Fault::Malformed)?;
        if now >= expires.saturating_add(LEEWAY_SECS) {
            return Err(Fault::Expired);
        }
        if self.seconds("nbf")?.is_some_and(|begins| now.saturating_add(LEEWAY_SECS) < begins) {
            return Err(Fault::NotYet);
        }
        // A further audience may be the id of a client, and an id_token is for that (OIDC Core §2); but it allows nothing.
        let is_bare = is_further && self.scopes().is_empty();
        if !is_access_token && (is_bare || self.is_something_else()) {
            return Err(Fault::Type);
        }
        // RFC 7800 §3, RFC 9449 §6: a token that is bound to a key is none for whoever has it, and nobody asks here for
        // proof of that key.
        if self.0.contains_key("cnf") {
            return Err(Fault::Type);
        }
        Ok(Terms { reach, expires })
    }

    /// The name of the principal, if the token allows what is asked of every token.
    pub(super) fn grant(&self, config: &Config) -> Result<String, Fault> {
        let name = self.text(&config.principal).ok_or(Fault::Principal)?;
        if name.is_empty() || name.len() > PRINCIPAL_BYTES || name.chars().any(is_unfit) {
            return Err(Fault::Principal);
        }
        let granted = self.scopes();
        let has_all = config.scopes.iter().all(|wanted| granted.contains(&wanted.as_str()));
        if has_all { Ok(format!("{PREFIX}{name}")) } else { Err(Fault::Scope) }
    }

    /// Of several audiences each counts; and whether it is none of our own names by which it reaches that far.
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

    /// Whether it bears the marks of a token that is not for resources: one that says who logged in, or that gets others.
    fn is_something_else(&self) -> bool {
        // OIDC Core §3.1.3.6, §3.3.2.11: hashes of what came with an id_token
        let hashes = ["at_hash", "c_hash", "s_hash"].iter().any(|name| self.0.contains_key(*name));
        // OIDC Core §2: what a client sends to find it again in its id_token. Some issuers put it into access tokens as
        // well; those have scopes.
        let nonce = self.0.contains_key("nonce") && self.scopes().is_empty();
        // As Keycloak and Cognito tell their tokens apart.
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
    fn seconds(&self, name: &str) -> Result<Option<u64>, Fault> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let whole = value.as_u64();
        let fraction =
            || value.as_f64().filter(|secs| (0.0..MOST_SECS).contains(secs)).map(|secs| secs as u64);
        whole.or_else(fraction).map(Some).ok_or(Fault::Malformed)
    }
}

/// What has no place in a name: it would forge lines of logs, or change how they read.
fn is_unfit(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Before the names of all principals that come with tokens of the issuer: whoever calls himself `default` there is
/// `oauth:default` here, and nobody of the configuration.
pub const PREFIX: &str = "oauth:";
/// How far clocks may be apart. 30 s: more than those of machines that keep time at all.
pub(super) const LEEWAY_SECS: u64 = 30;
/// The longest name of a principal. 255 bytes: OIDC Core §2 allows a `sub` no more.
const PRINCIPAL_BYTES: usize = 255;
/// A time past which a number of seconds is none, and a float is not exact.
const MOST_SECS: f64 = 9_007_199_254_740_992.0;
/// Words of issuers for tokens that are no access tokens.
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

    fn checked(changes: Value) -> Result<Reach, Fault> {
        Claims(&with(changes)).check(&config(), NOW, false).map(|terms| terms.reach)
    }

    fn granted(changes: Value) -> Result<String, Fault> {
        Claims(&with(changes)).grant(&config())
    }

    #[test]
    fn each_claim_is_held_against_what_is_expected() {
        assert_eq!(checked(json!({})), Ok(Reach::All));
        for (changes, fault) in [
            (json!({"iss": null}), Fault::Issuer),
            (json!({"iss": "https://idp.example/realms/team/"}), Fault::Issuer),
            (json!({"iss": "https://IDP.example/realms/team"}), Fault::Issuer),
            (json!({"iss": ["https://idp.example/realms/team"]}), Fault::Issuer),
            (json!({"aud": null}), Fault::Audience),
            (json!({"aud": []}), Fault::Audience),
            (json!({"aud": 7}), Fault::Audience),
            (json!({"aud": "https://other.example/mcp"}), Fault::Audience),
            (json!({"aud": ["account", "https://edge.example"]}), Fault::Audience),
            (json!({"exp": null}), Fault::Malformed),
            (json!({"exp": "2030"}), Fault::Malformed),
            (json!({"exp": -1}), Fault::Malformed),
            (json!({"exp": 1e300}), Fault::Malformed),
            (json!({"exp": NOW - 30}), Fault::Expired),
            (json!({"exp": 0}), Fault::Expired),
            (json!({"nbf": NOW + 31}), Fault::NotYet),
            (json!({"nbf": true}), Fault::Malformed),
            (json!({"at_hash": "x"}), Fault::Type),
            (json!({"nonce": "x", "scope": null}), Fault::Type),
            (json!({"typ": "ID"}), Fault::Type),
            (json!({"typ": "Refresh"}), Fault::Type),
            (json!({"token_use": "id"}), Fault::Type),
            (json!({"cnf": {"jkt": "x"}}), Fault::Type),
            (json!({"aud": "api://further", "scope": null}), Fault::Type),
            (
                json!({"aud": ["https://edge.example/servers/a/mcp", "api://further"], "scope": ""}),
                Fault::Type,
            ),
        ] {
            assert_eq!(checked(changes.clone()), Err(fault), "{changes}");
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
            assert_eq!(granted(json!({"sub": name.clone()})), Err(Fault::Principal), "{name}");
        }
        let by_mail = Config { principal: "email".to_owned(), ..config() };
        let claims = with(json!({"email": "ann@example.com"}));
        assert_eq!(Claims(&claims).grant(&by_mail).unwrap(), "oauth:ann@example.com");
        assert_eq!(Claims(&with(json!({}))).grant(&by_mail), Err(Fault::Principal));
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
            assert_eq!(granted(scopes.clone()), Err(Fault::Scope), "{scopes}");
        }
        let two = Config { scopes: vec!["mcp".to_owned(), "tools".to_owned()], ..config() };
        assert_eq!(Claims(&with(json!({}))).grant(&two), Err(Fault::Scope));
        assert!(Claims(&with(json!({"scp": ["tools"]}))).grant(&two).is_ok(), "both claims count");
        let none = Config { scopes: Vec::new(), ..config() };
        assert!(Claims(&with(json!({"scope": null}))).grant(&none).is_ok());
    }
}
