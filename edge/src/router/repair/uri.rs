//! Whether a client reads a URI. The strictest of the official ones is the Python SDK 1.x: its resources have pydantic's
//! `AnyUrl`, which is the URL parser of browsers, so this is what that parser refuses: no scheme, a host that is none, a
//! port that is none.
//!
//! It decides no more than that. Two things of a web host it leaves to the client, for they need tables: whether a name
//! above ASCII may be one, and whether the punycode behind `xn--` is any.
//
// URL Standard (whatwg) §3.5 and §4.4, as pydantic-core 2.x has it from the `url` crate; probed with pydantic 2.14 and
// `UrlConstraints(host_required=False)`, which is how mcp 1.x has it. RFC 3986 is narrower in some places: `memo:a b` is
// taken.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// Whether clients take `text` for a URI.
pub(super) fn is_uri(text: &str) -> bool {
    let text = text.trim_matches(|one| one <= ' ');
    let text =
        if text.contains(PASSED_OVER) { text.replace(PASSED_OVER, "").into() } else { Cow::from(text) };
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let begins = scheme.starts_with(|first: char| first.is_ascii_alphabetic());
    let goes_on = |one: char| one.is_ascii_alphanumeric() || "+-.".contains(one);
    if !begins || !scheme.chars().all(goes_on) {
        return false;
    }
    let is = |one: &&str| one.eq_ignore_ascii_case(scheme);
    if WEB.iter().any(is) {
        return authority(rest.trim_start_matches(SLASHES), Host::OfWeb);
    }
    if is(&"file") {
        let rest = rest.strip_prefix(SLASHES).and_then(|rest| rest.strip_prefix(SLASHES));
        return rest.is_none_or(|rest| file_host(until(rest, OF_WEB_END)));
    }
    rest.strip_prefix("//").is_none_or(|rest| authority(rest, Host::Opaque))
}

#[derive(Clone, Copy, PartialEq)]
enum Host {
    /// A name of the Internet or an address.
    OfWeb,
    /// Whatever the scheme has there, or nothing.
    Opaque,
}

/// User, host and port, as far as they go.
fn authority(text: &str, kind: Host) -> bool {
    let all = until(text, if kind == Host::OfWeb { OF_WEB_END } else { OPAQUE_END });
    let (user, place) = all.rsplit_once('@').map_or((None, all), |(user, place)| (Some(user), place));
    let mut in_brackets = false;
    let colon = place.find(|one| {
        in_brackets = one == '[' || in_brackets && one != ']';
        one == ':' && !in_brackets
    });
    let (host, port) = place.split_at(colon.unwrap_or(place.len()));
    let port = port.strip_prefix(':');
    if host.is_empty() {
        let may_be = match user {
            None | Some(":") => true,
            Some("") => all.len() == text.len(),
            Some(_) => false,
        };
        return kind == Host::Opaque && port.is_none() && may_be;
    }
    let host_fits = match kind {
        Host::OfWeb => web_host(host),
        Host::Opaque if host.starts_with('[') => v6(host),
        Host::Opaque => !host.contains(NEVER_IN_HOST),
    };
    host_fits && port.is_none_or(is_port)
}

/// The empty port is the scheme's own. A backslash ends it, also where it ends no host.
fn is_port(text: &str) -> bool {
    let digits = until(text, &['\\']).trim_start_matches('0');
    digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits.is_empty() || digits.parse::<u16>().is_ok())
}

/// The host of a file is that of a page, or a drive, or none.
fn file_host(host: &str) -> bool {
    let is_drive = matches!(host.as_bytes(), [letter, b':' | b'|'] if letter.is_ascii_alphabetic());
    host.is_empty() || is_drive || web_host(host)
}

fn web_host(host: &str) -> bool {
    if host.starts_with('[') {
        return v6(host);
    }
    let Some(host) = decoded(host) else { return false };
    let never = |one: char| one.is_ascii_control() || one == '%' || NEVER_IN_HOST.contains(&one);
    // What could not be decoded by the server was replaced by U+FFFD, which is in no name.
    !host.is_empty() && !host.contains(never) && !host.contains(char::REPLACEMENT_CHARACTER) && v4(&host)
}

fn v6(host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inner.is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok())
}

/// Whether a host that ends in a number is an address; one that does not is a name.
// URL Standard §3.5, "ends in a number checker" and "IPv4 parser"
fn v4(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_digits = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits && v4_part(last).is_none() {
        return true;
    }
    let parts = host.split('.').count();
    let room = u32::MAX.checked_shr(8 * (parts as u32 - 1)).filter(|_| parts <= 4);
    let mut all = host.split('.').enumerate();
    room.is_some_and(|room| {
        all.all(|(n, part)| {
            let most = if n + 1 == parts { room } else { 255 };
            v4_part(part).is_some_and(|value| value <= u64::from(most))
        })
    })
}

/// A part of an address: decimal, `0x` and hexadecimal digits, or `0` and octal ones.
fn v4_part(part: &str) -> Option<u64> {
    let hexadecimal = part.strip_prefix("0x").or_else(|| part.strip_prefix("0X"));
    let (digits, radix) = match (hexadecimal, part.strip_prefix('0')) {
        (Some(""), _) => return Some(0),
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) if !digits.is_empty() => (digits, 8),
        _ => (part, 10),
    };
    let is_number = !digits.is_empty() && digits.chars().all(|one| one.is_digit(radix));
    // Too large for an address is still a number.
    is_number.then(|| u64::from_str_radix(digits, radix).unwrap_or(u64::MAX))
}

/// What stands for itself once `%41` is read as `A`.
fn decoded(host: &str) -> Option<Cow<'_, str>> {
    if !host.contains('%') {
        return Some(host.into());
    }
    let mut bytes = Vec::with_capacity(host.len());
    let mut left = host.as_bytes();
    while let Some((&first, rest)) = left.split_first() {
        let digit = |at: usize| rest.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let code = digit(0).zip(digit(1)).filter(|_| first == b'%');
        match code.and_then(|(high, low)| u8::try_from(high << 4 | low).ok()) {
            Some(byte) => {
                bytes.push(byte);
                left = rest.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                left = rest;
            }
        }
    }
    String::from_utf8(bytes).ok().map(Cow::from)
}

fn until<'a>(text: &'a str, ends: &[char]) -> &'a str {
    text.split(ends).next().unwrap_or_default()
}

/// The schemes that a URI must have a host for.
const WEB: [&str; 5] = ["http", "https", "ws", "wss", "ftp"];
const SLASHES: [char; 2] = ['/', '\\'];
const PASSED_OVER: [char; 3] = ['\t', '\n', '\r'];
const OF_WEB_END: &[char] = &['/', '\\', '?', '#'];
const OPAQUE_END: &[char] = &['/', '?', '#'];
const NEVER_IN_HOST: [char; 14] = ['\0', ' ', '#', '/', ':', '<', '>', '?', '@', '[', '\\', ']', '^', '|'];

#[cfg(test)]
mod tests {
    use super::*;

    // Each verdict is that of pydantic 2.14.
    #[test]
    fn uris_are_those_that_clients_take() {
        for taken in [
            "a:b",
            " file:x\n",
            "file:///x",
            "file:///C:/a b",
            "file://C:/x",
            "file:",
            "memo://",
            "memo://a/b c",
            "memo:a b",
            "memo://a%b{c}",
            "memo://é:/x",
            "memo://u@a:65535/x",
            "m+x.-y://[::1]:80/",
            "custom:thing",
            "urn:isbn:1:99999",
            "http:host",
            "http://host:/",
            "http:\\\\u:p@host:0080\\x",
            "http://ex_ample/é b?q=|#y z",
            "http://é.com/",
            "http://%41/",
            "http://[::1.2.3.4]:80/",
            "http://256/",
            "http://0x7f.1./",
            "ftp://1.2.3.4.a/",
        ] {
            assert!(is_uri(taken), "{taken:?}");
        }
    }

    #[test]
    fn uris_that_a_client_refuses_are_none() {
        for refused in [
            "",
            "x",
            ":x",
            "1m://a",
            "a b:c",
            "é:x",
            "http:",
            "https://?x",
            "http://u@/",
            "http://:80/",
            "http://host:99999/",
            "http://host:8a/",
            "http://ex ample/",
            "http://ex%20ample/",
            "http://ex|ample/",
            "http://a%zz/",
            "http://%FF/",
            "http://\u{fffd}/",
            "http://[::1/",
            "http://[::1]x/",
            "http://[zz]/",
            "http://1.2.3.256/",
            "http://1.2.3.4.5/",
            "http://4294967296/",
            "http://08/",
            "file://host:99/x",
            "file://ho st/x",
            "memo://a b",
            "memo://a\\b",
            "memo://a:b/c",
            "memo://[::1/",
            "memo://:80",
            "memo://u@",
        ] {
            assert!(!is_uri(refused), "{refused:?}");
        }
    }
}
