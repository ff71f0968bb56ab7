//! The configuration file: which keys there are, and where their values go.
//!
//! The tables are the file's schema; a key that is in none of them is refused with the nearest that is.
//! Relative paths in the file are relative to the file, so that it works from any working directory.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::draft::{Draft, ERAS, ISOLATIONS, PREFIXES, SLUG, ServerDraft, TokenSetting};
use super::keys;
use super::oauth;
use super::policy;
use super::problem::Problem;
use super::reader::{At, Key, Reader};
use super::secret_source::{self, SecretSource};
use super::yaml::{self, BadYaml, Value};
use crate::call::ServerName;
use crate::listen::{self, tls};

/// Reads the file into `draft`, and its problems into `problems`.
pub(super) fn read(path: &Path, draft: &mut Draft, problems: &mut Vec<Problem>) {
    let name = path.display();
    draft.names_servers = true;
    draft.files.files.push(path.to_owned());
    let text = match load(path, MAX_BYTES) {
        Ok(text) => text,
        Err(error) => {
            return problems.push(Problem::new(name.to_string(), format!("cannot be read: {error}")));
        }
    };
    let root = match yaml::parse(&text) {
        Ok(root) => root,
        Err(BadYaml { line, text }) => return problems.push(Problem::new(format!("{name}:{line}"), text)),
    };
    draft.names_servers = false;
    let limits: Vec<_> = LIMITS.iter().map(|(key, _)| *key).collect();
    Reader { file: path, limits: &limits, problems }.section(&At::root(&root), ROOT, draft);
    if let Value::Map(entries) = root.value {
        draft.files.entries = entries;
    }
}

/// The text of a file of at most so many bytes.
pub(super) fn load(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(most + 1).read_to_string(&mut text)?;
    if text.len() as u64 > most {
        return Err(io::Error::other(format!("it is larger than {} KiB", most >> 10)));
    }
    Ok(text)
}

/// The largest configuration file. 1 MiB: a file with a hundred servers has 20 KiB.
const MAX_BYTES: u64 = 1 << 20;

/// The most threads. 1,024: as many as the largest machines have cores; each thread has a stack.
const MOST_THREADS: usize = 1024;

const ROOT: &[Key<Draft>] = &[
    ("listen", |r, at, draft| set(&mut draft.listen.address, r.parsed(at))),
    ("admin", |r, at, draft| set(&mut draft.admin.address, r.parsed(at))),
    ("peers", |r, at, draft| r.section(at, PEERS, draft)),
    ("threads", |r, at, draft| set(&mut draft.threads, r.count_up_to(at, MOST_THREADS))),
    ("busy_poll", |r, at, draft| draft.busy_poll = r.short_duration(at)),
    ("hosts", |r, at, draft| {
        draft.front.rules.hosts = r.list(at).iter().filter_map(|item| r.parsed(item)).collect();
    }),
    ("cors", |r, at, draft| r.section(at, CORS, draft)),
    ("tls", tls),
    ("auth", |r, at, draft| r.section(at, AUTH, draft)),
    ("session_keys", keys::read),
    ("policy", policy::read),
    ("servers", servers),
    ("prefix", |r, at, draft| set(&mut draft.prefix, r.choice(at, PREFIXES))),
    ("tasks", |r, at, draft| r.section(at, TASKS, draft)),
    ("limits", |r, at, draft| r.section(at, LIMITS, draft)),
];

const PEERS: &[Key<Draft>] = &[
    ("listen", |r, at, draft| draft.peers.listen = r.parsed(at)),
    ("address", |r, at, draft| {
        let place = format!("{}:{}: {}", r.file.display(), at.line, at.path);
        draft.peer_address = r.text(at).map(|text| (text, place));
    }),
    ("connect_timeout", |r, at, draft| set(&mut draft.peers.connect_timeout, r.duration(at))),
];

const TASKS: &[Key<Draft>] = &[
    ("after", |r, at, draft| draft.front.tasks.after = r.duration(at)),
    ("age", |r, at, draft| set(&mut draft.front.tasks.age, r.duration(at))),
];

const CORS: &[Key<Draft>] = &[("origins", |r, at, draft| {
    draft.front.rules.origins = r.list(at).iter().filter_map(|item| r.parsed(item)).collect();
})];

const AUTH: &[Key<Draft>] = &[
    ("tokens", |r, at, draft| {
        draft.tokens = Some(r.list(at).iter().map(|item| token(r, item)).collect());
    }),
    ("oauth", oauth::read),
];

const TOKEN: &[Key<TokenDraft>] = &[
    ("env", |r, at, token| token.sources.extend(r.text(at).map(SecretSource::Variable))),
    ("file", |r, at, token| {
        token.sources.extend(r.text(at).map(|path| SecretSource::File(beside(r.file, &path))));
    }),
    ("principal", |r, at, token| token.principal = r.text(at)),
];

const TLS: &[Key<TlsFiles>] = &[
    ("cert", |r, at, files| files.cert = r.text(at).map(|path| beside(r.file, &path))),
    ("key", |r, at, files| files.key = r.text(at).map(|path| beside(r.file, &path))),
    ("client_ca", |r, at, files| files.client_ca = r.text(at).map(|path| beside(r.file, &path))),
];

const SERVER: &[Key<ServerDraft>] = &[
    ("address", |r, at, server| {
        server.addresses = r.list(at).iter().filter_map(|item| r.parsed(item)).collect();
    }),
    ("command", |r, at, server| server.command = r.texts(at)),
    ("env", |r, at, server| {
        let entries = r.entries(at);
        let pair = |item: &At<'_>| Some((item.key.to_owned(), r.text(item)?));
        server.env = entries.iter().filter_map(pair).collect();
    }),
    ("isolation", |r, at, server| set(&mut server.isolation, r.choice(at, ISOLATIONS))),
    ("era", |r, at, server| set(&mut server.era, r.choice(at, ERAS))),
    ("prefix", |r, at, server| server.prefix = r.choice(at, PREFIXES)),
    ("connections", |r, at, server| server.connections = r.count(at)),
];

const LIMITS: &[Key<Draft>] = &[
    // Messages.
    ("body", |r, at, draft| set(&mut draft.limits.body_bytes, r.bytes(at))),
    ("frame", |r, at, draft| set(&mut draft.limits.frame_bytes, r.bytes(at))),
    ("depth", |r, at, draft| set(&mut draft.limits.depth, r.count(at))),
    ("headers", |r, at, draft| {
        set(&mut draft.listen.http.header_bytes, r.bytes_from(at, listen::http::HEADER_BYTES_LEAST));
    }),
    ("held_bytes", |r, at, draft| set(&mut draft.permits.held_bytes, r.bytes(at))),
    ("list_bytes", |r, at, draft| set(&mut draft.upstream.list_bytes, r.bytes(at))),
    ("policy_bytes", |r, at, draft| set(&mut draft.router.policy_bytes, r.bytes(at))),
    ("task_bytes", |r, at, draft| set(&mut draft.front.tasks.result_bytes, r.bytes(at))),
    // Counts.
    ("connections", |r, at, draft| set(&mut draft.permits.connections, r.count(at))),
    ("calls", |r, at, draft| set(&mut draft.permits.calls, r.count(at))),
    ("principal_calls", |r, at, draft| draft.principal_calls = r.count(at)),
    ("listens", |r, at, draft| set(&mut draft.permits.listens, r.count(at))),
    ("sessions", |r, at, draft| set(&mut draft.session.sessions, r.count(at))),
    ("principal_sessions", |r, at, draft| draft.principal_sessions = r.count(at)),
    ("session_calls", |r, at, draft| set(&mut draft.session.session_calls, r.count(at))),
    ("slots", |r, at, draft| set(&mut draft.upstream.slots.slots, r.count(at))),
    ("queue", |r, at, draft| set(&mut draft.upstream.slots.queue, r.count(at))),
    ("tasks", |r, at, draft| set(&mut draft.front.tasks.tasks, r.count(at))),
    ("parked", |r, at, draft| set(&mut draft.front.park.calls, r.count(at))),
    ("list_pages", |r, at, draft| set(&mut draft.upstream.list_pages, r.count(at))),
    ("asks", |r, at, draft| set(&mut draft.upstream.asks, r.count(at))),
    ("rounds", |r, at, draft| set(&mut draft.front.rounds, r.count(at))),
    ("principal_connections", |r, at, draft| {
        set(&mut draft.upstream.principal_connections, r.count(at));
    }),
    // Times of calls.
    ("queue_timeout", |r, at, draft| set(&mut draft.upstream.slots.queue_timeout, r.duration(at))),
    ("connect_timeout", |r, at, draft| set(&mut draft.upstream.connect_timeout, r.duration(at))),
    ("probe_timeout", |r, at, draft| set(&mut draft.upstream.probe_timeout, r.duration(at))),
    ("handshake_timeout", |r, at, draft| set(&mut draft.upstream.handshake_timeout, r.duration(at))),
    ("call_timeout", |r, at, draft| set(&mut draft.upstream.call_timeout, r.duration(at))),
    ("call_timeout_max", |r, at, draft| set(&mut draft.upstream.call_timeout_max, r.duration(at))),
    ("ask_timeout", |r, at, draft| set(&mut draft.upstream.ask_timeout, r.duration(at))),
    ("rounds_time", |r, at, draft| set(&mut draft.front.rounds_time, r.duration(at))),
    ("parked_timeout", |r, at, draft| set(&mut draft.front.park.age, r.duration(at))),
    ("write_timeout", |r, at, draft| set(&mut draft.upstream.write_timeout, r.duration(at))),
    ("keep_alive", |r, at, draft| set(&mut draft.front.keep_alive, r.duration(at))),
    // Lifetimes.
    ("idle_timeout", |r, at, draft| set(&mut draft.upstream.idle_timeout, r.duration(at))),
    ("session_idle", |r, at, draft| set(&mut draft.session.idle, r.duration(at))),
    ("session_age", |r, at, draft| set(&mut draft.session.age, r.duration(at))),
    ("names_settle", |r, at, draft| set(&mut draft.router.names_settle, r.duration(at))),
    ("drain_delay", |r, at, draft| set(&mut draft.drain_delay, r.duration_or_zero(at))),
    ("drain", |r, at, draft| set(&mut draft.drain, r.duration_or_zero(at))),
];

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

#[derive(Default)]
struct TlsFiles {
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
}

fn tls(r: &mut Reader<'_>, at: &At<'_>, draft: &mut Draft) {
    let (mut files, before) = (TlsFiles::default(), r.problems.len());
    r.section(at, TLS, &mut files);
    match (files.cert, files.key) {
        (Some(cert), Some(key)) => {
            let config = tls::Config::new(cert, key);
            draft.listen.tls = Some(tls::Config { client_ca: files.client_ca, ..config });
        }
        _ if r.problems.len() > before => (), // reported already
        _ => r.problem(at, "both `cert` and `key` belong here"),
    }
}

#[derive(Default)]
struct TokenDraft {
    sources: Vec<SecretSource>,
    principal: Option<String>,
}

fn token(r: &mut Reader<'_>, at: &At<'_>) -> TokenSetting {
    let (mut token, before) = (TokenDraft::default(), r.problems.len());
    r.section(at, TOKEN, &mut token);
    let has_problems = r.problems.len() > before;
    let secret = secret_source::exactly_one(r, at, (token.sources, "token", has_problems));
    let place = format!("{}:{}: {}", r.file.display(), at.line, at.path);
    TokenSetting { secret, principal: token.principal, place }
}

fn servers(r: &mut Reader<'_>, at: &At<'_>, draft: &mut Draft) {
    let entries = r.entries(at);
    draft.names_servers = !entries.is_empty() || matches!(at.node.value, Value::Text(_) | Value::List(_));
    for child in entries {
        let Some(name) = ServerName::parse(child.key) else {
            r.problem(&child, format!("`{}` is {SLUG}", child.key));
            continue;
        };
        let mut server = ServerDraft::new(name);
        r.section(&child, SERVER, &mut server);
        if !server.addresses.is_empty() && !server.command.is_empty() {
            r.problem(&child, "a server has either an `address` or a `command`");
        } else if !server.env.is_empty() && server.command.is_empty() {
            r.problem(&child, "`env` belongs to a `command`; a bridge's server has its container's own");
        }
        draft.servers.push(server);
    }
}

pub(super) fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}
