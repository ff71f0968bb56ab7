//! epoll(7), level-triggered, with tokens that are never used twice.
//!
//! A [`Watch`] stands for one registration and remembers what is registered, so repeating a request costs no system call.
//! It must be cleared before its descriptor is closed: a handed-off socket stays open in the child, and the kernel would
//! keep the registration as long as it does.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::clock::Moment;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    Signals,
    Listener(usize),
    Client(u64),
    Stdin(u64),
    Stdout(u64),
    Stderr(u64),
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, number) = match self {
            Self::Signals => (0, 0),
            Self::Listener(index) => (1, index as u64),
            Self::Client(number) => (2, number),
            Self::Stdin(number) => (3, number),
            Self::Stdout(number) => (4, number),
            Self::Stderr(number) => (5, number),
        };
        number * KINDS + kind
    }

    fn unpack(packed: u64) -> Self {
        let number = packed / KINDS;
        match packed % KINDS {
            0 => Self::Signals,
            // What was packed from a usize fits into one.
            1 => Self::Listener(usize::try_from(number).unwrap_or(usize::MAX)),
            2 => Self::Client(number),
            3 => Self::Stdin(number),
            4 => Self::Stdout(number),
            _ => Self::Stderr(number),
        }
    }
}

/// What to be notified of, where it is only input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    Input,
    Nothing,
}

impl Interest {
    pub(crate) fn flags(self) -> Option<EpollFlags> {
        (self == Self::Input).then_some(EpollFlags::EPOLLIN)
    }
}

/// What is registered for one descriptor; nothing at first.
#[derive(Debug, Default)]
pub(crate) struct Watch(Option<EpollFlags>);

/// The epoll instance.
pub(crate) struct Poller {
    epoll: Epoll,
}

impl Poller {
    /// # Errors
    /// The kernel's error.
    pub(crate) fn new() -> nix::Result<Self> {
        Ok(Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)? })
    }

    /// Registers `wanted`. `None` removes the descriptor; empty flags still report errors and hang-ups.
    ///
    /// # Errors
    /// The kernel's error (out of memory, or of `max_user_watches`).
    pub(crate) fn set(
        &self,
        watch: &mut Watch,
        fd: impl AsFd,
        token: Token,
        wanted: Option<EpollFlags>,
    ) -> nix::Result<()> {
        match (watch.0, wanted) {
            (before, after) if before == after => return Ok(()),
            (None, Some(flags)) => self.epoll.add(fd, EpollEvent::new(flags, token.pack()))?,
            (Some(_), Some(flags)) => self.epoll.modify(fd, &mut EpollEvent::new(flags, token.pack()))?,
            (_, None) => self.epoll.delete(fd)?,
        }
        watch.0 = wanted;
        Ok(())
    }

    /// Waits until something happens or `timeout` has passed.
    ///
    /// # Errors
    /// The kernel's error; an interruption is an empty list.
    pub(crate) fn wait(
        &self,
        events: &mut [EpollEvent],
        timeout: Option<Moment>,
    ) -> nix::Result<Vec<(Token, EpollFlags)>> {
        let timeout = match timeout {
            None => EpollTimeout::NONE,
            // Rounded up: waking a moment early would only mean to wait again, many times.
            Some(left) => {
                u16::try_from(left.as_millis() + 1).map_or(EpollTimeout::from(u16::MAX), EpollTimeout::from)
            }
        };
        match self.epoll.wait(events, timeout) {
            Ok(ready) => Ok(events
                .iter()
                .take(ready)
                .map(|event| (Token::unpack(event.data()), event.events()))
                .collect()),
            Err(Errno::EINTR) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// Room for the kinds of [`Token`].
const KINDS: u64 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_that_is_packed_and_unpacked_is_the_same() {
        for token in [
            Token::Signals,
            Token::Listener(3),
            Token::Client(1 << 40),
            Token::Stdin(7),
            Token::Stdout(0),
            Token::Stderr(9),
        ] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
