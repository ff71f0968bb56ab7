//! The parts of a signed token, before anything of it is believed.
//!
//! ```text
//! base64url(header) . base64url(claims) . base64url(signature)            RFC 7515 §3.1, compact serialization
//! ```
//! Guarantees: header and claims are JSON objects without a key that comes twice; each token has one spelling. Nothing in a
//! header leads anywhere: keys come from the issuer alone, never from `jwk`, `jku` or `x5c`. It must not know what claims
//! mean, nor keys.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::Fault;
use super::keys::Algorithm;
use crate::seal::text;

/// See the module.
#[derive(Debug)]
pub(in crate::auth) struct Jwt<'t> {
    pub(super) header: Header,
    pub(super) claims: Map<String, Value>,
    /// What the signature is about.
    pub(super) signed: &'t [u8],
    pub(super) signature: Vec<u8>,
}

/// What a header says that counts here.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    /// Whether it says to be an access token (RFC 9068 §2.1), and not just any token.
    pub(super) is_access_token: bool,
}

impl<'t> Jwt<'t> {
    /// Whether a token has the shape of one; others are not asked about here.
    pub(in crate::auth) fn is_shape_of(token: &[u8]) -> bool {
        let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        token.iter().all(is_letter) && token.iter().filter(|byte| **byte == b'.').count() == 2
    }

    /// Takes a token apart.
    ///
    /// # Errors
    /// It is none, or none of the kind that is taken here.
    pub(super) fn parse(token: &'t [u8]) -> Result<Self, Fault> {
        let text = std::str::from_utf8(token).map_err(|_| Fault::Malformed)?;
        let (signed, signature) = text.rsplit_once('.').ok_or(Fault::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(Fault::Malformed)?;
        let header = Header::of(object(header).ok_or(Fault::Malformed)?)?;
        let claims = object(claims).ok_or(Fault::Malformed)?;
        let signature = text::decode(signature).ok_or(Fault::Malformed)?;
        Ok(Self { header, claims, signed: signed.as_bytes(), signature })
    }
}

impl Header {
    fn of(members: Map<String, Value>) -> Result<Self, Fault> {
        let text = |name| match members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(Fault::Malformed),
        };
        // RFC 7515 §4.1.11: what must be understood and is not makes a token invalid; nothing of it is understood here.
        if members.contains_key("crit") {
            return Err(Fault::Type);
        }
        // RFC 9068 §4: `at+jwt`; those of other uses have other words, so that none passes for an access token. RFC 7515
        // §4.1.9: case does not matter, and `application/` may be left out.
        let kind = text("typ")?.map(str::to_ascii_lowercase);
        let kind = kind.as_deref().map(|kind| kind.strip_prefix("application/").unwrap_or(kind));
        let is_access_token = match kind {
            Some("at+jwt") => true,
            Some("jwt") | None => false,
            Some(_) => return Err(Fault::Type),
        };
        let algorithm = text("alg")?.and_then(Algorithm::parse).ok_or(Fault::Algorithm)?;
        Ok(Self { algorithm, key_id: text("kid")?.map(str::to_owned), is_access_token })
    }
}

fn object(part: &str) -> Option<Map<String, Value>> {
    let Unique(object) = serde_json::from_slice(&text::decode(part)?).ok()?;
    Some(object)
}

/// An object in which no key comes twice: two readers could take a different one.
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

    fn fault(header: &str, claims: &str) -> Fault {
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
            assert_eq!(fault(&format!(r#"{{"alg":"{alg}"}}"#), "{}"), Fault::Algorithm, "{alg}");
        }
        assert_eq!(fault("{}", "{}"), Fault::Algorithm);
        assert_eq!(fault(r#"{"alg":["RS256"]}"#, "{}"), Fault::Malformed);
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
            assert_eq!(fault(header, "{}"), Fault::Type, "{header}");
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
            assert_eq!(fault(header, claims), Fault::Malformed, "{header} {claims}");
        }
        for text in
            ["", ".", "..", "a.b", "a.b.c.d", "e30.e30.e30=", "e30=.e30.e30", "é.e30.e30", "e30.e30.+/"]
        {
            assert!(Jwt::parse(text.as_bytes()).is_err(), "{text}");
        }
        let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(5000), "]".repeat(5000));
        assert_eq!(fault(good, &deep), Fault::Malformed);
    }

    #[test]
    fn a_shape_is_three_parts() {
        assert!(Jwt::is_shape_of(b"a.b.c") && Jwt::is_shape_of(b".."));
        for other in [&b""[..], b"a.b", b"a.b.c.d", b"a.b.c d", b"token", b"a.b.\xff"] {
            assert!(!Jwt::is_shape_of(other));
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
