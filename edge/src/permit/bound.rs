//! All bounds by name: how often each was reached, and the refusal of a caller who finds no room.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::error::{Blame, Error, Kind};
use crate::ops::metrics::words;

/// A bound, by the name that it has as a label of `mcp_edge_refused_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the setting or limit of the same name")]
pub enum Bound {
    Connections,
    Calls,
    PrincipalCalls,
    HeldBytes,
    PrincipalBytes,
    Head,
    Body,
    Depth,
    Members,
    Batch,
    Capabilities,
    ClientInfo,
    Sessions,
    Initialize,
    Renewal,
    Answers,
    Outbox,
    SessionCalls,
    Slots,
    Queue,
    QueueTimeout,
    ServerConnections,
    PrincipalConnections,
    Frame,
    EventBytes,
    Asks,
    AskTimeout,
    Subscriptions,
    Listens,
    Parked,
    ParkedSeat,
    Rounds,
    Tasks,
    TaskBytes,
    ServerTasks,
}

words!(Bound {
    Connections => "connections",
    Calls => "calls",
    PrincipalCalls => "principal_calls",
    HeldBytes => "held_bytes",
    PrincipalBytes => "principal_bytes",
    Head => "head",
    Body => "body",
    Depth => "depth",
    Members => "members",
    Batch => "batch",
    Capabilities => "capabilities",
    ClientInfo => "client_info",
    Sessions => "sessions",
    Initialize => "initialize",
    Renewal => "renewal",
    Answers => "answers",
    Outbox => "outbox",
    SessionCalls => "session_calls",
    Slots => "slots",
    Queue => "queue",
    QueueTimeout => "queue_timeout",
    ServerConnections => "server_connections",
    PrincipalConnections => "principal_connections",
    Frame => "frame",
    EventBytes => "event_bytes",
    Asks => "asks",
    AskTimeout => "ask_timeout",
    Subscriptions => "subscriptions",
    Listens => "listens",
    Parked => "parked",
    ParkedSeat => "parked_seat",
    Rounds => "rounds",
    Tasks => "tasks",
    TaskBytes => "task_bytes",
    ServerTasks => "server_tasks",
});

/// How often each bound was reached.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    refused: Family<BoundLabel, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BoundLabel {
    bound: Bound,
}

impl Metrics {
    /// Registers under the process's prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "refused",
            "Times a limit was reached, by limit (`bound`); raise the setting of that name, or add capacity",
            self.refused.clone(),
        );
    }

    #[cfg(test)]
    pub(super) fn hits(&self, bound: Bound) -> u64 {
        self.refused.get_or_create(&BoundLabel { bound }).get()
    }

    /// Counts that `bound` was reached once.
    pub fn hit(&self, bound: Bound) {
        self.refused.get_or_create(&BoundLabel { bound }).inc();
    }
}

impl Bound {
    /// The refusal of a caller who may try again soon, with the time after which that makes sense. Bounds of one
    /// message, such as its size, are refused where they are checked, with what the caller should change.
    pub fn refusal(self) -> Error {
        let (blame, what) = match self {
            Self::Connections => (Blame::Edge, "too many connections to this gateway"),
            Self::Calls => (Blame::Edge, "too many calls in flight on this gateway"),
            Self::PrincipalCalls => (Blame::Downstream, "too many calls of this principal in flight"),
            Self::HeldBytes => (Blame::Edge, "the gateway holds as many bytes of messages as it may"),
            Self::PrincipalBytes => (
                Blame::Downstream,
                "the messages of this principal that are not sent or fetched to their end take its share of the gateway's memory",
            ),
            Self::Sessions => (Blame::Edge, "too many sessions on this gateway"),
            Self::SessionCalls => (Blame::Downstream, "too many calls of this session in flight"),
            Self::Answers => (Blame::Downstream, "the client reads its answers too slowly"),
            Self::Slots | Self::Queue => (Blame::Edge, "too many calls wait for this server"),
            Self::QueueTimeout => (Blame::Edge, "the server had no room for the call in time"),
            Self::ServerConnections => (Blame::Edge, "the server has as many connections as it may"),
            Self::PrincipalConnections => (
                Blame::Downstream,
                "every connection to the server that this principal may have is in use by a call",
            ),
            Self::Subscriptions => (Blame::Downstream, "too many subscriptions at once"),
            Self::Listens => (Blame::Downstream, "too many open listens of this principal"),
            Self::Parked => (Blame::Edge, "too many calls wait for answers of their clients"),
            Self::Tasks => (Blame::Edge, "too many tasks on this gateway"),
            Self::TaskBytes => (Blame::Edge, "the gateway holds as many bytes of finished tasks as it may"),
            Self::Head
            | Self::Body
            | Self::Depth
            | Self::Members
            | Self::Batch
            | Self::Capabilities
            | Self::ClientInfo
            | Self::Initialize
            | Self::Renewal
            | Self::Outbox
            | Self::Frame
            | Self::EventBytes
            | Self::Asks
            | Self::AskTimeout
            | Self::ParkedSeat
            | Self::Rounds
            | Self::ServerTasks => (Blame::Edge, "a limit of this gateway is reached"),
        };
        Error::busy(blame, RETRY_AFTER, format!("{what}; try again later"))
    }
}

impl Bound {
    /// The failure of a call whose answer finds no room. No refusal: the server has done its work, so nobody should be told
    /// to try again.
    pub fn no_room_for_answer(self) -> Error {
        let whose = if self == Self::PrincipalBytes { "what this principal may hold of " } else { "" };
        let message = format!(
            "the server answered, but its answer found no room in {whose}`limits.held_bytes` of this gateway, which has to \
             be raised for answers of this size; the call may have had effects"
        );
        Error::new(Kind::TooLarge, Blame::Edge, message)
    }
}

/// How long a refused caller should wait before it tries again: long enough for room to come free, short enough not to
/// be noticed.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
