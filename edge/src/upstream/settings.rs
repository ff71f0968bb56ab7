//! The settings of the upstream side, for all servers and for one. Every default states its reason.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use wire::limits::Limits;

use super::link::address::Address;
use crate::call::ServerName;
use crate::ops::files::OpenFiles;
use crate::permit::SlotConfig;

/// Settings for the connections of every server.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long connecting to a server may take, retries and backoff included. 5 s: a client that waits longer
    /// suspects a hang.
    pub connect_timeout: Duration,
    /// How long the answer to the probe (`server/discover` on the throwaway connection) may take. 10 s: most servers
    /// take one second to start.
    pub probe_timeout: Duration,
    /// How long the answer to a handshake, or to one page of a list, may take. 30 s: a server started by a package
    /// runner may first download itself.
    pub handshake_timeout: Duration,
    /// How long one call may go without an answer or progress. 300 s: the longest that common clients wait.
    pub call_timeout: Duration,
    /// How long one call may take in all, with progress or as a task. 1 h: no real tool takes longer.
    pub call_timeout_max: Duration,
    /// How long a client's answer to a question of a server may take. 10 m: a person reads, looks something up and
    /// types; after that nobody is there.
    pub ask_timeout: Duration,
    /// How many questions of one connection may wait for the client. 64: a server asks one question at a time in each
    /// call, and no session has more calls that ask.
    pub asks: usize,
    /// How many calls of one principal may each lease a connection to a legacy server, because their clients can be
    /// asked. Each is a process. 16: with one token everybody is one principal, and a client that is asked and never
    /// comes back keeps its connection until `parked_timeout`, or until another call waits for it (`pool::dispatch`).
    pub principal_connections: usize,
    /// How long a connection without a call stays open. 10 m: long enough for a person who thinks, short enough to
    /// scale to zero.
    pub idle_timeout: Duration,
    /// How long a write may take that the server does not read. 30 s: its event loop may be busy for some time.
    pub write_timeout: Duration,
    /// How often names of endpoints are resolved again. 5 s: the usual time to live in a cluster's DNS.
    pub resolve_interval: Duration,
    /// How often a server without a connection is checked. 30 s: as often as a pod's own probes at the least.
    pub health_interval: Duration,
    /// The time from the end of a local process's input to SIGTERM, and from that to SIGKILL. 5 s, as in the bridge.
    pub stop_grace: Duration,
    /// How many calls may be in flight at one server, and how many may wait.
    pub slots: SlotConfig,
    /// Bounds of one message.
    pub limits: Limits,
    /// The limit of open files that local processes get back; set by `app`, not by users.
    pub files: Option<OpenFiles>,
    /// Environment variables that local processes do not inherit, because they hold this gateway's tokens and keys.
    pub withheld: Vec<String>,
    /// How many pages of one list are read. 100: real servers have one to three, and a cursor that never ends is a bug.
    pub list_pages: usize,
    /// How many bytes of one list are kept. 16 MiB, as much as one frame: room for thousands of tools, and lists are
    /// held in several forms.
    pub list_bytes: usize,
}

impl Config {
    /// About the longest that a call waits for its connection: for a slot and a seat, and for each connection that is
    /// tried.
    pub fn longest_way(&self) -> Duration {
        let handshake_and_settings = self.handshake_timeout.saturating_mul(2);
        let one =
            self.connect_timeout.saturating_add(self.probe_timeout).saturating_add(handshake_and_settings);
        let slot_and_seat = self.slots.queue_timeout.saturating_mul(2).saturating_add(self.handshake_timeout);
        one.saturating_mul(u32::from(TRIES)).saturating_add(slot_and_seat)
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
    /// How it is reached.
    pub source: Source,
    /// Who shares a process.
    pub isolation: Isolation,
    /// Its era, if it is configured.
    pub era: EraChoice,
    /// Connections at a time, each of them one process. 64: a typical process takes 70 MB.
    pub connections: usize,
}

impl ServerConfig {
    /// The server with every default.
    pub fn new(name: ServerName, source: Source) -> Self {
        Self { name, source, isolation: Isolation::Auto, era: EraChoice::Auto, connections: 64 }
    }

    /// How many files its connections may have open: a local process takes two pipes and its stderr, a link to a
    /// bridge one socket, and the control connection comes on top.
    pub fn files(&self) -> usize {
        let each = match self.source {
            Source::Endpoints(_) => 1,
            Source::Command { .. } => 3,
        };
        each * (self.connections + 1)
    }
}

/// How a server is reached.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// Behind bridges; a connection may go to any of them.
    Endpoints(Vec<Address>),
    /// A local process for each connection.
    Command {
        /// What to run, found by `PATH`.
        program: String,
        /// Its arguments.
        args: Vec<String>,
        /// Added to the gateway's environment, without the variables of [`Config::withheld`].
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
    /// `Session` for a legacy server, `Principal` for a modern one. A modern server is not shared by everybody: an
    /// upgrade of its SDK makes a stateful server modern without its author deciding that it may be shared.
    #[default]
    Auto,
    /// Each legacy session has its own; clients without a session share their principal's.
    Session,
    /// All clients of one principal.
    Principal,
    /// Everybody.
    Shared,
}

/// The configured era of a server.
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
