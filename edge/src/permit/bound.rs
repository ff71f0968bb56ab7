//! The bounds by name: how often each was hit, and what its caller is told.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::error::{Blame, Error};
use crate::ops::metrics::words;

/// A bound that was hit; the label of `mcp_edge_refused_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the setting or limit of the same name")]
pub enum Bound {
    Connections,
    Calls,
    PrincipalCalls,
    HeldBytes,
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
    Rounds,
    Tasks,
    TaskBytes,
}

words!(Bound {
    Connections => "connections",
    Calls => "calls",
    PrincipalCalls => "principal_calls",
    HeldBytes => "held_bytes",
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
    Rounds => "rounds",
    Tasks => "tasks",
    TaskBytes => "task_bytes",
});

/// How often each bound was hit.
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
            "Times a bound was hit; raise the setting of that name, or add capacity",
            self.refused.clone(),
        );
    }

    #[cfg(test)]
    pub(super) fn hits(&self, bound: Bound) -> u64 {
        self.refused.get_or_create(&BoundLabel { bound }).get()
    }

    /// Counts one hit.
    pub fn hit(&self, bound: Bound) {
        self.refused.get_or_create(&BoundLabel { bound }).inc();
    }
}

impl Bound {
    /// The refusal as an error for the caller, with the time after which trying again makes sense.
    pub fn refusal(self) -> Error {
        let own = matches!(self, Self::PrincipalCalls | Self::PrincipalConnections | Self::Listens);
        let blame = if own { Blame::Downstream } else { Blame::Edge };
        let what = match self {
            Self::Connections => "too many connections to this gateway",
            Self::Calls => "too many calls on their way through this gateway",
            Self::PrincipalCalls => "too many calls of this principal on their way",
            Self::HeldBytes => "the gateway holds as many bytes of messages as it may",
            Self::Sessions => "too many sessions on this gateway",
            Self::SessionCalls => "too many calls of this session on their way",
            Self::Head => "the head of the request is larger than this gateway takes",
            Self::Depth => "the message is nested deeper than this gateway takes",
            Self::Members => "an object of the message has more members than this gateway takes",
            Self::Batch => "the batch has more messages than this gateway takes",
            Self::Capabilities => "the client declares more than this gateway keeps",
            Self::ClientInfo => "the client says more of itself than this gateway keeps",
            Self::Initialize => "the stream was not initialized in time",
            Self::Renewal => "nobody came with fresh credentials for the stream in time",
            Self::Answers | Self::Outbox => "the client reads its answers too slowly",
            Self::AskTimeout => "the client did not answer in time",
            Self::Slots | Self::Queue => "too many calls wait for this server",
            Self::QueueTimeout => "the server had no room for the call in time",
            Self::ServerConnections => "the server has as many connections as it may",
            Self::PrincipalConnections => {
                "every connection to the server that this principal may have is in use by a call"
            }
            Self::Body => "the request body is larger than this gateway takes",
            Self::Frame => "the server's message is larger than this gateway takes",
            Self::EventBytes => "the client reads its events too slowly",
            Self::Subscriptions => "too many subscriptions at once",
            Self::Listens => "too many open listens of this principal",
            Self::Rounds => "the server wanted input too often for one call",
            Self::Asks => "too many questions of the server wait for the client",
            Self::Parked => "too many calls wait for answers of their clients",
            Self::Tasks => "too many tasks on this gateway",
            Self::TaskBytes => "the gateway holds as many bytes of finished tasks as it may",
        };
        Error::busy(blame, RETRY_AFTER, format!("{what}; try again later"))
    }
}

/// What a refused caller is told to wait: long enough to be worth it, short enough not to be noticed.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);
