//! The settings of file and flags, before the rules that span several of them make a `Config` of them.

use std::collections::BTreeMap;
use std::time::Duration;

use wire::limits::Limits;

use super::Transport;
use super::keys::KeySource;
use super::secret_source::SecretSource;
use super::snapshot::FileSnapshot;
use crate::call::ServerName;
use crate::ops::{admin, log};
use crate::router::names::Prefix;
use crate::upstream::{Address, EraChoice, Isolation, Source};
use crate::{auth, front, listen, peer, permit, router, session, upstream};

/// All settings, with defaults for those that are not given.
pub(super) struct Draft {
    pub(super) listen: listen::Config,
    pub(super) admin: admin::Config,
    pub(super) peers: peer::Config,
    /// The address under which other replicas reach this one, and the place of that setting.
    pub(super) peer_address: Option<(String, String)>,
    pub(super) log: log::Config,
    pub(super) permits: permit::Config,
    pub(super) upstream: upstream::Config,
    pub(super) router: router::Config,
    pub(super) session: session::Config,
    pub(super) front: front::Config,
    pub(super) transport: Transport,
    pub(super) threads: usize,
    /// `None`: a default that depends on `threads` and the machine.
    pub(super) busy_poll: Option<Duration>,
    /// Bounds of messages, copied to every room that scans them.
    pub(super) limits: Limits,
    /// Without these the bounds of the whole process apply.
    pub(super) principal_calls: Option<usize>,
    pub(super) principal_sessions: Option<usize>,
    pub(super) drain_delay: Duration,
    /// From SIGTERM to the end, `drain_delay` included.
    pub(super) drain: Duration,
    /// `None`: the token of `MCP_GATEWAY_AUTH_TOKEN`, if that is set.
    pub(super) tokens: Option<Vec<TokenSetting>>,
    /// `None`: not configured. `Some(None)`: invalid, and its problem is reported already.
    pub(super) oauth: Option<Option<auth::oauth::Config>>,
    /// `None`: the keys of `MCP_EDGE_KEY`, if that is set.
    pub(super) session_keys: Option<Vec<KeySource>>,
    pub(super) allow_unauthenticated: bool,
    pub(super) prefix: Prefix,
    pub(super) servers: Vec<ServerDraft>,
    /// Whether the file names servers, even invalid ones, or could not be read.
    pub(super) names_servers: bool,
    pub(super) files: FileSnapshot,
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
            // 5 s: endpoints are removed asynchronously, and load balancers take some seconds to notice.
            drain_delay: Duration::from_secs(5),
            // 25 s: below the 30 s that Kubernetes waits before SIGKILL.
            drain: Duration::from_secs(25),
            tokens: None,
            oauth: None,
            session_keys: None,
            allow_unauthenticated: false,
            prefix: Prefix::default(),
            servers: Vec::new(),
            names_servers: false,
            files: FileSnapshot::default(),
        }
    }
}

/// Half of the cores that this process may use, at least one: a call costs half as much CPU time on one thread as on two
/// that pass it to each other, and one thread answers some 50,000 small calls a second (README, Performance).
fn half_the_cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// A configured token.
#[derive(Clone, Debug)]
pub(super) struct TokenSetting {
    /// `None`: invalid, and its problem is reported already.
    pub(super) secret: Option<SecretSource>,
    pub(super) principal: Option<String>,
    /// File, line and key, for problems.
    pub(super) place: String,
}

/// One server as configured, with defaults for what is missing. No `Debug`: `command` and `env` may hold secrets.
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

    /// The address, the command, or the default address; `None` if it has both.
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

/// The default port of a bridge.
const BRIDGE_PORT: u16 = 4444;

/// The end of the problem for an invalid slug.
pub(super) const SLUG: &str = "not a server name; use 1 to 20 characters of a-z, 0-9 and -";

/// The words for the choices in file and flags.
pub(super) const ISOLATIONS: &[(&str, Isolation)] = &[
    ("auto", Isolation::Auto),
    ("session", Isolation::Session),
    ("principal", Isolation::Principal),
    ("shared", Isolation::Shared),
];
pub(super) const ERAS: &[(&str, EraChoice)] =
    &[("auto", EraChoice::Auto), ("modern", EraChoice::Modern), ("legacy", EraChoice::Legacy)];
pub(super) const PREFIXES: &[(&str, Prefix)] = &[("conflict", Prefix::Conflict), ("always", Prefix::Always)];
