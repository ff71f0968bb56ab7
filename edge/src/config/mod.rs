//! Reads command line, file and environment into the checked settings of every room.
//!
//! Flags override the file, and the file overrides the defaults. All problems are reported at once, each with its place, its
//! key and what would be right. This is the only room that reads the environment, through a closure, so that tests need no
//! environment.

mod diagnose;
mod draft;
mod file;
mod flags;
mod keys;
mod oauth;
mod policy;
mod problem;
mod reader;
mod rules;
mod secret_source;
mod snapshot;
mod units;
mod yaml;

use std::ffi::OsString;
use std::time::Duration;

use crate::ops::diagnose::Diagnose;
use crate::ops::health_check::HealthCheck;
use crate::ops::{admin, log};
use crate::router::names::Prefix;
use crate::upstream::ServerConfig;
use crate::{auth, front, listen, peer, permit, router, seal, session, upstream};
use draft::Draft;
use flags::Parsed;

pub use problem::{ConfigError, Problem};
pub use snapshot::FileSnapshot;

/// The settings of every room.
#[derive(Clone, Debug)]
pub struct Config {
    /// The public listener.
    pub listen: listen::Config,
    /// The admin listener.
    pub admin: admin::Config,
    /// How replicas reach each other.
    pub peers: peer::Config,
    /// What is logged.
    pub log: log::Config,
    /// The bounds of the whole process.
    pub permits: permit::Config,
    /// Which credentials are accepted.
    pub auth: auth::Config,
    /// The keys that seal session ids and other tokens.
    pub seal: seal::Config,
    /// How servers are connected to.
    pub upstream: upstream::Config,
    /// The servers, in the order of their claims to names.
    pub servers: Vec<Server>,
    /// How names and lists behave.
    pub router: router::Config,
    /// Bounds of legacy sessions.
    pub session: session::Config,
    /// What clients connect to.
    pub transport: Transport,
    /// Threads that serve, at least one.
    pub threads: usize,
    /// How long the only thread polls for work before it parks; zero: not at all.
    pub busy_poll: Duration,
    /// How clients are served.
    pub front: front::Config,
    /// How the process ends.
    pub drain: DrainConfig,
    /// Whether everybody is accepted wherever the process listens; set only by a flag.
    pub allow_unauthenticated: bool,
    /// The configuration file as it was read.
    pub files: FileSnapshot,
}

/// What clients connect to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// The listener.
    #[default]
    Http,
    /// Standard input and output: one local client, no listener at all.
    Stdio,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it is and how it is connected to.
    pub upstream: ServerConfig,
    /// How its names become public.
    pub prefix: Prefix,
}

/// The times of [`crate::ops::drain::Drain::run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainConfig {
    /// From SIGTERM until listeners close.
    pub delay: Duration,
    /// From then until calls in flight are cut off.
    pub grace: Duration,
}

/// What the process was started for.
#[derive(Clone, Debug)]
pub enum Command {
    /// Serve.
    Serve(Box<Config>),
    /// Try every server, print what would be served.
    DryRun(Box<Config>),
    /// Ask a running process whether it is alive.
    CheckHealth(HealthCheck),
    /// Check an endpoint as a client, and report what is wrong.
    Check(Box<Diagnose>),
    /// Print this and exit with 0.
    Print(String),
}

/// The variables that are read, apart from those that `auth.tokens` names.
pub mod env {
    /// The token that clients must present, as the Go gateway has it.
    pub const TOKEN: &str = "MCP_GATEWAY_AUTH_TOKEN";
    /// The address under which other replicas reach this one: its IP, and the port if it differs from `peers.listen`.
    pub const PEER_ADDRESS: &str = "MCP_EDGE_PEER_ADDRESS";
    /// The key of session ids, or two keys separated by a comma: the current and the previous one.
    pub const KEY: &str = "MCP_EDGE_KEY";
    /// Levels of log events by target, for example `edge=debug,hyper=info`.
    pub const LOG: &str = "MCP_EDGE_LOG";
}

/// Reads the configuration. `args` begins with the program's name.
///
/// # Errors
/// All problems; the process exits with 2.
pub fn load(
    args: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Command, ConfigError> {
    let mut args = args.into_iter().peekable();
    let program = args.next();
    if args.peek().is_some_and(|word| word == "check") {
        return Ok(match diagnose::parse(args.skip(1), env)? {
            diagnose::Parsed::Diagnose(diagnose) => Command::Check(diagnose),
            diagnose::Parsed::Text(text) => Command::Print(text),
        });
    }
    let flags = match flags::parse(program.into_iter().chain(args))? {
        Parsed::Flags(flags) => flags,
        Parsed::Text(text) => return Ok(Command::Print(text)),
    };
    let (mut draft, mut problems) = (Draft::default(), Vec::new());
    if let Some(path) = &flags.config {
        file::read(path, &mut draft, &mut problems);
    }
    flags.apply(&mut draft, &mut problems);
    if let Some(url) = flags.check_health() {
        // A health check works also with an invalid configuration.
        return check(url, &draft);
    }
    let dry_run = flags.is_dry_run();
    let config = Box::new(rules::settle(draft, env, &mut problems));
    if !problems.is_empty() {
        return Err(ConfigError { problems });
    }
    Ok(if dry_run { Command::DryRun(config) } else { Command::Serve(config) })
}

/// Reads the configuration again for a process that serves.
///
/// # Errors
/// All problems.
pub fn load_again(
    args: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<String>,
) -> Result<Config, ConfigError> {
    match load(args, env)? {
        Command::Serve(config) => Ok(*config),
        // Cannot happen: the command line of a process does not change.
        _ => Err(ConfigError { problems: vec![Problem::new("", "nothing is served with these flags")] }),
    }
}

fn check(url: Option<&str>, draft: &Draft) -> Result<Command, ConfigError> {
    let target = match url {
        None => HealthCheck::admin(&draft.admin.address),
        Some(url) => HealthCheck::parse(url).map_err(|error| ConfigError {
            problems: vec![Problem::new("--check-health", error.to_string())],
        })?,
    };
    Ok(Command::CheckHealth(target))
}
