//! The keys of an issuer (RFC 7517), and signatures checked with them.
//!
//! Guarantees: only public keys, each used only with the algorithms of its own type, whatever algorithm a token names. A
//! token costs at most [`MAX_TRIED`] verifications, and one if it names its key. Keys that cannot be used here (for
//! encryption, symmetric ones, unsupported curves) are left out and do not affect the others.

use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, EcdsaVerificationAlgorithm,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde_json::{Map, Value};

use super::AuthError;
use crate::seal::text;

/// How a token is signed. There is no `none`, and no symmetric algorithm: with one, anybody could sign with the public key.
// RFC 7518 §3.1, RFC 8037 §3.1; RFC 8725 §3.1 and §3.2
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    pub(super) fn parse(word: &str) -> Option<Self> {
        ALGORITHMS.iter().find(|(known, _)| *known == word).map(|(_, algorithm)| *algorithm)
    }
}

const ALGORITHMS: [(&str, Algorithm); 10] = [
    ("RS256", Algorithm::Rs256),
    ("RS384", Algorithm::Rs384),
    ("RS512", Algorithm::Rs512),
    ("PS256", Algorithm::Ps256),
    ("PS384", Algorithm::Ps384),
    ("PS512", Algorithm::Ps512),
    ("ES256", Algorithm::Es256),
    ("ES384", Algorithm::Es384),
    ("EdDSA", Algorithm::EdDsa),
    ("Ed25519", Algorithm::EdDsa), // RFC 9864 §2.2
];

/// The keys of one issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    usable: Vec<Key>,
    /// How many keys cannot be used here.
    pub left_out: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    id: Option<String>,
    /// The only algorithm it signs with, if the issuer says so.
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    /// Modulus and exponent.
    Rsa(Vec<u8>, Vec<u8>),
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Keys {
    /// Parses the text of a key set.
    ///
    /// # Errors
    /// In one sentence, why it has no usable key.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let value = serde_json::from_slice(text).map_err(|error| format!("it is not JSON: {error}"))?;
        let keys = Self::of(&value)?;
        if keys.usable.is_empty() { Err(keys.useless()) } else { Ok(keys) }
    }

    /// Reads a key set, which may be without usable keys.
    ///
    /// # Errors
    /// In one sentence, why it is not a key set.
    pub fn of(value: &Value) -> Result<Self, String> {
        let Some(keys) = value.get("keys").and_then(Value::as_array) else {
            return Err("it is not a key set: it has no list `keys` (RFC 7517)".to_owned());
        };
        let read = |key: &Value| Key::of(key.as_object()?);
        let usable: Vec<_> = keys.iter().filter_map(read).take(MAX_KEYS).collect();
        let left_out = keys.len() - usable.len();
        Ok(Self { usable, left_out })
    }

    /// Says in one sentence that no key can be used.
    pub fn useless(&self) -> String {
        let left_out = self.left_out;
        format!(
            "none of its {left_out} keys signs tokens by RS256, PS256, ES256, their longer variants, or EdDSA"
        )
    }

    /// The number of usable keys.
    pub fn len(&self) -> usize {
        self.usable.len()
    }

    /// Whether there is no usable key.
    pub fn is_empty(&self) -> bool {
        self.usable.is_empty()
    }

    /// The place in `others` of the key that is here at `place`, whatever its id there.
    pub(super) fn place_in(&self, place: usize, others: &Self) -> Option<usize> {
        let key = self.usable.get(place)?;
        let same = others.usable.iter().position(|other| other == key);
        same.or_else(|| others.usable.iter().position(|other| other.material == key.material))
    }

    /// The place of the key that made this signature: the key with that id, or one of the candidates.
    pub(super) fn verify(
        &self,
        (algorithm, id): (Algorithm, Option<&str>),
        signed: &[u8],
        signature: &[u8],
    ) -> Result<usize, AuthError> {
        let candidates = self.candidates(algorithm, id);
        if candidates.is_empty() {
            return Err(AuthError::Key);
        }
        let has_signed = |(_, key): &(usize, &Key)| key.verifies(algorithm, signed, signature);
        candidates.into_iter().find(has_signed).map(|(place, _)| place).ok_or(AuthError::Signature)
    }

    fn candidates(&self, algorithm: Algorithm, id: Option<&str>) -> Vec<(usize, &Key)> {
        let fitting = || self.usable.iter().enumerate().filter(|(_, key)| key.fits(algorithm));
        if let Some(named) = fitting().find(|(_, key)| id.is_some() && key.id.as_deref() == id) {
            return vec![named];
        }
        // Without an id, all candidates are tried, but only so many that a forged token cannot cost more.
        fitting().filter(|(_, key)| id.is_none() || key.id.is_none()).take(MAX_TRIED).collect()
    }
}

impl Key {
    fn of(key: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let bytes = |name: &str| text::decode(text(name)?.trim_end_matches('='));
        // RFC 7517 §4.2 and §4.3: what a key is for
        let signs = text("use").is_none_or(|purpose| purpose == "sig");
        let operations = key.get("key_ops").and_then(Value::as_array);
        let verifies = operations.is_none_or(|all| all.iter().any(|operation| operation == "verify"));
        if !signs || !verifies {
            return None;
        }
        let material = match (text("kty")?, text("crv")) {
            ("RSA", _) => {
                // RFC 7518 §2, Base64urlUInt: without zeros in front, which some write all the same and the verifier refuses
                let number =
                    |name| Some(bytes(name)?.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<_>>());
                let (modulus, exponent) = (number("n")?, number("e")?);
                // RFC 7518 §3.3: 2,048 bits or more; past 8,192 one verification would be expensive.
                let fits = (256..=1024).contains(&modulus.len()) && (1..=8).contains(&exponent.len());
                fits.then_some(Material::Rsa(modulus, exponent))?
            }
            ("EC", Some("P-256")) => Material::P256(point(&bytes("x")?, &bytes("y")?, 32)?),
            ("EC", Some("P-384")) => Material::P384(point(&bytes("x")?, &bytes("y")?, 48)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x").filter(|x| x.len() == 32)?),
            _ => return None,
        };
        let algorithm = match text("alg") {
            None => None,
            Some(word) => Some(Algorithm::parse(word)?),
        };
        Some(Self { id: text("kid").map(str::to_owned), algorithm, material })
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        use Algorithm::{EdDsa, Es256, Es384, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        let is_kind = match self.material {
            Material::Rsa(..) => matches!(algorithm, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512),
            Material::P256(_) => algorithm == Es256,
            Material::P384(_) => algorithm == Es384,
            Material::Ed25519(_) => algorithm == EdDsa,
        };
        is_kind && self.algorithm.is_none_or(|own| own == algorithm)
    }

    fn verifies(&self, algorithm: Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        let curve = |how: &'static EcdsaVerificationAlgorithm, point: &[u8]| {
            UnparsedPublicKey::new(how, point).verify(signed, signature).is_ok()
        };
        match &self.material {
            Material::Rsa(n, e) => {
                let key = RsaPublicKeyComponents { n, e };
                rsa(algorithm).is_some_and(|how| key.verify(how, signed, signature).is_ok())
            }
            Material::P256(point) => curve(&ECDSA_P256_SHA256_FIXED, point),
            Material::P384(point) => curve(&ECDSA_P384_SHA384_FIXED, point),
            Material::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(signed, signature).is_ok(),
        }
    }
}

fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &RSA_PSS_2048_8192_SHA512,
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::EdDsa => return None,
    })
}

/// An uncompressed point.
// SEC 1 §2.3.3; RFC 7518 §6.2.1.2: coordinates have the length of the field
fn point(x: &[u8], y: &[u8], len: usize) -> Option<Vec<u8>> {
    (x.len() == len && y.len() == len).then(|| [&[4], x, y].concat())
}

/// Keys that are tried for a token that does not name its key. 3: the previous, the current and the next one.
const MAX_TRIED: usize = 3;
/// Keys that are kept of one issuer. 100: large issuers publish a dozen while they rotate theirs.
const MAX_KEYS: usize = 100;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn ec(id: &str) -> Value {
        let (x, y) = (text::encode(&[1; 32]), text::encode(&[2; 32]));
        json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": id})
    }

    fn with(mut key: Value, name: &str, value: Value) -> Value {
        key[name] = value;
        key
    }

    #[test]
    fn keys_of_no_use_are_left_out_and_the_others_stay() {
        let short = json!({"kty": "RSA", "n": text::encode(&[255; 128]), "e": "AQAB"});
        let useless = [
            json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}),
            json!({"kty": "EC", "crv": "P-521", "x": "AQ", "y": "AQ"}),
            json!({"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ"}),
            json!({"kty": "OKP", "crv": "X25519", "x": text::encode(&[1; 32])}),
            with(ec("e"), "use", json!("enc")),
            with(ec("s"), "key_ops", json!(["sign"])),
            with(ec("h"), "alg", json!("HS256")),
            short,
            json!(null),
            json!([]),
            json!({}),
        ];
        let all: Vec<_> = useless.iter().cloned().chain([ec("good")]).collect();
        let keys = Keys::of(&json!({ "keys": all })).unwrap();
        assert_eq!((keys.len(), keys.left_out), (1, useless.len()));
        let none = json!({ "keys": useless });
        assert!(Keys::of(&none).is_ok_and(|keys| keys.is_empty()), "it is a key set");
        assert!(Keys::parse(none.to_string().as_bytes()).unwrap_err().contains("none of its 11 keys"));
        assert!(Keys::of(&json!({"keys": []})).is_ok_and(|keys| keys.is_empty()));
        for none in [json!({}), json!([]), json!({"keys": {}}), json!("keys")] {
            assert!(Keys::of(&none).unwrap_err().contains("no list `keys`"));
        }
        assert!(Keys::parse(b"<html>").unwrap_err().contains("not JSON"));
    }

    #[test]
    fn no_more_keys_are_kept_than_an_issuer_has() {
        let many: Vec<_> = (0..MAX_KEYS + 5).map(|n| ec(&n.to_string())).collect();
        let keys = Keys::of(&json!({ "keys": many })).unwrap();
        assert_eq!((keys.len(), keys.left_out), (MAX_KEYS, 5));
    }

    #[test]
    fn a_key_is_found_by_name_and_kind_or_is_the_only_one() {
        let nameless = |key: Value| {
            let Value::Object(mut key) = key else { panic!() };
            key.remove("kid");
            Value::Object(key)
        };
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "x": text::encode(&[1; 32]), "kid": "a"});
        let keys = Keys::of(&json!({"keys": [ec("a"), ec("b"), ed]})).unwrap();
        let candidates = |keys: &Keys, algorithm, id| -> Vec<usize> {
            keys.candidates(algorithm, id).into_iter().map(|(place, _)| place).collect()
        };
        assert_eq!(candidates(&keys, Algorithm::Es256, Some("b")), [1]);
        assert_eq!(candidates(&keys, Algorithm::EdDsa, Some("a")), [2], "one name, two kinds");
        assert!(candidates(&keys, Algorithm::Es256, Some("c")).is_empty());
        assert!(
            candidates(&keys, Algorithm::Rs256, Some("a")).is_empty(),
            "the token does not choose the kind"
        );
        assert_eq!(candidates(&keys, Algorithm::Es256, None), [0, 1], "two candidates");
        assert_eq!(candidates(&keys, Algorithm::EdDsa, None), [2]);
        let keys = Keys::of(&json!({"keys": [nameless(ec("")), ec("b")]})).unwrap();
        assert_eq!(candidates(&keys, Algorithm::Es256, Some("c")), [0]);
        let many: Vec<_> = (0..MAX_TRIED + 2).map(|_| nameless(ec(""))).collect();
        let keys = Keys::of(&json!({ "keys": many })).unwrap();
        assert_eq!(candidates(&keys, Algorithm::Es256, Some("c")).len(), MAX_TRIED, "and no more");
        let pinned = with(ec("a"), "alg", json!("ES384"));
        let keys = Keys::of(&json!({"keys": [pinned]})).unwrap();
        assert!(candidates(&keys, Algorithm::Es256, Some("a")).is_empty());
    }

    #[test]
    fn numbers_with_zeros_in_front_are_the_same_key() {
        let rsa = |n: &[u8], e: &[u8]| json!({"keys": [{"kty": "RSA", "n": text::encode(n), "e": text::encode(e)}]});
        let plain = Keys::of(&rsa(&[255; 256], &[1, 0, 1])).unwrap();
        let padded = [&[0][..], &[255; 256]].concat();
        assert_eq!(Keys::of(&rsa(&padded, &[0, 1, 0, 1])).unwrap(), plain);
        assert!(Keys::of(&rsa(&[255; 256], &[0])).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn no_key_set_brings_it_down(bytes: Vec<u8>) {
            let _ = Keys::parse(&bytes);
        }

        #[test]
        fn no_key_brings_it_down(
            kty in "RSA|EC|OKP|oct", crv in "P-256|P-384|Ed25519|x", x in "[A-Za-z0-9_=-]{0,70}",
            n in "[A-Za-z0-9_-]{0,400}", e in "[A-Za-z0-9_-]{0,12}", signature: Vec<u8>
        ) {
            let key = json!({"kty": kty, "crv": crv, "x": x, "y": x, "n": n, "e": e});
            if let Ok(keys) = Keys::of(&json!({"keys": [key]})) {
                for (_, algorithm) in ALGORITHMS {
                    prop_assert!(keys.verify((algorithm, None), b"signed", &signature).is_err());
                }
            }
        }
    }
}
