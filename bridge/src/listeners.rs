//! The sockets the bridge accepts on.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{setsockopt, sockopt};

use crate::address::{Address, Listener};
use crate::args::Settings;
use crate::connection::Peer;
use crate::failure::Failure;
use crate::poller::{Poller, Token, Watch};

pub(crate) struct Listeners {
    open: Vec<(Address, Listener, Watch)>,
}

impl Listeners {
    /// Binds every address of the settings.
    ///
    /// # Errors
    /// A sentence with the address that cannot be bound.
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

    /// Wants to hear of clients, or not.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn watch(&mut self, poller: &Poller, wanted: bool) -> nix::Result<()> {
        for (index, (_, listener, watch)) in self.open.iter_mut().enumerate() {
            let flags = wanted.then_some(EpollFlags::EPOLLIN);
            poller.set(watch, listener.as_fd(), Token::Listener(index), flags)?;
        }
        Ok(())
    }

    /// Takes one client from the backlog, if one is there.
    ///
    /// # Errors
    /// The bridge lacks something (descriptors, memory); what befell a single client is passed over.
    pub(crate) fn accept(&self, index: usize) -> io::Result<Option<(OwnedFd, Peer)>> {
        let Some((_, listener, _)) = self.open.get(index) else { return Ok(None) };
        let accepted = match listener {
            Listener::Tcp(tcp) => tcp.accept().map(|(socket, peer)| (socket.into(), Peer::Tcp(peer))),
            Listener::Unix(unix) => unix.accept().map(|(socket, _)| (socket.into(), Peer::Unix)),
        };
        match accepted {
            Ok(accepted) => Ok(Some(accepted)),
            Err(error) if lacks_resources(&error) => Err(error),
            // WouldBlock: none is there. Otherwise the client has left already, or its network is in trouble
            // (accept(2), Error handling); the next one is reported again.
            Err(_) => Ok(None),
        }
    }

    /// Accepts no more: clients in the backlog are reset, new ones refused.
    pub(crate) fn close(&mut self, poller: &Poller) {
        // The descriptors are closed in the next step, which ends their registration too.
        let _ = self.watch(poller, false);
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

/// Accepted sockets inherit all of this, so accepting costs no further system call.
fn notice_vanished_clients(listener: &impl AsFd, timeout: Duration) -> nix::Result<()> {
    let quarter = u32::try_from(timeout.as_secs() / 4).unwrap_or(u32::MAX);
    let whole = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    // An answer that waits for the acknowledgement of the one before costs 40 ms.
    setsockopt(listener, sockopt::TcpNoDelay, &true)?;
    // Silent: three probes after one quarter of the time, one each quarter.
    setsockopt(listener, sockopt::KeepAlive, &true)?;
    setsockopt(listener, sockopt::TcpKeepIdle, &quarter)?;
    setsockopt(listener, sockopt::TcpKeepInterval, &quarter)?;
    setsockopt(listener, sockopt::TcpKeepCount, &3)?;
    // In the middle of an answer: unacknowledged data, or a window that stays closed (RFC 5482).
    setsockopt(listener, sockopt::TcpUserTimeout, &whole)
}

/// The address with the port the kernel chose, where it was asked to choose.
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
