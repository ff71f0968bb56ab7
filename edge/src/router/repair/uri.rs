//! Whether clients accept a URI. The strictest official client is the Python SDK 1.x: its resources use pydantic's
//! `AnyUrl`, which is the URL parser of browsers. So this rejects what that parser rejects: a missing scheme, an invalid
//! host, an invalid port.
//!
//! Two checks of web hosts are left to the client because they need tables: whether a name with non-ASCII characters is
//! valid, and whether the punycode after `xn--` is.
//
// URL Standard (whatwg) §3.5 and §4.4, which pydantic-core 2.x uses through the `url` crate; probed with pydantic 2.14 and
// `UrlConstraints(host_required=False)`, as in mcp 1.x. RFC 3986 is stricter in some places: `memo:a b` is accepted here.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use super::super::uri_syntax::{Authority, percent_byte, split_scheme, trimmed, web_port};

/// Whether clients accept `text` as a URI.
pub(super) fn is_uri(text: &str) -> bool {
    let text = trimmed(text);
    let Some((scheme, rest)) = split_scheme(&text) else { return false };
    if web_port(scheme).is_some() {
        return authority(rest.trim_start_matches(SLASHES), Host::OfWeb);
    }
    if scheme.eq_ignore_ascii_case("file") {
        let rest = rest.strip_prefix(SLASHES).and_then(|rest| rest.strip_prefix(SLASHES));
        return rest.is_none_or(|rest| file_host(until(rest, OF_WEB_END)));
    }
    rest.strip_prefix("//").is_none_or(|rest| authority(rest, Host::Opaque))
}

#[derive(Clone, Copy, PartialEq)]
enum Host {
    /// A domain name or an IP address.
    OfWeb,
    /// Whatever the scheme defines, or nothing.
    Opaque,
}

/// Whether `text` begins with a valid user, host and port.
fn authority(text: &str, kind: Host) -> bool {
    let all = until(text, if kind == Host::OfWeb { OF_WEB_END } else { OPAQUE_END });
    let Authority { user, host, port } = Authority::split(all);
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

/// An empty port is the default of the scheme. A backslash ends the port, also in schemes where it does not end the host.
fn is_port(text: &str) -> bool {
    let digits = until(text, &['\\']).trim_start_matches('0');
    digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits.is_empty() || digits.parse::<u16>().is_ok())
}

/// The host of a `file:` URI is a web host, a drive, or empty.
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
    // U+FFFD stands for bytes that the server could not decode; no name contains it.
    !host.is_empty() && !host.contains(never) && !host.contains(char::REPLACEMENT_CHARACTER) && v4(&host)
}

fn v6(host: &str) -> bool {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    inner.is_some_and(|inner| inner.parse::<Ipv6Addr>().is_ok())
}

/// Whether a host is a valid IPv4 address or does not look like one. A host that ends in a number must be an address.
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

/// A part of an IPv4 address: decimal, hexadecimal after `0x`, or octal after `0`.
fn v4_part(part: &str) -> Option<u64> {
    let hexadecimal = part.strip_prefix("0x").or_else(|| part.strip_prefix("0X"));
    let (digits, radix) = match (hexadecimal, part.strip_prefix('0')) {
        (Some(""), _) => return Some(0),
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) if !digits.is_empty() => (digits, 8),
        _ => (part, 10),
    };
    let is_number = !digits.is_empty() && digits.chars().all(|one| one.is_digit(radix));
    // A number that is too large for an address is still a number.
    is_number.then(|| u64::from_str_radix(digits, radix).unwrap_or(u64::MAX))
}

/// The host with its percent-encoding decoded; `None` if that is not UTF-8.
fn decoded(host: &str) -> Option<Cow<'_, str>> {
    if !host.contains('%') {
        return Some(host.into());
    }
    let mut bytes = Vec::with_capacity(host.len());
    let mut left = host.as_bytes();
    while let Some((&first, rest)) = left.split_first() {
        let (byte, rest) = percent_byte(left).unwrap_or((first, rest));
        bytes.push(byte);
        left = rest;
    }
    String::from_utf8(bytes).ok().map(Cow::from)
}

fn until<'a>(text: &'a str, ends: &[char]) -> &'a str {
    text.split(ends).next().unwrap_or_default()
}

const SLASHES: [char; 2] = ['/', '\\'];
const OF_WEB_END: &[char] = &['/', '\\', '?', '#'];
const OPAQUE_END: &[char] = &['/', '?', '#'];
const NEVER_IN_HOST: [char; 14] = ['\0', ' ', '#', '/', ':', '<', '>', '?', '@', '[', '\\', ']', '^', '|'];

#[cfg(test)]
mod tests {
    use super::*;

    // The expectations are what pydantic 2.14 returns.
    #[test]
    fn is_uri_accepts_what_pydantic_accepts() {
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
    fn is_uri_rejects_what_pydantic_rejects() {
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
