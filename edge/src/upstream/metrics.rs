//! The metrics of the upstream side. Labels are server slugs and closed sets.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use wire::Era;

use crate::call::ServerName;
use crate::ops::metrics::words;

/// The metrics of all servers.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    connections: Family<ByServer, Gauge>,
    opened: Family<ByServer, Counter>,
    died: Family<ByServer, Counter>,
    silent: Family<ByServer, Counter>,
    in_flight: Family<ByServer, Gauge>,
    handshakes: Family<ByHandshake, Counter>,
    received: Family<ByServer, Counter>,
    sent: Family<ByServer, Counter>,
    skipped: Family<BySkip, Counter>,
    stderr_left_out: Family<ByServer, Counter>,
    timeouts: Family<ByServer, Counter>,
    down: Family<ByServer, Gauge>,
    lists_unread: Family<ByServer, Gauge>,
    era: Family<ByEra, Gauge>,
    arrivals: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByServer {
    server: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByHandshake {
    server: String,
    outcome: Handshake,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BySkip {
    server: String,
    reason: Skip,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByEra {
    server: String,
    era: EraLabel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum EraLabel {
    Modern,
    Legacy,
}

words!(EraLabel { Modern => "modern", Legacy => "legacy" });

/// The outcome of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Handshake {
    Done,
    /// Closed before an answer.
    Gone,
    /// No answer in time.
    Silent,
    /// An answer that cannot be used.
    Refused,
}

words!(Handshake { Done => "done", Gone => "gone", Silent => "silent", Refused => "refused" });

/// Why a message of a server was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Skip {
    /// Not a JSON-RPC message.
    Garbage,
    /// Over the limit for a line.
    TooLong,
    /// A response to a request that is closed, or its progress.
    Late,
    /// A response to a request that was never made.
    UnknownId,
    /// Progress of a call that was never made, or that is no number.
    Progress,
    /// A log message that no call asked for, or more than one.
    Log,
    /// A request of the server while too many answers already waited to be read.
    Flood,
    /// A large message other than an answer, while the byte budget was spent.
    NoRoom,
}

words!(Skip { Garbage => "garbage", TooLong => "too_long", Late => "late", UnknownId => "unknown_id", Progress => "progress", Log => "log", Flood => "flood", NoRoom => "no_room" });

const SKIPS: [Skip; 8] = [
    Skip::Garbage,
    Skip::TooLong,
    Skip::Late,
    Skip::UnknownId,
    Skip::Progress,
    Skip::Log,
    Skip::Flood,
    Skip::NoRoom,
];

impl Metrics {
    /// `arrivals` counts the messages of servers too; it is registered elsewhere.
    pub fn new(arrivals: Counter) -> Self {
        Self { arrivals, ..Self::default() }
    }

    /// Registers under the process's prefix.
    pub fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("upstream");
        r.register(
            "connections",
            "Connections open, each one process; near the server's `connections`, raise it",
            self.connections.clone(),
        );
        r.register(
            "connections_opened",
            "Connections opened, so processes seen; a steep rise is a server that dies",
            self.opened.clone(),
        );
        r.register(
            "connections_died",
            "Connections that the server ended; look at the server's log",
            self.died.clone(),
        );
        r.register(
            "connections_silent",
            "Connections given up because their process answered nothing for the time of a call; look at what it waits for",
            self.silent.clone(),
        );
        r.register(
            "in_flight",
            "Calls a server is working on; flat at its slots, raise `slots` or add replicas",
            self.in_flight.clone(),
        );
        r.register(
            "handshakes",
            "First requests on a connection by outcome; others than done: look at the server",
            self.handshakes.clone(),
        );
        r.register(
            "down",
            "1 while no endpoint of the server takes connections; bring it back",
            self.down.clone(),
        );
        r.register(
            "lists_unread",
            "Lists of the server that could not be read when they were last asked for; tools are missing, or old",
            self.lists_unread.clone(),
        );
        r.register(
            "era",
            "1 for the era a server is used as; a change means that the server was replaced",
            self.era.clone(),
        );
        self.register_traffic(r);
    }

    fn register_traffic(&self, r: &mut Registry) {
        r.register_with_unit("received", "Received from servers", Unit::Bytes, self.received.clone());
        r.register_with_unit("sent", "Sent to servers", Unit::Bytes, self.sent.clone());
        r.register(
            "skipped",
            "Messages of a server that were dropped by reason; late and log are no fault, report others to its author",
            self.skipped.clone(),
        );
        r.register(
            "stderr_left_out",
            "Lines of a local server's stderr left out of the log because there were too many; look at what it writes",
            self.stderr_left_out.clone(),
        );
        r.register(
            "call_timeouts",
            "Calls without an answer in time; raise `call_timeout`, or look at the server",
            self.timeouts.clone(),
        );
    }

    /// Removes the gauges of a server that is no longer configured, so that they raise no alarm.
    pub fn forget(&self, name: &ServerName) {
        let label = ByServer { server: name.to_string() };
        for gauge in [&self.connections, &self.in_flight, &self.down, &self.lists_unread] {
            gauge.remove(&label);
        }
        for era in [EraLabel::Modern, EraLabel::Legacy] {
            self.era.remove(&ByEra { server: name.to_string(), era });
        }
    }

    /// The metrics of one server, looked up once, so that the data path takes no lock to count.
    pub(super) fn server(&self, name: &ServerName) -> Arc<ServerMetrics> {
        let server = name.to_string();
        let label = ByServer { server: server.clone() };
        let handshake =
            |outcome| self.handshakes.get_or_create_owned(&ByHandshake { server: server.clone(), outcome });
        let skip = |reason| self.skipped.get_or_create_owned(&BySkip { server: server.clone(), reason });
        let era = |era| self.era.get_or_create_owned(&ByEra { server: server.clone(), era });
        Arc::new(ServerMetrics {
            connections: self.connections.get_or_create_owned(&label),
            opened: self.opened.get_or_create_owned(&label),
            died: self.died.get_or_create_owned(&label),
            silent: self.silent.get_or_create_owned(&label),
            in_flight: self.in_flight.get_or_create_owned(&label),
            received: self.received.get_or_create_owned(&label),
            sent: self.sent.get_or_create_owned(&label),
            stderr_left_out: self.stderr_left_out.get_or_create_owned(&label),
            timeouts: self.timeouts.get_or_create_owned(&label),
            down: self.down.get_or_create_owned(&label),
            lists_unread: self.lists_unread.get_or_create_owned(&label),
            handshakes: [Handshake::Done, Handshake::Gone, Handshake::Silent, Handshake::Refused]
                .map(|outcome| (outcome, handshake(outcome))),
            skipped: SKIPS.map(|reason| (reason, skip(reason))),
            modern: era(EraLabel::Modern),
            legacy: era(EraLabel::Legacy),
            arrivals: self.arrivals.clone(),
        })
    }
}

/// The metrics of one server.
#[derive(Debug)]
pub(super) struct ServerMetrics {
    pub(super) connections: Gauge,
    pub(super) opened: Counter,
    pub(super) died: Counter,
    pub(super) silent: Counter,
    pub(super) in_flight: Gauge,
    received: Counter,
    pub(super) sent: Counter,
    pub(super) stderr_left_out: Counter,
    pub(super) timeouts: Counter,
    pub(super) down: Gauge,
    pub(super) lists_unread: Gauge,
    handshakes: [(Handshake, Counter); 4],
    skipped: [(Skip, Counter); SKIPS.len()],
    modern: Gauge,
    legacy: Gauge,
    arrivals: Counter,
}

impl ServerMetrics {
    /// Counts a message of this size, its line feed included.
    pub(super) fn received(&self, bytes: u64) {
        self.received.inc_by(bytes);
        self.arrivals.inc();
    }

    pub(super) fn handshake(&self, outcome: Handshake) {
        if let Some((_, counter)) = self.handshakes.iter().find(|(other, _)| *other == outcome) {
            counter.inc();
        }
    }

    pub(super) fn skipped(&self, reason: Skip) {
        if let Some((_, counter)) = self.skipped.iter().find(|(other, _)| *other == reason) {
            counter.inc();
        }
    }

    pub(super) fn era(&self, era: Option<Era>) {
        self.modern.set(i64::from(era == Some(Era::Modern)));
        self.legacy.set(i64::from(era == Some(Era::Legacy)));
    }
}
