//! Where the bridge listens, and how to reach a bridge that listens there.
//!
//! An address is numeric or `localhost`. Resolving other names would pull the C library's resolver into a static binary, and
//! listening needs no names.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, connect, listen, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

/// A valid listen address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// Every address of both families on one socket; IPv4 alone where the kernel has no IPv6.
    Any(u16),
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What [`Address::listen`] gives.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Address {
    /// The port the Go tool of the same name has always used.
    pub(crate) const DEFAULT: Self = Self::Any(4444);

    /// Reads `host:port`, `:port`, `[v6]:port` or `unix:/path`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with `text`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(format!("`{text}` names no path; write unix:/path/to/socket")),
                path => Ok(Self::Unix(PathBuf::from(path))),
            };
        }
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("`{text}` is not an address; write host:port or unix:/path"))?;
        let port =
            port.parse::<u16>().map_err(|_| format!("`{port}` in `{text}` is not a port (0 to 65535)"))?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match host {
            "" | "::" => Ok(Self::Any(port)),
            "localhost" => Ok(Self::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))),
            host => match host.parse::<IpAddr>() {
                Ok(ip) => Ok(Self::Tcp(SocketAddr::new(ip, port))),
                Err(_) => {
                    Err(format!("`{host}` in `{text}` is not an IP address; names are not resolved here"))
                }
            },
        }
    }

    /// Binds and listens.
    ///
    /// # Errors
    /// The kernel's error. A unix path that another process listens on, or that is not a socket, is in use.
    pub(crate) fn listen(&self) -> io::Result<Listener> {
        match self {
            Self::Any(port) => listen_any(*port, listen_tcp).map(Listener::Tcp).map_err(io::Error::from),
            Self::Tcp(address) => listen_tcp(*address).map(Listener::Tcp).map_err(io::Error::from),
            Self::Unix(path) => listen_unix(path).map(Listener::Unix),
        }
    }

    /// Connects and closes the connection. No byte is sent, so no process starts.
    ///
    /// # Errors
    /// The kernel's error, or a timeout.
    pub(crate) fn probe(&self, timeout: Duration) -> io::Result<()> {
        let probe_tcp =
            |ip: IpAddr, port: u16| TcpStream::connect_timeout(&SocketAddr::new(ip, port), timeout).map(drop);
        match self {
            Self::Any(port) => probe_tcp(Ipv4Addr::LOCALHOST.into(), *port)
                .or_else(|error| probe_tcp(Ipv6Addr::LOCALHOST.into(), *port).map_err(|_| error)),
            Self::Tcp(address) if address.ip().is_unspecified() => {
                probe_tcp(Ipv4Addr::LOCALHOST.into(), address.port())
            }
            Self::Tcp(address) => probe_tcp(address.ip(), address.port()),
            Self::Unix(path) => probe_unix(path, timeout).map_err(io::Error::from),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any(port) => write!(f, "[::]:{port}"),
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

fn listen_any<T>(port: u16, listen: impl Fn(SocketAddr) -> nix::Result<T>) -> nix::Result<T> {
    match listen(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)) {
        // A kernel without IPv6, or one where it is switched off.
        Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => {
            listen(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))
        }
        other => other,
    }
}

fn listen_tcp(address: SocketAddr) -> nix::Result<TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd: OwnedFd = socket(family, SockType::Stream, flags, None)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &false)?;
    }
    // A restart must not wait for the TIME_WAIT of its predecessor's connections.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN))?;
    Ok(TcpListener::from(fd))
}

/// Connects and hangs up. Where somebody listens who does not accept, a connect waits for room in the backlog, for ever
/// unless a time is set (unix(7)).
fn probe_unix(path: &Path, timeout: Duration) -> nix::Result<()> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let timeout = TimeVal::new(timeout.as_secs().cast_signed(), timeout.subsec_micros().into());
    setsockopt(&fd, sockopt::SendTimeout, &timeout)?;
    match connect(fd.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::EAGAIN) => Err(Errno::ETIMEDOUT),
        other => other,
    }
}

fn listen_unix(path: &PathBuf) -> io::Result<UnixListener> {
    if let Ok(found) = fs::symlink_metadata(path) {
        let abandoned = found.file_type().is_socket()
            && probe_unix(path, PREDECESSOR_TIMEOUT) == Err(Errno::ECONNREFUSED);
        if !abandoned {
            return Err(io::Error::from(Errno::EADDRINUSE));
        }
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    // The other container of a pod runs as another user; `fsGroup` gives both the group of the volume.
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Room for a burst of connects while a process is being started; the kernel clamps it to `somaxconn`.
const BACKLOG: i32 = 4096;
/// For whoever listens on a unix path already. 100 ms: an abandoned socket refuses at once, and any other answer, or
/// none, means that it is in use.
const PREDECESSOR_TIMEOUT: Duration = Duration::from_millis(100);
/// Owner and group may connect.
const SOCKET_MODE: u32 = 0o660;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form_an_address_is_written_in() {
        assert_eq!(Address::parse(":4444"), Ok(Address::Any(4444)));
        assert_eq!(Address::parse("[::]:4444"), Ok(Address::Any(4444)));
        assert_eq!(Address::parse("0.0.0.0:1"), Ok(Address::Tcp(([0, 0, 0, 0], 1).into())));
        assert_eq!(Address::parse("localhost:1"), Ok(Address::Tcp(([127, 0, 0, 1], 1).into())));
        assert_eq!(Address::parse("[::1]:1"), Ok(Address::Tcp((Ipv6Addr::LOCALHOST, 1).into())));
        assert_eq!(Address::parse("unix:/run/a.sock"), Ok(Address::Unix("/run/a.sock".into())));
    }

    #[test]
    fn refuses_with_a_sentence_that_names_the_part() {
        for (text, part) in [
            ("4444", "4444"),
            ("a:b", "`b`"),
            ("unix:", "path"),
            ("host:1", "`host`"),
            ("1.2.3.4:70000", "70000"),
        ] {
            let sentence = Address::parse(text).expect_err(text);
            assert!(sentence.contains(part), "{text}: {sentence}");
        }
    }

    #[test]
    fn without_ipv6_the_default_is_ipv4_and_other_errors_stay() {
        let without_v6 =
            |address: SocketAddr| if address.is_ipv6() { Err(Errno::EAFNOSUPPORT) } else { Ok(address) };
        assert_eq!(listen_any(4444, without_v6), Ok(([0, 0, 0, 0], 4444).into()));
        assert_eq!(listen_any(4444, |_| Err::<(), _>(Errno::EADDRINUSE)), Err(Errno::EADDRINUSE));
    }
}
