//! Where a listener listens: an address as configured, and the sockets for it.
//!
//! `[::]:8811` is one dual-stack socket, or an IPv4 one where the machine has no IPv6. A name such as
//! `localhost` gets a socket for every address that it resolves to, whichever a client tries first.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, lookup_host};

/// `host:port`. An empty host means every address, as in Go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

/// A text that is not an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadAddress(String);

/// An address that could not be listened on.
#[derive(Debug)]
pub struct BindError {
    address: Address,
    source: io::Error,
}

impl Address {
    /// `host` without brackets; empty for every address.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        let host = host.into();
        Self { host: if host.is_empty() { EVERY.to_owned() } else { host }, port }
    }

    /// This host with another port.
    pub fn with_port(&self, port: u16) -> Self {
        Self { host: self.host.clone(), port }
    }

    /// This port with another host.
    pub fn with_host(&self, host: &str) -> Self {
        Self::new(host.trim_start_matches('[').trim_end_matches(']'), self.port)
    }

    /// The host, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; 0 lets the system choose.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether only this machine can reach it. A name other than `localhost` counts as public, because what it resolves to
    /// may change.
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.to_canonical().is_loopback(),
            Err(_) => self.host.eq_ignore_ascii_case("localhost"),
        }
    }

    /// Listens on every socket address of this address.
    ///
    /// # Errors
    /// The address, and the system's error.
    pub async fn bind(&self) -> Result<Vec<TcpListener>, BindError> {
        self.try_bind().await.map_err(|source| BindError { address: self.clone(), source })
    }

    async fn try_bind(&self) -> io::Result<Vec<TcpListener>> {
        if self.host == EVERY {
            let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.port));
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.port));
            return match socket(v6) {
                Err(error) if lacks_ipv6(&error) => Ok(vec![socket(v4)?]),
                other => Ok(vec![other?]),
            };
        }
        let mut addresses: Vec<_> = lookup_host((self.host.as_str(), self.port)).await?.collect();
        addresses.sort_unstable();
        addresses.dedup();
        // A name may have an IPv6 address on a machine that has none: one socket that works is enough.
        let (bound, failed): (Vec<_>, Vec<_>) = addresses.into_iter().map(socket).partition(Result::is_ok);
        let bound: Vec<_> = bound.into_iter().flatten().collect();
        match failed.into_iter().find_map(Result::err) {
            Some(error) if bound.is_empty() || !lacks_ipv6(&error) => Err(error),
            None if bound.is_empty() => Err(io::ErrorKind::AddrNotAvailable.into()),
            _ => Ok(bound),
        }
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().map_err(|_| bad())?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(v6) => v6.parse::<Ipv6Addr>().map_err(|_| bad())?.to_string(),
            None if host.contains([':', '[', ']', '/', ' ']) => return Err(bad()),
            None => host.to_owned(),
        };
        Ok(Self::new(host, port))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for BadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no address to listen on; write host:port, for example [::]:8811", self.0)
    }
}

impl std::error::Error for BadAddress {}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}", self.address)
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

fn socket(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?; // whatever the machine's `net.ipv6.bindv6only` says
    }
    // Without it, a restart would have to wait until old connections leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Whether IPv6 is missing: kernels without it refuse the family; kernels where it is switched off refuse the address.
fn lacks_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.raw_os_error() == Some(EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable
}

/// The dual-stack host.
const EVERY: &str = "::";
/// Connections that the kernel holds until they are accepted. 4,096: the default cap (`net.core.somaxconn`) since Linux 5.4;
/// enough for a burst of reconnects after a restart.
const BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpStream;

    #[test]
    fn addresses_read_as_people_write_them() {
        for (text, shown, loopback) in [
            ("[::]:8811", "[::]:8811", false),
            (":8811", "[::]:8811", false),
            ("0.0.0.0:1", "0.0.0.0:1", false),
            ("127.0.0.1:9090", "127.0.0.1:9090", true),
            ("[::1]:0", "[::1]:0", true),
            ("[::ffff:127.0.0.1]:0", "[::ffff:127.0.0.1]:0", true),
            ("localhost:80", "localhost:80", true),
            ("edge.internal:80", "edge.internal:80", false),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.to_string().as_str(), address.is_loopback()), (shown, loopback));
        }
        for text in ["", "8811", "::1:80", "[::1]", "host:", "host:70000", "http://host:80", "[x]:1"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn host_and_port_can_be_set_apart() {
        let address: Address = "[::]:8811".parse().unwrap();
        assert_eq!(address.with_host("127.0.0.1").with_port(80).to_string(), "127.0.0.1:80");
        assert_eq!(address.with_host("[::1]").to_string(), "[::1]:8811");
        assert_eq!(address.with_host("").to_string(), "[::]:8811");
    }

    #[tokio::test]
    async fn every_address_takes_ipv4_too() {
        let sockets = Address::new("", 0).bind().await.unwrap();
        let port = sockets[0].local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let first = Address::new("127.0.0.1", 0).bind().await.unwrap();
        let taken = Address::new("127.0.0.1", first[0].local_addr().unwrap().port());
        let error = taken.bind().await.unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on {taken}"));
        assert!(std::error::Error::source(&error).is_some());
    }
}
