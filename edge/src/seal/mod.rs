//! Sealed tokens: state that clients carry for the gateway, so that it need not keep it. Nobody else can read, change or
//! make one.
//!
//! ```text
//! v1.<base64url( kid 4 ‖ nonce 12 ‖ ciphertext ‖ tag 16 )>          AES-256-GCM, AAD = kind
//! ```
//! Guarantees: a token opens only as the kind it was sealed as, and only with a key this process has; each
//! has exactly one spelling, of visible ASCII; its length reveals only its kind, if payloads of a kind have one
//! length. Two keys are valid at once, so that a key can be replaced while sessions are open. What is not here:
//! what is sealed (`session`, for example), and where keys come from (`config`).

mod home;
mod key;
#[cfg(test)]
mod tests;
pub mod text;

use std::fmt;
use std::sync::Arc;

use ring::aead::{Aad, MAX_TAG_LEN, NONCE_LEN, Nonce};
use ring::rand::{SecureRandom, SystemRandom};

use self::key::{KID_LEN, Key};
use crate::error::{self, Blame, Error};
use crate::permit::RETRY_AFTER;

pub use self::home::{HOME_LEN, Home};
pub use self::key::{BadKey, KeyText};

/// The keys, and the address of this replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Seals and opens. `None`: a random key is made at start, and no other process opens what this one seals.
    pub current: Option<KeyText>,
    /// Opens only: the previous key, while tokens that it sealed are in use.
    pub previous: Option<KeyText>,
    /// The address at which other replicas reach this one.
    pub home: Home,
}

/// What a token is for. A token of one kind never opens as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    name: &'static str,
    token_bytes: usize,
}

impl Kind {
    /// A kind of tokens that are sent in headers; each use has its own name.
    pub const fn new(name: &'static str) -> Self {
        Self::of_size(name, MAX_TOKEN_BYTES)
    }

    /// A kind with its own bound on the length of a token, for tokens that are sent in bodies.
    pub const fn of_size(name: &'static str, token_bytes: usize) -> Self {
        Self { name, token_bytes }
    }

    /// The longest payload whose token still fits.
    const fn payload_bytes(self) -> usize {
        let sealed = self.token_bytes.saturating_sub(VERSION.len()) / 4 * 3;
        sealed.saturating_sub(KID_LEN + NONCE_LEN + MAX_TAG_LEN)
    }
}

/// Seals and opens. Cheap to clone.
#[derive(Clone)]
pub struct Sealer {
    shared: Arc<Shared>,
}

struct Shared {
    home: Home,
    current: Key,
    previous: Option<Key>,
    random: SystemRandom,
}

impl Sealer {
    /// Takes the keys of `config`, or makes one.
    ///
    /// # Errors
    /// When the system gives out no random numbers.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let random = SystemRandom::new();
        let current = match &config.current {
            Some(text) => Key::derived(text),
            None => Key::random(&random),
        };
        let current = current.ok_or_else(no_randomness)?;
        let previous = config.previous.as_ref().and_then(Key::derived);
        Ok(Self { shared: Arc::new(Shared { home: config.home, current, previous, random }) })
    }

    /// The address at which other replicas reach this process; tokens of what it holds contain it.
    pub fn home(&self) -> Home {
        self.shared.home
    }

    /// The address in a token, if it leads to another process. Two processes at one address come one after the other, so what
    /// the earlier one held is nowhere.
    pub fn elsewhere(&self, home: Home) -> Option<Home> {
        (home != self.home()).then_some(home)
    }

    /// A token with `payload`, readable only with the key.
    ///
    /// # Errors
    /// When the system gives out no random numbers, or the payload is too large for a token.
    pub fn seal(&self, kind: Kind, payload: &[u8]) -> Result<Box<str>, Error> {
        self.seal_with(&self.shared.current, kind, payload)
    }

    /// A token sealed with the same key as the token `like`, so that the process that made `like` can open it. `None` if
    /// this process does not have that key.
    ///
    /// # Errors
    /// When the system gives out no random numbers, or the payload is too large for a token.
    pub fn seal_like(&self, like: &str, kind: Kind, payload: &[u8]) -> Option<Result<Box<str>, Error>> {
        let sealed = text::decode(like.strip_prefix(VERSION)?)?;
        let kid = sealed.first_chunk::<KID_LEN>()?;
        let key = self.keys().find(|key| key.kid() == kid)?;
        Some(self.seal_with(key, kind, payload))
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        [Some(&self.shared.current), self.shared.previous.as_ref()].into_iter().flatten()
    }

    fn seal_with(&self, key: &Key, kind: Kind, payload: &[u8]) -> Result<Box<str>, Error> {
        if payload.len() > kind.payload_bytes() {
            return Err(Error::new(error::Kind::TooLarge, Blame::Edge, "too much for one token"));
        }
        let nonce: [u8; NONCE_LEN] = random_bytes(&self.shared.random).ok_or_else(no_randomness)?;
        let mut sealed = payload.to_vec();
        let tag = key
            .aead()
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(kind.name),
                &mut sealed,
            )
            .map_err(|_| no_randomness())?;
        let parts = [key.kid(), &nonce, &sealed, tag.as_ref()].concat();
        Ok(format!("{VERSION}{}", text::encode(&parts)).into())
    }

    /// The payload of `token`, if it was sealed as `kind` with a key of this process.
    pub fn open(&self, kind: Kind, token: &str) -> Option<Vec<u8>> {
        if token.len() > kind.token_bytes {
            return None; // before anything is decoded
        }
        let sealed = text::decode(token.strip_prefix(VERSION)?)?;
        let (kid, rest) = sealed.split_first_chunk::<KID_LEN>()?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_LEN>()?;
        self.keys().filter(|key| key.kid() == kid).find_map(|key| {
            let mut payload = ciphertext.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let opened = key.aead().open_in_place(nonce, Aad::from(kind.name), &mut payload).ok()?.len();
            payload.truncate(opened);
            Some(payload)
        })
    }

    /// Random bytes of the source that nonces come from.
    ///
    /// # Errors
    /// When the system gives out none.
    pub fn random<const N: usize>(&self) -> Result<[u8; N], Error> {
        random_bytes(&self.shared.random).ok_or_else(no_randomness)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(…)")
    }
}

fn random_bytes<const N: usize>(random: &SystemRandom) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    random.fill(&mut bytes).ok().map(|()| bytes)
}

fn no_randomness() -> Error {
    Error::busy(Blame::Edge, RETRY_AFTER, "the system gives out no random numbers")
}

/// Names format and algorithms; another combination needs another prefix.
const VERSION: &str = "v1.";
/// The longest token for a header. 512 bytes, because every request of a session carries one.
pub const MAX_TOKEN_BYTES: usize = 512;
