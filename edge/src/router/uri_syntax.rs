//! How URI parsers read what all URIs have in common, for whether a URI is valid ([`super::repair`]) and for its canonical
//! form ([`super::canonical_uri`]).
//
// URL Standard (whatwg) §4.4

use std::borrow::Cow;

/// `text` as parsers read it: without spaces and control characters around, and without tabs and line ends inside.
pub(super) fn trimmed(text: &str) -> Cow<'_, str> {
    let text = text.trim_matches(|one| one <= ' ');
    if text.contains(PASSED_OVER) { text.replace(PASSED_OVER, "").into() } else { text.into() }
}

/// The scheme, and what follows its colon.
pub(super) fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let goes_on = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let is_valid =
        scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(goes_on);
    is_valid.then_some((scheme, rest))
}

/// The default port of a web scheme: one whose parsers read `\` as `/`, require a host, and know a port.
pub(super) fn web_port(scheme: &str) -> Option<u16> {
    WEB.iter().find(|(web, _)| web.eq_ignore_ascii_case(scheme)).map(|(_, port)| *port)
}

/// The parts of what follows `//`.
pub(super) struct Authority<'t> {
    pub(super) user: Option<&'t str>,
    pub(super) host: &'t str,
    pub(super) port: Option<&'t str>,
}

impl<'t> Authority<'t> {
    pub(super) fn split(text: &'t str) -> Self {
        let (user, place) = text.rsplit_once('@').map_or((None, text), |(user, place)| (Some(user), place));
        // The colons of an IPv6 address stand in brackets.
        let mut in_brackets = false;
        let colon = place.find(|one| {
            in_brackets = one == '[' || in_brackets && one != ']';
            one == ':' && !in_brackets
        });
        let (host, port) = place.split_at(colon.unwrap_or(place.len()));
        Self { user, host, port: port.strip_prefix(':') }
    }
}

/// The byte that `text` begins with in percent-encoding, and what follows it.
pub(super) fn percent_byte(text: &[u8]) -> Option<(u8, &[u8])> {
    let [b'%', high, low, rest @ ..] = text else { return None };
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let byte = u8::try_from(digit(high)? << 4 | digit(low)?).ok()?;
    Some((byte, rest))
}

const WEB: [(&str, u16); 5] = [("http", 80), ("https", 443), ("ws", 80), ("wss", 443), ("ftp", 21)];
/// Parsers read URIs as if these were not there.
const PASSED_OVER: [char; 3] = ['\t', '\n', '\r'];
