//! The command line. Flags of the Go gateway that are in users' manifests keep their meaning.
//!
//! Values are taken as text and checked together with those of the file, so that one run reports all problems. Booleans are
//! written as in Go: `--flag` or `--flag=false`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgAction, Parser};

use super::Transport;
use super::draft::{Draft, SLUG, ServerDraft};
use super::problem::{ConfigError, Problem, listed};
use crate::call::ServerName;
use crate::ops::bind;
use crate::upstream::{Address, BadAddress};

/// One endpoint for many MCP servers.
#[derive(Debug, Default, Parser)]
#[command(
    name = "mcp-edge",
    version,
    args_override_self = true,
    after_help = "SIGTERM or Ctrl-C: what is on its way is finished, and then it ends; a second one ends it at once.\n`mcp-edge check URL` goes to an endpoint as a client does and says what is wrong; see `mcp-edge check --help`."
)]
pub(super) struct Flags {
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// Where to serve clients (default: `[::]:8811`)
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["host", "port"])]
    listen: Option<String>,

    /// The host of --listen alone
    #[arg(long, value_name = "HOST")]
    host: Option<String>,

    /// The port of --listen alone
    #[arg(long, value_name = "PORT")]
    port: Option<String>,

    /// Where to serve /metrics, /health and /ready (default: `[::]:9090`)
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,

    /// Where to listen for the other replicas, which find this one at MCP_EDGE_PEER_ADDRESS
    #[arg(long, value_name = "ADDRESS")]
    peers: Option<String>,

    /// The servers to serve, in order; one that the file does not describe is at mcp-NAME:4444
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    servers: Vec<String>,

    /// A server at host:port or unix:/path; may be repeated
    #[arg(long, value_name = "NAME=ADDRESS")]
    server: Vec<String>,

    /// The only tools to show
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    tools: Vec<String>,

    /// Log each call: method, name, server, outcome and time, never arguments or results
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    log_calls: Option<bool>,

    /// Log each step of each call
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    verbose: Option<bool>,

    /// Check the configuration, try every server, print what would be served, and exit
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    dry_run: Option<bool>,

    /// Ask a running process whether it is alive, and exit with 0 or 1 [default: the admin listener here]
    #[arg(long, value_name = "URL", num_args = 0..=1)]
    check_health: Option<Option<String>>,

    /// Let everybody in where no token is configured
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    allow_unauthenticated: Option<bool>,

    /// What alone to serve: streaming or sse over HTTP, or stdio to one local client (default: both over HTTP)
    #[arg(long, value_name = "TRANSPORT")]
    transport: Option<String>,

    /// Servers are started by somebody else: always so
    #[arg(long = "static", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    is_static: Option<bool>,

    /// Keep secrets out of calls and results (not supported yet)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    block_secrets: Option<bool>,
}

/// The parsed command line.
pub(super) enum Parsed {
    Flags(Box<Flags>),
    /// `--help` or `--version`.
    Text(String),
}

/// Reads the arguments, the program's name first.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, ConfigError> {
    match Flags::try_parse_from(args) {
        Ok(flags) => Ok(Parsed::Flags(Box::new(flags))),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Parsed::Text(error.to_string()))
        }
        Err(error) => {
            let text = error.to_string();
            let text = text.trim_end().strip_prefix("error: ").unwrap_or(text.trim_end());
            Err(ConfigError { problems: vec![Problem::new("", text)] })
        }
    }
}

impl Flags {
    pub(super) fn is_dry_run(&self) -> bool {
        self.dry_run.unwrap_or_default()
    }

    /// `--check-health` with or without a URL.
    pub(super) fn check_health(&self) -> Option<Option<&str>> {
        self.check_health.as_ref().map(Option::as_deref)
    }

    /// Applies the flags to `draft`, over the settings of the file.
    pub(super) fn apply(&self, draft: &mut Draft, problems: &mut Vec<Problem>) {
        self.apply_addresses(draft, problems);
        self.apply_servers(draft, problems);
        self.apply_kept(draft, problems);
        if !self.tools.is_empty() {
            draft.router.tools = Some(self.tools.iter().cloned().collect());
        }
        draft.front.log_calls = self.log_calls.unwrap_or(draft.front.log_calls);
        draft.log.verbose = self.verbose.unwrap_or(draft.log.verbose);
        draft.allow_unauthenticated = self.allow_unauthenticated.unwrap_or_default();
    }

    fn apply_addresses(&self, draft: &mut Draft, problems: &mut Vec<Problem>) {
        for (flag, given, address) in [
            ("--listen", &self.listen, &mut draft.listen.address),
            ("--admin", &self.admin, &mut draft.admin.address),
        ] {
            match given.as_ref().map(|text| text.parse()) {
                Some(Ok(parsed)) => *address = parsed,
                Some(Err(error)) => {
                    let error: bind::BadAddress = error;
                    problems.push(Problem::new(flag, error.to_string()));
                }
                None => (),
            }
        }
        match self.peers.as_ref().map(|text| text.parse()) {
            Some(Ok(address)) => draft.peers.listen = Some(address),
            Some(Err(error)) => {
                let error: bind::BadAddress = error;
                problems.push(Problem::new("--peers", error.to_string()));
            }
            None => (),
        }
        if let Some(host) = &self.host {
            draft.listen.address = draft.listen.address.with_host(host);
        }
        match self.port.as_ref().map(|port| (port, port.parse())) {
            Some((_, Ok(port))) => draft.listen.address = draft.listen.address.with_port(port),
            Some((port, Err(_))) => {
                problems.push(Problem::new("--port", format!("`{port}` is not a port; use 0 to 65535")));
            }
            None => (),
        }
    }

    fn apply_servers(&self, draft: &mut Draft, problems: &mut Vec<Problem>) {
        let mut chosen: Vec<ServerDraft> = Vec::new();
        for name in self.servers.iter().map(|name| name.trim()).filter(|name| !name.is_empty()) {
            let Some(name) = server_name("--servers", name, problems) else { continue };
            if chosen.iter().any(|server| server.name == name) {
                problems.push(Problem::new("--servers", format!("`{name}` is given twice")));
                continue;
            }
            let described = draft.servers.iter().find(|server| server.name == name);
            chosen.push(described.cloned().unwrap_or_else(|| ServerDraft::new(name)));
        }
        if !chosen.is_empty() {
            draft.servers = chosen;
        }
        let mut seen: Vec<ServerName> = Vec::new();
        for given in &self.server {
            let Some((name, address)) = given.split_once('=') else {
                problems.push(Problem::new("--server", format!("`{given}` is not of the form NAME=ADDRESS")));
                continue;
            };
            let Some(name) = server_name("--server", name, problems) else { continue };
            if seen.contains(&name) {
                problems.push(Problem::new("--server", format!("`{name}` is given twice")));
                continue;
            }
            seen.push(name.clone());
            match address.parse() {
                Ok(address) => place(&mut draft.servers, name, address),
                Err(error) => {
                    let error: BadAddress = error;
                    problems.push(Problem::new("--server", error.to_string()));
                }
            }
        }
    }

    /// Flags of the Go gateway. Those that are not supported are refused rather than ignored.
    fn apply_kept(&self, draft: &mut Draft, problems: &mut Vec<Problem>) {
        let mut refuse = |flag: &str, text: String| problems.push(Problem::new(flag, text));
        match self.transport.as_deref() {
            None => (),
            Some("streaming") => draft.front.sse = false,
            Some("sse") => draft.front.streaming = false,
            Some("stdio") => draft.transport = Transport::Stdio,
            Some(word) => {
                let words = listed(&["streaming", "sse", "stdio"]);
                refuse("--transport", format!("`{word}` is not one of {words}"));
            }
        }
        if self.is_static == Some(false) {
            refuse("--static", "servers are never started in containers of our own; leave it out".to_owned());
        }
        if self.block_secrets == Some(true) {
            refuse(
                "--block-secrets",
                "it is not supported yet; leave it out or write --block-secrets=false".to_owned(),
            );
        }
    }
}

fn server_name(flag: &str, name: &str, problems: &mut Vec<Problem>) -> Option<ServerName> {
    let parsed = ServerName::parse(name);
    if parsed.is_none() {
        problems.push(Problem::new(flag, format!("`{name}` is {SLUG}")));
    }
    parsed
}

/// Sets the address of a server, over that of the file.
fn place(servers: &mut Vec<ServerDraft>, name: ServerName, address: Address) {
    let addresses = vec![address];
    match servers.iter_mut().find(|server| server.name == name) {
        Some(server) => {
            let described = server.clone();
            *server = ServerDraft { addresses, command: Vec::new(), env: BTreeMap::new(), ..described };
        }
        None => servers.push(ServerDraft { addresses, ..ServerDraft::new(name) }),
    }
}
