//! What can be set: for all servers, and for one. Every default states its reason.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use wire::limits::Limits;

use super::link::address::Address;
use crate::call::ServerName;
use crate::ops::files::OpenFiles;
use crate::permit::SlotConfig;

/// What holds for the connections of every server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Reaching a server, retries and backoff included. 5 s: a client that waits longer thinks of a hang.
    pub connect_timeout: Duration,
    /// The answer to `server/discover` on the throwaway connection. 10 s: most servers take one second to start.
    pub probe_timeout: Duration,
    /// The answer to the first request on a connection, and to one page of a list. 30 s: a server started by a
    /// package runner may first download itself.
    pub handshake_timeout: Duration,
    /// Silence on one call. 300 s: the longest that common clients wait.
    pub call_timeout: Duration,
    /// One call in all, however often progress extends it. 1 h: no real tool takes longer without a task.
    pub call_timeout_max: Duration,
    /// A client's answer to what a server asks it. 10 m: a person reads, looks something up and types, and longer
    /// than that nobody is there.
    pub ask_timeout: Duration,
    /// Questions of one connection that wait for the client. 64: a server asks one thing at a time for each of
    /// its calls, and no session has more of those that ask.
    pub asks: usize,
    /// Calls of one principal that each have a connection to a legacy server to themselves, because their clients can
    /// be asked. 16: with one token everybody is one principal, and a client that asks and never comes back keeps its
    /// connection until `parked_timeout`; each is a process.
    pub principal_connections: usize,
    /// A connection without a call. 10 m: long enough for a person who thinks, short enough to scale to zero.
    pub idle_timeout: Duration,
    /// A batch of messages that a server does not read. 30 s: its own event loop may be busy for some time.
    pub write_timeout: Duration,
    /// How often names of endpoints are resolved anew. 5 s: the usual time to live in a cluster's DNS.
    pub resolve_interval: Duration,
    /// How often a server without a connection is looked at. 30 s: what a pod's own probes do at the least.
    pub health_interval: Duration,
    /// From the end of a local process's input to SIGTERM, and from that to SIGKILL. 5 s, as the bridge does.
    pub stop_grace: Duration,
    /// Calls in flight on one server, and the queue for them.
    pub slots: SlotConfig,
    /// Bounds of one message.
    pub limits: Limits,
    /// The limit of open files that local processes get back; set by `app`, not by users.
    pub files: Option<OpenFiles>,
    /// Variables that local processes do not inherit: those that hold this gateway's own tokens and keys.
    pub withheld: Vec<String>,
    /// Pages followed for one list. 100: real servers have one to three, and a cursor that never ends is a bug.
    pub list_pages: usize,
    /// Bytes kept of one list. 16 MiB, as much as one frame: thousands of tools, and what clients are shown is held
    /// several times.
    pub list_bytes: usize,
}

impl Config {
    /// About the longest that a call waits for its connection: for a slot and a seat, and for each connection that is tried.
    pub fn longest_way(&self) -> Duration {
        let known_and_told = self.handshake_timeout.saturating_mul(2);
        let one = self.connect_timeout.saturating_add(self.probe_timeout).saturating_add(known_and_told);
        one.saturating_mul(u32::from(TRIES)).saturating_add(self.slots.queue_timeout.saturating_mul(2))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            probe_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(30),
            call_timeout: Duration::from_secs(300),
            call_timeout_max: Duration::from_secs(3600),
            ask_timeout: Duration::from_secs(600),
            asks: 64,
            principal_connections: 16,
            idle_timeout: Duration::from_secs(600),
            write_timeout: Duration::from_secs(30),
            resolve_interval: Duration::from_secs(5),
            health_interval: Duration::from_secs(30),
            stop_grace: Duration::from_secs(5),
            slots: SlotConfig::default(),
            limits: Limits::default(),
            files: None,
            withheld: Vec::new(),
            list_pages: 100,
            list_bytes: 16 << 20,
        }
    }
}

/// One configured server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Its slug.
    pub name: ServerName,
    /// Where it is.
    pub source: Source,
    /// Who shares a process.
    pub isolation: Isolation,
    /// How it speaks, if that is not to be found out.
    pub era: EraChoice,
    /// Connections at a time, each of them one process. 64: a process of the field takes 70 MB.
    pub connections: usize,
}

impl ServerConfig {
    /// The server with every default.
    pub fn new(name: ServerName, source: Source) -> Self {
        Self { name, source, isolation: Isolation::Auto, era: EraChoice::Auto, connections: 64 }
    }

    /// Open files at most: a local process is two pipes and its stderr, a link to a bridge one socket; and there
    /// is the control connection.
    pub fn files(&self) -> usize {
        let each = match self.source {
            Source::Endpoints(_) => 1,
            Source::Command { .. } => 3,
        };
        each * (self.connections + 1)
    }
}

/// Where a server is.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// Behind bridges; a connection may go to any of them.
    Endpoints(Vec<Address>),
    /// A process of our own for each connection.
    Command {
        /// What to run, found by `PATH`.
        program: String,
        /// Its arguments.
        args: Vec<String>,
        /// Added to our own environment, which lacks what is [`Config::withheld`].
        env: BTreeMap<String, String>,
    },
}

// Arguments and environment of a command may hold secrets.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoints(addresses) => f.debug_tuple("Endpoints").field(addresses).finish(),
            Self::Command { program, .. } => write!(f, "Command({program})"),
        }
    }
}

/// Who shares a connection, and with it a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// `Session` for a server used as legacy, `Principal` for one used as modern: an upgrade of its SDK makes a
    /// stateful server modern without its author deciding that it may be shared.
    #[default]
    Auto,
    /// A legacy session has its own; clients without a session share their principal's.
    Session,
    /// All clients of one principal.
    Principal,
    /// Everybody.
    Shared,
}

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EraChoice {
    /// Found out by a probe.
    #[default]
    Auto,
    /// Without a handshake, 2026-07-28 and later.
    Modern,
    /// With `initialize`.
    Legacy,
}

/// Connections tried for one call. 3: a call of which nothing was written three times has met something systematic.
pub(super) const TRIES: u8 = 3;
/// How often deadlines, idle times and liveness are looked at. 1 s: they are tens of seconds and more.
pub(super) const SWEEP: Duration = Duration::from_secs(1);
