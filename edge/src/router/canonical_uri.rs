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

use super::template::URI_BYTES;
use super::uri_syntax::{Authority, percent_byte, split_scheme, trimmed, web_port};

/// The canonical form of `uri`; `None` without a scheme or the host of a web URI, or for what is too long to be looked up.
pub(super) fn canonical(uri: &str) -> Option<String> {
    if uri.len() > URI_BYTES {
        return None;
    }
    let text = trimmed(uri);
    let (scheme, rest) = split_scheme(&text)?;
    let scheme = scheme.to_ascii_lowercase();
    let (place, tail) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let port = web_port(&scheme);
    let (authority, path) = match scheme.as_str() {
        _ if port.is_some() => {
            let place = place.replace('\\', "/");
            let (authority, path) = split_authority(place.trim_start_matches('/'));
            if Authority::split(authority).host.is_empty() {
                return None;
            }
            (Some(authority.to_owned()), path.to_owned())
        }
        "file" => {
            let (authority, path) = file(&place.replace('\\', "/"));
            (Some(authority), path)
        }
        _ => match place.strip_prefix("//").map(split_authority) {
            Some((authority, path)) => (Some(authority.to_owned()), path.to_owned()),
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

/// The authority and the path of what follows `//`.
fn split_authority(text: &str) -> (&str, &str) {
    text.split_at(text.find('/').unwrap_or(text.len()))
}

/// The authority and the path of a `file` URI: it always has both, and a drive is not a host.
fn file(place: &str) -> (String, String) {
    let (authority, path) = place.strip_prefix("//").map_or(("", place), split_authority);
    let is_drive = matches!(authority.as_bytes(), [letter, b':'] if letter.is_ascii_alphabetic());
    let drive = if is_drive { authority } else { "" };
    let host = if is_drive || authority.eq_ignore_ascii_case("localhost") { "" } else { authority };
    let slash = if is_drive || !path.starts_with('/') { "/" } else { "" };
    (host.to_owned(), [slash, drive, path].concat())
}

/// Adds user, host and port. A port that is the scheme's own is left out.
fn put_authority(out: &mut String, authority: &str, (of_host, default): (Place, Option<u16>)) {
    out.push_str("//");
    let Authority { user, host, port } = Authority::split(authority);
    if let Some(user) = user {
        put(out, user, Place::User);
        out.push('@');
    }
    // An IPv6 address is no id: parsers read it in every scheme.
    put(out, host, if host.starts_with('[') { Place::Host } else { of_host });
    let port = port.unwrap_or_default();
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
        let encoded = percent_byte(left);
        let (byte, rest) = encoded.unwrap_or((first, rest));
        left = rest;
        if place.is_plain(byte) || encoded.is_none() && place.reserves(byte) {
            out.push(char::from(if place == Place::Host { byte.to_ascii_lowercase() } else { byte }));
        } else {
            out.push('%');
            out.extend([byte >> 4, byte & 15].iter().filter_map(|digit| HEX.get(usize::from(*digit))));
        }
    }
}

const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];

#[cfg(test)]
mod tests;
