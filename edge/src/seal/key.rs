//! One key: the configured text, and the key derived from it.

use std::fmt;
use std::str::FromStr;

use ring::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::rand::SystemRandom;

use super::random_bytes;

/// A key as it is configured. Has no `Display`, and its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyText(Box<str>);

/// A text that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadKey;

impl FromStr for KeyText {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        let fits = text.len() >= MIN_CHARS && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(text.into())) } else { Err(BadKey) }
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyText(…)")
    }
}

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "is no key: {MIN_CHARS} or more visible characters, from `openssl rand -hex 32` for example"
        )
    }
}

impl std::error::Error for BadKey {}

/// What seals and opens.
///
/// Nonces are random: of 2³² tokens of one key two have the same with a chance of 2⁻³³, which is the bound of
/// NIST SP 800-38D §8.3; at a thousand sessions a second that is 49 days, and a key is replaced before.
pub(super) struct Key {
    kid: [u8; KID_LEN],
    aead: LessSafeKey,
}

impl Key {
    /// The key derived from `text`; the same in every process.
    pub(super) fn derived(text: &KeyText) -> Option<Self> {
        Self::from_secret(text.0.as_bytes())
    }

    /// A random key, which no other process has.
    pub(super) fn random(random: &SystemRandom) -> Option<Self> {
        Self::from_secret(&random_bytes::<32>(random)?)
    }

    /// RFC 5869: the AES key, and a key id that reveals nothing of it.
    fn from_secret(secret: &[u8]) -> Option<Self> {
        let prk = Salt::new(HKDF_SHA256, SALT).extract(secret);
        let (mut kid, mut key) = ([0; KID_LEN], [0; 32]);
        expand(&prk, b"kid", &mut kid)?;
        expand(&prk, b"aes-256-gcm", &mut key)?;
        let aead = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).ok()?);
        Some(Self { kid, aead })
    }

    /// The key id in a token, so that only this key is tried.
    pub(super) fn kid(&self) -> &[u8] {
        &self.kid
    }

    pub(super) fn aead(&self) -> &LessSafeKey {
        &self.aead
    }
}

/// `None` only for lengths that HKDF cannot give.
fn expand(prk: &Prk, info: &[u8], into: &mut [u8]) -> Option<()> {
    prk.expand(&[info], Length(into.len())).ok()?.fill(into).ok()
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// Bytes of a key's name. 4: two keys of one process share it once in 2³², and then both are tried.
pub(super) const KID_LEN: usize = 4;
/// 32 characters of hexadecimal digits are 128 bits; anything shorter was typed by a person.
const MIN_CHARS: usize = 32;
const SALT: &[u8] = b"mcp-edge token v1";
