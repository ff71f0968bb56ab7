//! The canonical form of a URI: two URIs that have the same one are spellings of one identifier. Many clients parse the
//! URIs of a list and send them back in the spelling of their parser, which is the URL parser of browsers in Python SDKs.
//!
//! The form is ASCII, and it is its own canonical form. It only serves to compare: servers never see it.
//
// RFC 3986 §6.2.2 (case, percent-encoding, dot segments) and §6.2.3 (empty path, default port), and what the URL Standard
// (whatwg) §4.4 equates besides: spaces around, `\` as `/` in web and `file` URIs, RFC 8089's `file:/x`. Compared with
// pydantic 2.13. Names with non-ASCII characters in web hosts are left out, because punycode needs tables; so is another
// notation of an IP address.
//
// Narrower than RFC 3986 as in the URL Standard §3.5 and §4.4: only web and `file` URIs have a host whose case does not
// count, and an empty path that is `/`. In other schemes the place of the host often holds an id, as in `note://{id}`.

use std::borrow::Cow;

use super::template::URI_BYTES;

/// The canonical form of `uri`; `None` without a scheme, or for what is too long to be looked up.
pub(super) fn canonical(uri: &str) -> Option<String> {
    if uri.len() > URI_BYTES {
        return None;
    }
    let text = uri.trim_matches(|one| one <= ' ');
    let text = replaced(text, PASSED_OVER, "");
    let (scheme, rest) = text.split_once(':')?;
    if !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
        return None;
    }
    let scheme = scheme.to_ascii_lowercase();
    let (place, tail) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let port = WEB.iter().find(|(web, _)| *web == scheme).map(|(_, port)| *port);
    let (authority, path) = match scheme.as_str() {
        _ if port.is_some() => {
            let place = replaced(place, &['\\'], "/");
            let (authority, path) = split_authority(place.trim_start_matches('/'));
            (Some(Cow::from(authority.to_owned())), path.to_owned())
        }
        "file" => file(&replaced(place, &['\\'], "/")),
        _ => match place.strip_prefix("//").map(split_authority) {
            Some((authority, path)) => (Some(authority.into()), path.to_owned()),
            None => (None, place.to_owned()),
        },
    };
    let mut out = format!("{scheme}:");
    if let Some(authority) = &authority {
        let host = if port.is_some() || scheme == "file" { Place::Host } else { Place::OpaqueHost };
        put_authority(&mut out, authority, (host, port));
    }
    put_path(&mut out, &path, authority.is_some());
    if path.is_empty() && port.is_some() {
        out.push('/');
    }
    put(&mut out, tail, Place::Tail);
    Some(out)
}

fn replaced<'t>(text: &'t str, all: &[char], with: &str) -> Cow<'t, str> {
    if text.contains(all) { text.replace(all, with).into() } else { text.into() }
}

/// The authority and the path of what follows `//`.
fn split_authority(text: &str) -> (&str, &str) {
    text.split_at(text.find('/').unwrap_or(text.len()))
}

/// The authority and the path of a `file` URI: it always has both, and a drive is not a host.
fn file(place: &str) -> (Option<Cow<'static, str>>, String) {
    let (authority, path) = place.strip_prefix("//").map_or(("", place), split_authority);
    let is_drive = matches!(authority.as_bytes(), [letter, b':'] if letter.is_ascii_alphabetic());
    let drive = if is_drive { authority } else { "" };
    let host = if is_drive || authority.eq_ignore_ascii_case("localhost") { "" } else { authority };
    let slash = if is_drive || !path.starts_with('/') { "/" } else { "" };
    (Some(host.to_owned().into()), [slash, drive, path].concat())
}

/// Adds user, host and port. A port that is the scheme's own is left out.
fn put_authority(out: &mut String, authority: &str, (of_host, default): (Place, Option<u16>)) {
    out.push_str("//");
    let (user, place) = match authority.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, authority),
    };
    if let Some(user) = user {
        put(out, user, Place::User);
        out.push('@');
    }
    // The colons of an IPv6 address stand in brackets.
    let colon = place.rfind(':').filter(|colon| !place.get(*colon..).is_some_and(|port| port.contains(']')));
    let (host, port) = place.split_at(colon.unwrap_or(place.len()));
    // An IPv6 address is no id: parsers read it in every scheme.
    put(out, host, if host.starts_with('[') { Place::Host } else { of_host });
    let port = port.strip_prefix(':').unwrap_or_default();
    match port.parse::<u16>() {
        Ok(number) if Some(number) == default => {}
        Ok(number) => out.push_str(&format!(":{number}")),
        Err(_) if port.is_empty() => {}
        Err(_) => {
            out.push(':');
            put(out, port, of_host);
        }
    }
}

/// Adds the path without dot segments; one that does not begin with `/` has no segments.
fn put_path(out: &mut String, path: &str, has_authority: bool) {
    let mut encoded = String::with_capacity(path.len());
    put(&mut encoded, path, Place::Path);
    let Some(segments) = encoded.strip_prefix('/') else {
        out.push_str(&encoded);
        return;
    };
    // RFC 3986 §5.2.4
    let (mut kept, mut ends_in_dots) = (Vec::new(), false);
    for segment in segments.split('/') {
        ends_in_dots = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    if ends_in_dots {
        kept.push("");
    }
    // Without this a path that begins with `//` would read as an authority.
    if !has_authority && kept.len() > 1 && kept.first() == Some(&"") {
        out.push_str("/.");
    }
    for segment in kept {
        out.push('/');
        out.push_str(segment);
    }
}

/// Where a character stands in a URI.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    User,
    /// A name or an address: case does not count.
    Host,
    /// Whatever the scheme defines.
    OpaqueHost,
    Path,
    /// Query and fragment, with the characters that begin them.
    Tail,
}

impl Place {
    /// The characters that mean something else here when they are percent-encoded.
    fn reserves(self, byte: u8) -> bool {
        let more: &[u8] = match self {
            Self::User => b":",
            Self::Host | Self::OpaqueHost => b":[]",
            Self::Path => b":@/",
            Self::Tail => b":@/?#",
        };
        b"!$&'()*+,;=".contains(&byte) || more.contains(&byte)
    }

    /// Whether the character means the same encoded or not. Clients encode the apostrophe in queries (URL Standard §1.3,
    /// special-query percent-encode set).
    fn is_plain(self, byte: u8) -> bool {
        byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || self == Self::Tail && byte == b'\''
    }
}

/// Adds `text` in the one encoding that RFC 3986 §6.2.2 leaves: reserved characters stay as they are, encoded or not; of
/// the others the unreserved ones are decoded and the rest is encoded. A `%` that encodes nothing stands for itself.
fn put(out: &mut String, text: &str, place: Place) {
    let mut left = text.as_bytes();
    while let Some((&first, rest)) = left.split_first() {
        let digit = |at: usize| rest.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let code = digit(0).zip(digit(1)).filter(|_| first == b'%');
        let code = code.and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        let byte = code.unwrap_or(first);
        left = if code.is_some() { rest.get(2..).unwrap_or_default() } else { rest };
        if place.is_plain(byte) || code.is_none() && place.reserves(byte) {
            out.push(char::from(if place == Place::Host { byte.to_ascii_lowercase() } else { byte }));
        } else {
            out.push('%');
            out.extend([byte >> 4, byte & 15].iter().filter_map(|digit| HEX.get(usize::from(*digit))));
        }
    }
}

/// The schemes whose parsers read `\` as `/`, require a host, and know a port.
const WEB: [(&str, u16); 5] = [("http", 80), ("https", 443), ("ws", 80), ("wss", 443), ("ftp", 21)];
/// Parsers read URIs as if these were not there.
const PASSED_OVER: &[char] = &['\t', '\n', '\r'];
const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];

#[cfg(test)]
mod tests;
