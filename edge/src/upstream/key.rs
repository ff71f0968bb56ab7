//! Whose connection it is: the isolation key by which the connections of a server are kept, and what a new connection
//! of a key is opened for.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use wire::Era;

use super::exclusive_client::ExclusiveClient;
use super::settings::Isolation;
use crate::call::{Affinity, Call};

/// Whose connection it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// The gateway's own: lists, discovery, health.
    Control,
    /// A legacy session's.
    Session(u64),
    /// A principal's.
    Principal(Arc<str>),
    /// The connection of one of a principal's seats; it belongs to the call that holds the seat's lease.
    Seat(Arc<str>, usize),
    /// Everybody's.
    Shared,
}

impl Key {
    /// The key of the connection that `call` uses at a server of `era`.
    pub(super) fn of(call: &Call, isolation: Isolation, era: Era) -> Self {
        Self::of_caller(call.caller.principal(), &call.affinity, isolation, era)
    }

    /// The key of the connection that calls of this principal and affinity use. Subscriptions go where calls go.
    pub(super) fn of_caller(
        principal: &Arc<str>,
        affinity: &Affinity,
        isolation: Isolation,
        era: Era,
    ) -> Self {
        let isolation = match (isolation, era) {
            (Isolation::Auto, Era::Legacy) => Isolation::Session,
            (Isolation::Auto, Era::Modern) => Isolation::Principal,
            (fixed, _) => fixed,
        };
        match (isolation, affinity) {
            (Isolation::Shared, _) => Self::Shared,
            (Isolation::Session, Affinity::Session(session)) => Self::Session(session.number),
            _ => Self::Principal(principal.clone()),
        }
    }

    /// The principal that the connection belongs to, if the key names one.
    pub(super) fn principal(&self) -> Option<&Arc<str>> {
        match self {
            Self::Principal(principal) | Self::Seat(principal, _) => Some(principal),
            Self::Control | Self::Session(_) | Self::Shared => None,
        }
    }

    /// Whether the connection stays open without calls, because its process holds the state of a session.
    pub(super) fn outlives_idleness(&self) -> bool {
        matches!(self, Self::Session(_))
    }
}

/// Which connection is wanted, and for whom it is opened if there is none.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) key: Key,
    /// The client that the connection serves exclusively, if there is one.
    pub(super) client: Option<Arc<ExclusiveClient>>,
}

impl Target {
    /// A connection that serves no client exclusively.
    pub(super) fn shared(key: Key) -> Self {
        Self { key, client: None }
    }

    /// A connection for one client alone.
    pub(super) fn exclusive(key: Key, client: ExclusiveClient) -> Self {
        Self { key, client: Some(Arc::new(client)) }
    }

    /// What ends the connection from outside: the end of its session, or nothing.
    pub(super) fn until(&self) -> CancellationToken {
        let session = self.client.as_ref().and_then(|client| client.session());
        session.map_or_else(CancellationToken::new, |session| session.ended.clone())
    }
}
