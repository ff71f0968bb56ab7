//! Metrics of calls, streams and responses.
//!
//! Labels come from closed sets: never names, URIs or ids that a client sent.

use std::time::Duration;

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;
use wire::Era;
use wire::mcp::method::Method;

use crate::call::ServerName;
use crate::error::Kind;
use crate::ops::metrics::words;
use crate::session::Resumed;

/// The metrics of the front.
#[derive(Clone, Debug)]
pub struct Metrics {
    calls: Family<CallLabels, Counter>,
    latency: Family<LatencyLabels, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
    parked: Gauge,
    tasks: Gauge,
    streams: Family<StreamLabels, Gauge>,
    responses: Family<StatusLabels, Counter>,
    resumptions: Family<ResumptionLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            latency: Family::new_with_constructor(latency_histogram),
            in_flight: Gauge::default(),
            parked: Gauge::default(),
            tasks: Gauge::default(),
            streams: Family::default(),
            responses: Family::default(),
            resumptions: Family::default(),
        }
    }
}

impl Metrics {
    /// Registers under the process's prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "calls",
            "Calls by method class, era of the client and outcome; look at the servers when others than ok grow",
            self.calls.clone(),
        );
        registry.register_with_unit(
            "call_duration",
            "Time from a call's request to its outcome; compare with the server alone before blaming it",
            Unit::Seconds,
            self.latency.clone(),
        );
        registry.register(
            "calls_in_flight",
            "Calls that were dispatched and have not ended; all that is less than calls_held is still being read",
            self.in_flight.clone(),
        );
        registry.register(
            "calls_parked",
            "Calls whose clients are to answer a question; each holds a process, so near limits.parked look who asks",
            self.parked.clone(),
        );
        registry.register(
            "tasks",
            "Slow calls that became tasks and are kept; near limits.tasks calls stay calls",
            self.tasks.clone(),
        );
        registry.register(
            "streams",
            "Open event streams by kind; each holds a client connection",
            self.streams.clone(),
        );
        registry.register(
            "http_responses",
            "Responses by status; 401 and 403 mean clients set up wrongly, 503 and 429 a bound that is hit",
            self.responses.clone(),
        );
        registry.register(
            "resumptions",
            "Streams that clients came back to; gone and stale ones lost events: see replay_dropped for the bound",
            self.resumptions.clone(),
        );
    }

    /// Calls in flight.
    pub fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    pub(super) fn tasks(&self) -> Gauge {
        self.tasks.clone()
    }

    pub(super) fn parked(&self) -> Gauge {
        self.parked.clone()
    }

    /// Open streams.
    pub fn streams(&self) -> i64 {
        [StreamKind::Call, StreamKind::Session, StreamKind::Sse, StreamKind::Listen]
            .into_iter()
            .map(|kind| self.streams.get_or_create(&StreamLabels { kind }).get())
            .sum()
    }

    /// Calls of this class that ended so, over both eras.
    pub fn calls(&self, class: Class, outcome: Ending) -> u64 {
        [CallEra::Legacy, CallEra::Modern]
            .into_iter()
            .map(|era| self.calls.get_or_create(&CallLabels { method: class, era, outcome }).get())
            .sum()
    }

    pub(super) fn response(&self, status: StatusCode) {
        self.responses.get_or_create(&StatusLabels { status: status.as_u16() }).inc();
    }

    /// Counts a client that resumes a stream; `None` is one that opens a new one.
    pub(super) fn resumption(&self, resumed: Option<&Resumed>) {
        let outcome = match resumed {
            None => return,
            Some(Resumed::From(_)) => Resumption::Replayed,
            Some(Resumed::Complete) => Resumption::Complete,
            Some(Resumed::Gone(_)) => Resumption::Gone,
            Some(Resumed::Stale) => Resumption::Stale,
            Some(Resumed::Unknown) => Resumption::Unknown,
        };
        self.resumptions.get_or_create(&ResumptionLabels { outcome }).inc();
    }

    pub(super) fn stream(&self, kind: StreamKind) -> StreamCount {
        let gauge = self.streams.get_or_create(&StreamLabels { kind }).clone();
        gauge.inc();
        StreamCount(gauge)
    }
}

/// One open stream, while it lives.
#[derive(Debug)]
pub(super) struct StreamCount(Gauge);

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The record of one call, from its dispatch to its end; it is counted once, when it is dropped.
#[derive(Debug)]
pub(super) struct Record {
    metrics: Metrics,
    subject: Subject,
    ending: Ending,
}

/// What is known of a call from the start.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) era: Era,
    pub(super) method: Method,
    pub(super) server: Option<ServerName>,
    /// One log event when the call ends.
    pub(super) log: bool,
    pub(super) started: Instant,
}

impl Record {
    pub(super) fn start(metrics: &Metrics, subject: Subject) -> Self {
        metrics.in_flight.inc();
        // Unless another ending is set, the client has left.
        Self { metrics: metrics.clone(), subject, ending: Ending::Cancelled }
    }

    /// What was called.
    pub(super) fn method(&self) -> Method {
        self.subject.method
    }

    /// Sets how the call ended.
    pub(super) fn end(&mut self, ending: Ending) {
        self.ending = ending;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let elapsed = self.subject.started.elapsed();
        let class = Class::of(self.subject.method);
        let era = CallEra::of(self.subject.era);
        self.metrics.in_flight.dec();
        self.metrics.calls.get_or_create(&CallLabels { method: class, era, outcome: self.ending }).inc();
        self.metrics.latency.get_or_create(&LatencyLabels { method: class }).observe(elapsed.as_secs_f64());
        if self.subject.log {
            self.log(elapsed);
        }
    }
}

impl Record {
    /// Never arguments, results or credentials.
    fn log(&self, elapsed: Duration) {
        tracing::info!(
            server = self.subject.server.as_ref().map(ServerName::as_str),
            method = self.subject.method.as_str(),
            era = CallEra::of(self.subject.era).as_str(),
            elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            outcome = self.ending.as_str(),
            "call"
        );
    }
}

/// Methods that behave alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the method of that name, or all lists")]
pub enum Class {
    ToolsCall,
    PromptsGet,
    ResourcesRead,
    Complete,
    List,
    Other,
}

impl Class {
    fn of(method: Method) -> Self {
        match method {
            Method::ToolsCall => Self::ToolsCall,
            Method::PromptsGet => Self::PromptsGet,
            Method::ResourcesRead => Self::ResourcesRead,
            Method::Complete => Self::Complete,
            Method::ToolsList
            | Method::PromptsList
            | Method::ResourcesList
            | Method::ResourceTemplatesList => Self::List,
            _ => Self::Other,
        }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each but the first three is the error of that name")]
pub enum Ending {
    /// With a result, which may be a tool's own error.
    Ok,
    /// With questions for the client, whose retry is another call.
    InputRequired,
    /// With the server's own JSON-RPC error.
    Refused,
    /// The request was wrong: a name, a parameter.
    Invalid,
    Unreachable,
    Busy,
    Died,
    Timeout,
    TooLarge,
    Protocol,
    Cancelled,
    Draining,
    Lost,
}

impl Ending {
    pub(super) fn of(kind: &Kind) -> Self {
        match kind {
            Kind::Unreachable => Self::Unreachable,
            Kind::Busy => Self::Busy,
            Kind::Died => Self::Died,
            Kind::Timeout => Self::Timeout,
            Kind::TooLarge => Self::TooLarge,
            Kind::Protocol => Self::Protocol,
            Kind::Cancelled => Self::Cancelled,
            Kind::Draining => Self::Draining,
            Kind::Lost => Self::Lost,
            Kind::InvalidRequest
            | Kind::InvalidParams
            | Kind::UnknownMethod
            | Kind::UnknownResource(_)
            | Kind::MissingCapability(_) => Self::Invalid,
        }
    }
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum StreamKind {
    Call,
    Session,
    /// A channel of HTTP+SSE.
    Sse,
    /// A listen of a modern client.
    Listen,
}

/// The result of a resumption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Resumption {
    Replayed,
    Complete,
    Gone,
    Stale,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum CallEra {
    Modern,
    Legacy,
}

impl CallEra {
    fn of(era: Era) -> Self {
        match era {
            Era::Modern => Self::Modern,
            Era::Legacy => Self::Legacy,
        }
    }
}

words!(Class {
    ToolsCall => "tools/call",
    PromptsGet => "prompts/get",
    ResourcesRead => "resources/read",
    Complete => "completion/complete",
    List => "list",
    Other => "other",
});

// The words of `data.reason`, and three more.
words!(Ending {
    Ok => "ok",
    InputRequired => "input_required",
    Refused => "refused",
    Invalid => "invalid",
    Unreachable => "unreachable",
    Busy => "busy",
    Died => "died",
    Timeout => "timeout",
    TooLarge => "too_large",
    Protocol => "protocol",
    Cancelled => "cancelled",
    Draining => "draining",
    Lost => "lost",
});

words!(StreamKind { Call => "call", Session => "session", Sse => "sse", Listen => "listen" });

words!(Resumption {
    Replayed => "replayed",
    Complete => "complete",
    Gone => "gone",
    Stale => "stale",
    Unknown => "unknown",
});

words!(CallEra { Modern => "modern", Legacy => "legacy" });

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: Class,
    era: CallEra,
    outcome: Ending,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LatencyLabels {
    method: Class,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamLabels {
    kind: StreamKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResumptionLabels {
    outcome: Resumption,
}

/// From what this process adds on its own (below a millisecond) to the longest call that is allowed.
fn latency_histogram() -> Histogram {
    Histogram::new([
        0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0,
    ])
}
