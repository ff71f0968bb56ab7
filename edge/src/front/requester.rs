//! Who makes a request, and at which path.

use crate::call::{Caller, ServerName};

/// Whoever makes a request. Channels, parked calls and tasks belong to one: no other may use them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Requester {
    pub(super) caller: Caller,
    /// The one server that the path leads to, or all.
    pub(super) scope: Option<ServerName>,
}
