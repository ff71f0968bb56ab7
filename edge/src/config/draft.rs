//! Settings on their way to a `Config`: what flags and file say, before the rules that span several of them.

use std::collections::BTreeMap;
use std::time::Duration;

use wire::limits::Limits;

use super::Transport;
use super::holder::Holder;
use super::keys::KeySource;
use super::said::Said;
use crate::call::ServerName;
use crate::ops::{admin, log};
use crate::router::names::Prefix;
use crate::upstream::{Address, EraChoice, Isolation, Source};
use crate::{auth, front, listen, peer, permit, router, session, upstream};

/// Everything that can be said, with the defaults for what was not.
pub(super) struct Draft {
    pub(super) listen: listen::Config,
    pub(super) admin: admin::Config,
    pub(super) peers: peer::Config,
    /// Where the others reach this one, and where that was said.
    pub(super) peer_address: Option<(String, String)>,
    pub(super) log: log::Config,
    pub(super) permits: permit::Config,
    pub(super) upstream: upstream::Config,
    pub(super) router: router::Config,
    pub(super) session: session::Config,
    pub(super) front: front::Config,
    pub(super) transport: Transport,
    pub(super) threads: usize,
    /// `None`: as long as it is of use for.
    pub(super) busy_poll: Option<Duration>,
    /// Bounds of messages, for every room that scans them.
    pub(super) limits: Limits,
    /// Bounds that are the global ones unless they are given.
    pub(super) principal_calls: Option<usize>,
    pub(super) principal_sessions: Option<usize>,
    pub(super) drain_delay: Duration,
    /// From SIGTERM to the end, `drain_delay` included.
    pub(super) drain: Duration,
    /// `None`: `MCP_GATEWAY_AUTH_TOKEN`, if it is set.
    pub(super) tokens: Option<Vec<TokenSource>>,
    /// `None`: there is none. `Some(None)`: what is wrong with it has been said.
    pub(super) oauth: Option<Option<auth::oauth::Config>>,
    /// `None`: `MCP_EDGE_KEY`, if it is set.
    pub(super) session_keys: Option<Vec<KeySource>>,
    pub(super) allow_unauthenticated: bool,
    pub(super) prefix: Prefix,
    pub(super) servers: Vec<ServerDraft>,
    /// Whether the file says something of servers, if only wrongly; or it cannot be known.
    pub(super) names_servers: bool,
    pub(super) said: Said,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            listen: listen::Config::default(),
            admin: admin::Config::default(),
            peers: peer::Config::default(),
            peer_address: None,
            log: log::Config::default(),
            permits: permit::Config::default(),
            upstream: upstream::Config::default(),
            router: router::Config::default(),
            session: session::Config::default(),
            front: front::Config::default(),
            transport: Transport::default(),
            threads: half_the_cores(),
            busy_poll: None,
            limits: Limits::default(),
            principal_calls: None,
            principal_sessions: None,
            // Endpoints are removed asynchronously; load balancers take some seconds to notice.
            drain_delay: Duration::from_secs(5),
            // Below the 30 s that Kubernetes gives before SIGKILL.
            drain: Duration::from_secs(25),
            tokens: None,
            oauth: None,
            session_keys: None,
            allow_unauthenticated: false,
            prefix: Prefix::default(),
            servers: Vec::new(),
            names_servers: false,
            said: Said::default(),
        }
    }
}

/// Half of the cores that this process may use, at least one: a call costs half as much CPU time on one thread as on two
/// that hand it to and fro, and one answers some 50,000 small calls a second (README, Performance).
fn half_the_cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// Where a token comes from.
#[derive(Clone, Debug)]
pub(super) struct TokenSource {
    /// `None`: what is wrong with it has been said.
    pub(super) holder: Option<Holder>,
    pub(super) principal: Option<String>,
    /// For problems: file, line and key.
    pub(super) place: String,
}

/// One server as configured; what is missing has a default. No `Debug`: command and `env` may hold secrets.
#[derive(Clone)]
pub(super) struct ServerDraft {
    pub(super) name: ServerName,
    pub(super) addresses: Vec<Address>,
    pub(super) command: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) isolation: Isolation,
    pub(super) era: EraChoice,
    pub(super) prefix: Option<Prefix>,
    pub(super) connections: Option<usize>,
}

impl ServerDraft {
    pub(super) fn new(name: ServerName) -> Self {
        Self {
            name,
            addresses: Vec::new(),
            command: Vec::new(),
            env: BTreeMap::new(),
            isolation: Isolation::default(),
            era: EraChoice::default(),
            prefix: None,
            connections: None,
        }
    }

    /// The address, the command, or the address that servers have unless something else is said.
    pub(super) fn source(&self) -> Option<Source> {
        match (self.addresses.as_slice(), self.command.split_first()) {
            ([], Some((program, args))) => {
                Some(Source::Command { program: program.clone(), args: args.to_vec(), env: self.env.clone() })
            }
            ([], None) => {
                let host = format!("mcp-{}", self.name);
                Some(Source::Endpoints(vec![Address::Tcp { host, port: BRIDGE_PORT }]))
            }
            (addresses, None) => Some(Source::Endpoints(addresses.to_vec())),
            (_, Some(_)) => None,
        }
    }
}

/// Where a bridge listens unless told otherwise.
const BRIDGE_PORT: u16 = 4444;

/// What may be written for a slug that is none.
pub(super) const SLUG: &str = "no server name; take 1 to 20 of a-z, 0-9 and -";

/// The words for the choices, in file and flags.
pub(super) const ISOLATIONS: &[(&str, Isolation)] = &[
    ("auto", Isolation::Auto),
    ("session", Isolation::Session),
    ("principal", Isolation::Principal),
    ("shared", Isolation::Shared),
];
pub(super) const ERAS: &[(&str, EraChoice)] =
    &[("auto", EraChoice::Auto), ("modern", EraChoice::Modern), ("legacy", EraChoice::Legacy)];
pub(super) const PREFIXES: &[(&str, Prefix)] = &[("conflict", Prefix::Conflict), ("always", Prefix::Always)];
