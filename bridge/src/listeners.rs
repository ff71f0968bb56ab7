//! The sockets the bridge accepts on.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use crate::address::{Address, Listener};
use crate::args::Settings;
use crate::connection::Peer;
use crate::failure::Failure;
use crate::poller::{Interest, Poller, Token, Watch};

pub(crate) struct Listeners {
    open: Vec<(Address, Listener, Watch)>,
}

impl Listeners {
    /// Binds every address of the settings.
    ///
    /// # Errors
    /// The address that cannot be bound, in a sentence.
    pub(crate) fn bind(settings: &Settings) -> Result<Self, Failure> {
        let mut listeners = Self { open: Vec::new() };
        for address in &settings.listen {
            let listener = address
                .listen()
                .and_then(|listener| {
                    if let Listener::Tcp(tcp) = &listener {
                        notice_vanished_clients(tcp, settings.client_timeout)?;
                    }
                    Ok(listener)
                })
                .map_err(|error| cannot_listen(address, &error))?;
            listeners.open.push((bound(address, &listener), listener, Watch::default()));
        }
        Ok(listeners)
    }

    /// Starts or stops notifications of new clients.
    ///
    /// # Errors
    /// The kernel's error.
    pub(crate) fn watch(&mut self, poller: &Poller, interest: Interest) -> nix::Result<()> {
        for (index, (_, listener, watch)) in self.open.iter_mut().enumerate() {
            poller.set(watch, listener.as_fd(), Token::Listener(index), interest.flags())?;
        }
        Ok(())
    }

    /// Takes one client from the backlog, if one is there.
    ///
    /// # Errors
    /// The bridge lacks descriptors or memory. Errors of a single client are ignored.
    pub(crate) fn accept(&self, index: usize) -> io::Result<Option<(OwnedFd, Peer)>> {
        let Some((_, listener, _)) = self.open.get(index) else { return Ok(None) };
        let accepted = match listener {
            Listener::Tcp(tcp) => tcp.accept().map(|(socket, peer)| (socket.into(), Peer::Tcp(peer))),
            Listener::Unix(unix) => unix.accept().map(|(socket, _)| (socket.into(), Peer::Unix)),
        };
        match accepted {
            Ok(accepted) => Ok(Some(accepted)),
            Err(error) if lacks_resources(&error) => Err(error),
            // WouldBlock: the backlog is empty. Otherwise the client has left, or its network failed (accept(2), Error
            // handling); epoll reports the next client again.
            Err(_) => Ok(None),
        }
    }

    /// Stops listening: clients in the backlog are reset, new ones refused.
    pub(crate) fn close(&mut self, poller: &Poller) {
        // The descriptors are closed next, which removes their registration too.
        let _ = self.watch(poller, Interest::Nothing);
        for (address, _, _) in self.open.drain(..) {
            if let Address::Unix(path) = address {
                let _ = fs::remove_file(path);
            }
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        for (address, _, _) in &self.open {
            if let Address::Unix(path) = address {
                let _ = fs::remove_file(path);
            }
        }
    }
}

impl fmt::Display for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (address, _, _)) in self.open.iter().enumerate() {
            write!(f, "{}{address}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(tcp) => tcp.as_fd(),
            Self::Unix(unix) => unix.as_fd(),
        }
    }
}

/// Sets the keep-alive and timeout options. Accepted sockets inherit them, so accepting costs no further system call.
fn notice_vanished_clients(listener: &impl AsFd, timeout: Duration) -> nix::Result<()> {
    let quarter = u32::try_from(timeout.as_secs() / 4).unwrap_or(u32::MAX);
    let whole = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    // With Nagle's algorithm an answer waits up to 40 ms for the acknowledgement of the one before.
    setsockopt(listener, sockopt::TcpNoDelay, &true)?;
    // A silent client: three probes, the first after a quarter of the timeout, then one each quarter.
    setsockopt(listener, sockopt::KeepAlive, &true)?;
    setsockopt(listener, sockopt::TcpKeepIdle, &quarter)?;
    setsockopt(listener, sockopt::TcpKeepInterval, &quarter)?;
    setsockopt(listener, sockopt::TcpKeepCount, &3)?;
    // A client in the middle of an answer: unacknowledged data, or a window that stays closed (RFC 5482).
    setsockopt(listener, sockopt::TcpUserTimeout, &whole)
}

/// The address as bound: port 0 is replaced by the port that the kernel chose.
fn bound(address: &Address, listener: &Listener) -> Address {
    match (address, listener) {
        (Address::Tcp(_), Listener::Tcp(tcp)) => {
            tcp.local_addr().map_or_else(|_| address.clone(), Address::Tcp)
        }
        (Address::Any(port), Listener::Tcp(tcp)) => match tcp.local_addr() {
            Ok(local) if local.is_ipv6() => Address::Any(local.port()),
            Ok(local) => Address::Tcp(local),
            Err(_) => Address::Any(*port),
        },
        _ => address.clone(),
    }
}

fn lacks_resources(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
    )
}

fn cannot_listen(address: &Address, error: &io::Error) -> Failure {
    let hint = match (error.kind(), address) {
        (ErrorKind::AddrInUse, Address::Unix(_)) => "; remove it if it is no socket of a running program",
        (ErrorKind::AddrInUse, _) => {
            "; containers of one pod share their ports, so give each bridge its own --listen"
        }
        _ => "",
    };
    Failure::runtime(format!("cannot listen on {address}: {error}{hint}"))
}
