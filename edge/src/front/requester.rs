//! Who makes a request, and at which path.

use crate::call::{Caller, ServerName};

/// What parked calls, tasks and their retries have to agree in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Requester {
    pub(super) caller: Caller,
    /// The one server that the path leads to, or all.
    pub(super) scope: Option<ServerName>,
}
