//! What `hosts` and `cors.origins` list, checked once where it is read, so that a request only compares.
//!
//! Guarantees: each is something that a client can send. What could never be met would look like a gateway that refuses
//! everybody.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// A name that the gateway answers to, with a port (only that one) or without (any).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// In lower case, an IPv6 address in brackets, as requests have it.
    pub(super) name: String,
    /// Never 0.
    pub(super) port: Option<u16>,
}

/// The origin of web pages, to the letter as browsers send it.
// RFC 6454 §6.2: scheme, host and port, nothing else; a default port is left out
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// A text that is no [`Host`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadHost(String);

/// A text that is no [`Origin`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadOrigin(String);

impl Origin {
    pub(super) fn is(&self, sent: &[u8]) -> bool {
        self.0.as_bytes().eq_ignore_ascii_case(sent)
    }
}

impl FromStr for Host {
    type Err = BadHost;

    fn from_str(text: &str) -> Result<Self, BadHost> {
        let bad = || BadHost(text.to_owned());
        let text = text.trim();
        let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) if is_port(port) => {
                (name, Some(port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?))
            }
            // Without a port it is a name, or an address whose brackets hold the colons.
            _ => (text, None),
        };
        let name = match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            // Clients shorten addresses in one way, people in several.
            Some(inner) => format!("[{}]", inner.parse::<Ipv6Addr>().map_err(|_| bad())?),
            None if is_name(name) => name.to_ascii_lowercase(),
            None => return Err(bad()),
        };
        Ok(Self { name, port })
    }
}

fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !text.is_empty() && text.bytes().all(fits)
}

impl FromStr for Origin {
    type Err = BadOrigin;

    fn from_str(text: &str) -> Result<Self, BadOrigin> {
        let bad = || BadOrigin(text.to_owned());
        let (scheme, rest) = text.trim().split_once("://").ok_or_else(bad)?;
        let scheme = scheme.to_ascii_lowercase();
        let default = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => return Err(bad()),
        };
        // As people copy it from the address bar.
        let Host { name, port } = rest.strip_suffix('/').unwrap_or(rest).parse().map_err(|_| bad())?;
        let port = port.filter(|port| *port != default).map(|port| format!(":{port}")).unwrap_or_default();
        Ok(Self(format!("{scheme}://{name}{port}")))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for BadHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = "is no name of a host; write it without https:// and path, with a port if only that one counts, for \
                    example edge.example.com, 10.0.0.7:8811 or [::1]";
        write!(f, "`{}` {text}", self.0)
    }
}

impl fmt::Display for BadOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no origin; write for example https://app.example.com", self.0)
    }
}

impl std::error::Error for BadHost {}

impl std::error::Error for BadOrigin {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_request_could_meet_is_refused() {
        for text in [
            "",
            " ",
            "https://127.0.0.1:21541",
            "127.0.0.1/",
            "user@edge.example",
            "*.edge.example",
            "*",
            "edge.example:",
            "edge.example:0",
            "edge.example:65536",
            "edge.example:https",
            ":8811",
            "::1",
            "[::1",
            "[edge]",
            "a b",
            "größe.example",
        ] {
            let error = text.parse::<Host>().expect_err(text).to_string();
            assert!(error.contains("edge.example.com"), "{error}");
        }
        for text in [
            "*",
            "null",
            "app.example.com",
            "ftp://app.example.com",
            "https://",
            "https://*.example.com",
            "https://app.example.com/path",
            "https://app.example.com//",
            "https://user@app.example.com",
            "https://app.example.com?a",
            "https://app.example.com:",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_in_other_ways_is_kept_as_it_is_sent() {
        for (text, kept) in [
            ("Edge.Example", "edge.example"),
            (" edge.example:8811 ", "edge.example:8811"),
            ("my_edge", "my_edge"),
            ("[::1]", "[::1]"),
            ("[0:0:0:0:0:0:0:1]:80", "[::1]:80"),
        ] {
            assert_eq!(text.parse::<Host>().expect(text).to_string(), kept);
        }
        for (text, kept) in [
            (" HTTPS://App.example.com/ ", "https://app.example.com"),
            ("https://app.example.com:443", "https://app.example.com"),
            ("http://localhost:6274", "http://localhost:6274"),
            ("http://app.example.com:443", "http://app.example.com:443"),
        ] {
            assert_eq!(text.parse::<Origin>().expect(text).to_string(), kept);
        }
    }
}
