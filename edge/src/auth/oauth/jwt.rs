//! Parses the parts of a signed token. Nothing of it is verified here.
//!
//! ```text
//! base64url(header) . base64url(claims) . base64url(signature)            RFC 7515 §3.1, compact serialization
//! ```
//! Guarantees: header and claims are JSON objects without duplicate keys; each token has one spelling. Keys come only from
//! the issuer, never from the header (`jwk`, `jku` or `x5c`). It must not know what claims mean, nor keys.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::AuthError;
use super::keys::Algorithm;
use crate::seal::text;

/// A parsed token.
#[derive(Debug)]
pub(in crate::auth) struct Jwt<'t> {
    pub(super) header: Header,
    pub(super) claims: Map<String, Value>,
    /// The bytes that are signed.
    pub(super) signed: &'t [u8],
    pub(super) signature: Vec<u8>,
}

/// The members of a header that are used.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    /// Whether it says that this is an access token (RFC 9068 §2.1).
    pub(super) is_access_token: bool,
}

impl<'t> Jwt<'t> {
    /// Whether `token` has the shape of a JWT.
    pub(in crate::auth) fn looks_like(token: &[u8]) -> bool {
        let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        token.iter().all(is_letter) && token.iter().filter(|byte| **byte == b'.').count() == 2
    }

    /// Parses a token.
    ///
    /// # Errors
    /// It is not a JWT, or not of a supported kind.
    pub(super) fn parse(token: &'t [u8]) -> Result<Self, AuthError> {
        let text = std::str::from_utf8(token).map_err(|_| AuthError::Malformed)?;
        let (signed, signature) = text.rsplit_once('.').ok_or(AuthError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(AuthError::Malformed)?;
        let header = Header::of(object(header).ok_or(AuthError::Malformed)?)?;
        let claims = object(claims).ok_or(AuthError::Malformed)?;
        let signature = text::decode(signature).ok_or(AuthError::Malformed)?;
        Ok(Self { header, claims, signed: signed.as_bytes(), signature })
    }
}

impl Header {
    fn of(members: Map<String, Value>) -> Result<Self, AuthError> {
        let text = |name| match members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(AuthError::Malformed),
        };
        // RFC 7515 §4.1.11: a token is invalid if a critical extension is not understood; none is understood here.
        if members.contains_key("crit") {
            return Err(AuthError::Type);
        }
        // RFC 9068 §4: access tokens are `at+jwt`; tokens for other uses have other types, and do not pass for access tokens.
        // RFC 7515 §4.1.9: case does not matter, and `application/` may be left out.
        let kind = text("typ")?.map(str::to_ascii_lowercase);
        let kind = kind.as_deref().map(|kind| kind.strip_prefix("application/").unwrap_or(kind));
        let is_access_token = match kind {
            Some("at+jwt") => true,
            Some("jwt") | None => false,
            Some(_) => return Err(AuthError::Type),
        };
        let algorithm = text("alg")?.and_then(Algorithm::parse).ok_or(AuthError::Algorithm)?;
        Ok(Self { algorithm, key_id: text("kid")?.map(str::to_owned), is_access_token })
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    let Unique(object) = serde_json::from_slice(&text::decode(part)?).ok()?;
    Some(object)
}

/// An object without duplicate keys, of which two parsers could pick different ones.
pub(super) struct Unique(pub(super) Map<String, Value>);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Unique;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Unique, A::Error> {
                let mut members = Map::new();
                while let Some((name, value)) = from.next_entry::<String, Value>()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a key comes twice"));
                    }
                }
                Ok(Unique(members))
            }
        }
        from.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(header: &str, claims: &str) -> String {
        format!("{}.{}.c2ln", text::encode(header.as_bytes()), text::encode(claims.as_bytes()))
    }

    fn error(header: &str, claims: &str) -> AuthError {
        Jwt::parse(token(header, claims).as_bytes()).unwrap_err()
    }

    #[test]
    fn a_token_comes_apart() {
        let token = token(
            r#"{"alg":"ES256","kid":"k","typ":"application/AT+jwt","jku":"https://evil"}"#,
            r#"{"a":1}"#,
        );
        let jwt = Jwt::parse(token.as_bytes()).unwrap();
        assert_eq!(jwt.header.key_id.as_deref(), Some("k"));
        assert!(jwt.header.is_access_token);
        assert_eq!(jwt.claims["a"], 1);
        assert_eq!(
            (jwt.signature.as_slice(), jwt.signed),
            (&b"sig"[..], token.rsplit_once('.').unwrap().0.as_bytes())
        );
    }

    #[test]
    fn what_nobody_should_sign_with_is_no_algorithm() {
        for alg in ["none", "None", "HS256", "HS384", "HS512", "rs256", "ES512", "ES256K", "RSA-OAEP", ""] {
            assert_eq!(error(&format!(r#"{{"alg":"{alg}"}}"#), "{}"), AuthError::Algorithm, "{alg}");
        }
        assert_eq!(error("{}", "{}"), AuthError::Algorithm);
        assert_eq!(error(r#"{"alg":["RS256"]}"#, "{}"), AuthError::Malformed);
    }

    #[test]
    fn other_kinds_of_tokens_are_refused() {
        for header in [
            r#"{"alg":"RS256","typ":"logout+jwt"}"#,
            r#"{"alg":"RS256","typ":"dpop+jwt"}"#,
            r#"{"alg":"RS256","typ":"secevent+jwt"}"#,
            r#"{"alg":"RS256","typ":"id_token"}"#,
            r#"{"alg":"RS256","crit":["b64"],"b64":false}"#,
            r#"{"alg":"RS256","crit":[]}"#,
        ] {
            assert_eq!(error(header, "{}"), AuthError::Type, "{header}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_malformed() {
        let good = r#"{"alg":"RS256"}"#;
        for (header, claims) in [
            (r#"{"alg":"RS256","alg":"none"}"#, "{}"),
            (good, r#"{"sub":"a","sub":"b"}"#),
            (good, "[]"),
            (good, ""),
            (good, "{\"a\":\"\u{0}"),
            (r#"{"alg":"RS256","kid":7}"#, "{}"),
            (r#"{"alg":"RS256","typ":null}"#, "{}"),
        ] {
            assert_eq!(error(header, claims), AuthError::Malformed, "{header} {claims}");
        }
        for text in
            ["", ".", "..", "a.b", "a.b.c.d", "e30.e30.e30=", "e30=.e30.e30", "é.e30.e30", "e30.e30.+/"]
        {
            assert!(Jwt::parse(text.as_bytes()).is_err(), "{text}");
        }
        let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(5000), "]".repeat(5000));
        assert_eq!(error(good, &deep), AuthError::Malformed);
    }

    #[test]
    fn a_shape_is_three_parts() {
        assert!(Jwt::looks_like(b"a.b.c") && Jwt::looks_like(b".."));
        for other in [&b""[..], b"a.b", b"a.b.c.d", b"a.b.c d", b"token", b"a.b.\xff"] {
            assert!(!Jwt::looks_like(other));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_bring_it_down(bytes: Vec<u8>) {
            let _ = Jwt::parse(&bytes);
        }

        #[test]
        fn no_json_brings_it_down(header in r#"\{("alg"|"kid"|"typ"|"crit"|:|,|null|"ES256"|"at\+jwt"|\[|\]|\{|1|-)*\}"#, claims: Vec<u8>) {
            let text = format!("{}.{}.", text::encode(header.as_bytes()), text::encode(&claims));
            if let Ok(jwt) = Jwt::parse(text.as_bytes()) {
                prop_assert_eq!(jwt.header.algorithm, Algorithm::Es256);
            }
        }
    }
}
