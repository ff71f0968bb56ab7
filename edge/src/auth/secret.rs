//! A value that must not be shown: it can only be compared.

use std::fmt;

use subtle::{Choice, ConstantTimeEq};

/// A bearer token. It has no `Display`, and its `Debug` does not show it, so that it cannot reach a log.
#[derive(Clone)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// `None` unless `text` is one or more visible ASCII characters: anything else could never be presented
    /// in an `Authorization` header (RFC 6750 §2.1).
    pub fn parse(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| Self(text.as_bytes().into()))
    }

    /// Whether it equals `presented`, in a time that depends only on the lengths. The length of a token is not secret.
    pub(super) fn matches(&self, presented: &[u8]) -> Choice {
        self.0.ct_eq(presented)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
