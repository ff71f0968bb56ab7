//! The rules that span several settings. [`settle`] is the only way from a [`Draft`] to a [`Config`].

use std::net::{IpAddr, SocketAddr};
use std::thread::available_parallelism;
use std::time::Duration;

use super::draft::{Draft, ServerDraft, TokenSetting};
use super::problem::Problem;
use super::secret_source::SecretSource;
use super::{Config, DrainConfig, Server, Transport, env, keys};
use crate::auth::{self, Secret, Token, oauth};
use crate::ops::busy_poll;
use crate::router::names::Prefix;
use crate::seal::Home;
use crate::upstream::ServerConfig;

/// Checks the settings and derives others from them. The result is valid only if no problem was added.
pub(super) fn settle(
    mut draft: Draft,
    env: impl Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
) -> Config {
    log_levels(&mut draft, &env, problems);
    let auth = authentication(&draft, &env, problems);
    let mut seal = keys::settle(&draft, &env, problems);
    seal.home = home(&draft, seal.current.is_some(), &env, problems);
    times(&draft, problems);
    sizes(&draft, problems);
    let busy_poll = busy_poll(&draft, problems);
    if draft.servers.is_empty() && !draft.names_servers {
        let text = "no server is configured; name them with --servers NAME,… or under `servers` in the file";
        problems.push(Problem::new("", text));
    }
    draft.permits.principal_calls = draft.principal_calls.unwrap_or(draft.permits.calls);
    draft.session.principal_sessions = draft.principal_sessions.unwrap_or(draft.session.sessions);
    if draft.transport == Transport::Stdio {
        // The process is its only session: no other could be opened, and there is no endpoint to remove.
        (draft.session.idle, draft.session.age) = (Duration::MAX, Duration::MAX);
        draft.drain_delay = Duration::ZERO;
        draft.upstream.stop_grace = STOP_GRACE_OF_LOCAL;
    }
    draft.router.limits = draft.limits.clone();
    draft.router.late = draft.upstream.longest_way();
    draft.upstream.limits = draft.limits.clone();
    draft.upstream.withheld = secrets(&draft);
    draft.front.channels = draft.session.sessions;
    draft.front.limits = draft.limits;
    draft.front.rules.loopback = draft.listen.address.is_loopback();
    let tokens = draft.tokens.iter().flatten().filter_map(|token| token.secret.as_ref()?.file().cloned());
    draft.files.files.extend(tokens);
    let servers = draft.servers.iter().filter_map(|server| complete(server, draft.prefix)).collect();
    Config {
        listen: draft.listen,
        admin: draft.admin,
        peers: draft.peers,
        log: draft.log,
        permits: draft.permits,
        auth,
        seal,
        upstream: draft.upstream,
        servers,
        router: draft.router,
        session: draft.session,
        transport: draft.transport,
        threads: draft.threads,
        busy_poll,
        front: draft.front,
        allow_unauthenticated: draft.allow_unauthenticated,
        files: draft.files,
        drain: DrainConfig { delay: draft.drain_delay, grace: draft.drain.saturating_sub(draft.drain_delay) },
    }
}

/// How long the thread polls for work before it parks. Several polling threads would compete, and on a single core polling
/// would keep the servers from answering.
fn busy_poll(draft: &Draft, problems: &mut Vec<Problem>) -> Duration {
    let Some(asked) = draft.busy_poll else {
        let is_of_use = draft.threads == 1 && available_parallelism().is_ok_and(|cores| cores.get() > 1);
        return if is_of_use { busy_poll::WINDOW } else { Duration::ZERO };
    };
    if asked > busy_poll::LONGEST {
        let text =
            format!("{asked:?} would keep a core busy for nothing; use at most {:?}", busy_poll::LONGEST);
        problems.push(Problem::new("busy_poll", text));
    } else if draft.threads > 1 && !asked.is_zero() {
        let text = format!(
            "only a single thread can poll, and `threads` is {}; leave one of the two out",
            draft.threads
        );
        problems.push(Problem::new("busy_poll", text));
    }
    asked
}

/// The address under which other replicas reach this one, if there are any.
fn home(
    draft: &Draft,
    has_key: bool,
    env: impl Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
) -> Home {
    let variable = || env(env::PEER_ADDRESS).filter(|text| !text.is_empty());
    let configured = draft.peer_address.clone().or_else(|| Some((variable()?, env::PEER_ADDRESS.to_owned())));
    let Some(listen) = draft.peers.listen.as_ref().filter(|_| draft.transport == Transport::Http) else {
        if let (Some((_, place)), None) = (&draft.peer_address, &draft.peers.listen) {
            problems.push(Problem::new(place.clone(), "nobody listens there without `peers.listen`"));
        }
        return Home::default();
    };
    if !has_key {
        let text = format!("replicas need one key in common: set {}, or `session_keys`", env::KEY);
        problems.push(Problem::new("peers.listen", text));
    }
    let (text, place) = configured.unwrap_or_else(|| (listen.to_string(), "peers.listen".to_owned()));
    // The address of a pod comes without a port.
    let alone = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, listen.port()));
    match text.parse::<SocketAddr>().or(alone) {
        Ok(address) if !address.ip().is_unspecified() && address.port() > 0 => Home::at(address),
        _ => {
            let text = format!(
                "`{text}` is no address at which others reach this one; give its IP, for example 10.0.0.7 or \
                 10.0.0.7:4445, as `peers.address` or in {} (in a pod: status.podIP)",
                env::PEER_ADDRESS
            );
            problems.push(Problem::new(place, text));
            Home::default()
        }
    }
}

fn log_levels(draft: &mut Draft, env: impl Fn(&str) -> Option<String>, problems: &mut Vec<Problem>) {
    let Some(text) = env(env::LOG).filter(|text| !text.is_empty()) else { return };
    match text.parse() {
        Ok(levels) => draft.log.levels = Some(levels),
        Err(_) => {
            let text = format!("`{text}` names no levels; write for example edge=debug,hyper=info");
            problems.push(Problem::new(env::LOG, text));
        }
    }
}

/// The variables that hold secrets of this process, whether or not they are used.
fn secrets(draft: &Draft) -> Vec<String> {
    let tokens = draft
        .tokens
        .iter()
        .flatten()
        .filter_map(|token| token.secret.as_ref()?.variable().map(str::to_owned));
    let keys = draft.session_keys.iter().flatten().filter_map(|source| source.variable().map(str::to_owned));
    tokens.chain(keys).chain([env::TOKEN.to_owned(), env::KEY.to_owned()]).collect()
}

fn authentication(
    draft: &Draft,
    env: impl Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
) -> auth::Config {
    let before = problems.len();
    let tokens = tokens(draft, env, problems);
    let address = &draft.listen.address;
    let is_asked = draft.tokens.as_ref().is_some_and(|sources| !sources.is_empty()) || draft.oauth.is_some();
    let is_open = tokens.is_empty() && !is_asked && problems.len() == before;
    let is_reachable = draft.transport == Transport::Http && !address.is_loopback();
    if is_open && is_reachable && !draft.allow_unauthenticated {
        // A gateway gives access to whatever its servers can do, so opening it to a network must be explicit.
        let text = format!(
            "{address} can be reached from other machines and no token is configured; set {}, or `auth.oauth` in the \
             file, or listen on 127.0.0.1, or let everybody in with --allow-unauthenticated",
            env::TOKEN
        );
        problems.push(Problem::new("listen", text));
    }
    auth::Config { allow_unauthenticated: is_open, tokens, oauth: draft.oauth.clone().flatten() }
}

fn tokens(draft: &Draft, env: impl Fn(&str) -> Option<String>, problems: &mut Vec<Problem>) -> Vec<Token> {
    let secret = Some(SecretSource::Variable(env::TOKEN.to_owned()));
    let implied = [TokenSetting { secret, principal: None, place: String::new() }];
    let mut tokens: Vec<Token> = Vec::new();
    for setting in draft.tokens.as_deref().unwrap_or(&implied) {
        let Some(source) = &setting.secret else { continue };
        let mut problem = |text: &str| {
            problems.push(Problem::new(setting.place.clone(), format!("{source} {text}")));
        };
        let text = match source.text(&env) {
            Ok(text) => text,
            Err(why) => {
                problem(&why);
                continue;
            }
        };
        // Secrets made from files often end in a newline that no header could carry.
        match text.map(|text| Secret::parse(text.trim())) {
            // The implied token may be missing; `authentication` reports it where one is needed.
            None if draft.tokens.is_none() => (),
            None if source.file().is_some() => problem("is empty; it must hold the token"),
            None => problem("is not set; it must hold the token"),
            Some(None) => problem("holds characters that no Authorization header can carry"),
            Some(Some(secret)) if tokens.iter().any(|token| token.secret == secret) => {
                problem("holds the same token as another one");
            }
            Some(Some(secret)) => {
                let principal = setting.principal.clone().unwrap_or_else(|| PRINCIPAL.to_owned());
                if principal.starts_with(oauth::PREFIX) {
                    let text = format!(
                        "stands for `{principal}`; names that begin with `{}` are those of `auth.oauth`",
                        oauth::PREFIX
                    );
                    problem(&text);
                }
                if draft.router.policy.is_some() && principal.contains(['*', '?']) {
                    let text = format!(
                        "stands for `{principal}`; in `policy` nobody can mean just that one, for `*` and `?` stand for others there"
                    );
                    problem(&text);
                }
                tokens.push(Token { secret, principal });
            }
        }
    }
    tokens
}

fn times(draft: &Draft, problems: &mut Vec<Problem>) {
    let upstream = &draft.upstream;
    for (short, less, long, more) in [
        ("limits.drain_delay", draft.drain_delay, "limits.drain", draft.drain),
        ("limits.call_timeout", upstream.call_timeout, "limits.call_timeout_max", upstream.call_timeout_max),
        ("limits.session_idle", draft.session.idle, "limits.session_age", draft.session.age),
    ] {
        if less > more {
            let text = format!("{less:?} is more than `{long}`, {more:?}; lower it, or raise that too");
            problems.push(Problem::new(short, text));
        }
    }
}

fn sizes(draft: &Draft, problems: &mut Vec<Problem>) {
    let (body, frame) = (draft.limits.body_bytes, draft.limits.frame_bytes);
    if body > frame {
        let text =
            format!("{body} bytes could never be passed on in a frame of {frame}; raise `limits.frame` too");
        problems.push(Problem::new("limits.body", text));
    }
    let most = draft.permits.principal_bytes();
    if frame > most {
        let text = format!(
            "one principal may have {most} bytes of it, so that a message of `limits.frame`, {frame} bytes, would never fit; \
             raise it, or lower that"
        );
        problems.push(Problem::new("limits.held_bytes", text));
    }
}

fn complete(server: &ServerDraft, prefix: Prefix) -> Option<Server> {
    let upstream = ServerConfig::new(server.name.clone(), server.source()?);
    let connections = server.connections.unwrap_or(upstream.connections);
    Some(Server {
        upstream: ServerConfig { isolation: server.isolation, era: server.era, connections, ..upstream },
        prefix: server.prefix.unwrap_or(prefix),
    })
}

/// How long local servers have to end, after the end of their input and again after SIGTERM, where the edge itself is a local
/// server. SDK clients give a server 2 s from the end of its input to SIGTERM, and 2 s more to SIGKILL, after which our
/// servers would be left behind. So both steps must fit into the first 2 s, also on a busy machine. 500 ms: servers end within
/// some ten milliseconds of the end of their input.
const STOP_GRACE_OF_LOCAL: Duration = Duration::from_millis(500);
/// The principal of a token without a configured one.
const PRINCIPAL: &str = "default";
