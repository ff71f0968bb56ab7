//! The addresses of bridges: parsed once, resolved again for each connection, which are spread over the resulting
//! endpoints.

use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// A configured address: `host:port`, `[::1]:port` or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A name or an IP address, and a port.
    Tcp {
        /// Without brackets.
        host: String,
        /// Never 0.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
}

/// Where one connection goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) enum Endpoint {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// A local process.
    Process,
}

impl Address {
    /// The one endpoint of an address that is no name, which needs no look-up.
    pub(super) fn literal(&self) -> Option<Endpoint> {
        match self {
            Self::Tcp { host, port } => Some(Endpoint::Tcp(SocketAddr::new(host.parse().ok()?, *port))),
            Self::Unix(path) => Some(Endpoint::Unix(path.clone())),
        }
    }

    /// The endpoints of the address now; a name may have several.
    pub(super) async fn resolve(&self) -> io::Result<Vec<Endpoint>> {
        match self {
            Self::Tcp { host, port } => {
                let found = tokio::net::lookup_host((host.as_str(), *port)).await?;
                Ok(found.map(Endpoint::Tcp).collect())
            }
            Self::Unix(path) => Ok(vec![Endpoint::Unix(path.clone())]),
        }
    }
}

/// The endpoints in the order in which to try them: by rank, and among equals starting with another one each `turn`,
/// so that replicas of the edge that start together do not all go to the first.
pub(in crate::upstream) fn spread<Rank: Ord>(
    mut endpoints: Vec<Endpoint>,
    turn: usize,
    rank: impl Fn(&Endpoint) -> Rank,
) -> Vec<Endpoint> {
    if let Some(shift) = turn.checked_rem(endpoints.len()) {
        endpoints.rotate_left(shift);
    }
    endpoints.sort_by_cached_key(rank);
    endpoints
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self::Unix(path)) } else { Err(bad()) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().ok().filter(|&port| port != 0).ok_or_else(bad)?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) => inner.parse::<Ipv6Addr>().map_err(|_| bad())?.to_string(),
            None => host.to_owned(),
        };
        let is_name = !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if is_name || host.parse::<Ipv6Addr>().is_ok() && text.starts_with('[') {
            return Ok(Self::Tcp { host, port });
        }
        Err(bad())
    }
}

/// A text that is not an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadAddress(String);

impl fmt::Display for BadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no address; write host:port, [::1]:port or unix:/absolute/path", self.0)
    }
}

impl std::error::Error for BadAddress {}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Process => f.write_str("process"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_they_were_written() {
        for text in
            ["mcp-time:4444", "127.0.0.1:1", "[::1]:4444", "unix:/run/mcp/time.sock", "a.b-c.svc:65535"]
        {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_sentence() {
        for text in
            ["", "host", "host:", ":4444", "host:0", "host:65536", "::1:4444", "[x]:1", "unix:rel", "a b:1"]
        {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.to_string().contains("host:port"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_literal_resolves_to_itself() {
        for text in ["127.0.0.1:4444", "[::1]:4444", "unix:/run/a.sock"] {
            let address: Address = text.parse().unwrap();
            let literal = address.literal().unwrap();
            assert_eq!(literal.to_string(), text);
            assert_eq!(address.resolve().await.unwrap(), [literal]);
        }
        for name in ["localhost:1", "1.2.3:1", "a.1:1"] {
            assert_eq!(name.parse::<Address>().unwrap().literal(), None, "{name}");
        }
    }

    #[test]
    fn the_least_loaded_comes_first_and_equals_take_turns() {
        let endpoint = |port: u16| Endpoint::Tcp(([127, 0, 0, 1], port).into());
        let all: Vec<_> = (1..=3).map(endpoint).collect();
        let load = |e: &Endpoint| usize::from(*e == endpoint(1));
        assert_eq!(spread(all.clone(), 0, load), [endpoint(2), endpoint(3), endpoint(1)]);
        assert_eq!(spread(all.clone(), 2, load), [endpoint(3), endpoint(2), endpoint(1)]);
        assert_eq!(spread(all.clone(), 4, |_| 0), [endpoint(2), endpoint(3), endpoint(1)]);
        assert!(spread(Vec::new(), 4, |_| 0).is_empty());
    }
}
