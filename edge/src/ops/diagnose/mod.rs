//! `mcp-edge check URL`: goes to an endpoint as a client does, lists what it finds, times it, and says in plain
//! words what is wrong.
//!
//! It speaks the modern era, and the session-based one with endpoints that know only that. It knows nothing of this
//! process's configuration, and never shows the token. The same way leads to single documents of other services
//! ([`fetch`]).

mod document;
mod line;
mod parse;
mod trouble;
mod trust;

use std::path::PathBuf;
use std::time::Duration;

use http::header::HeaderValue;
use http::{Method, Uri};
use serde_json::{Value, json};
use tokio::time::Instant;

pub use document::{Document, fetch};
use line::Line;
use parse::{Answer, names};
pub use trouble::Trouble;

/// What is asked for on the command line.
#[derive(Clone, Debug)]
pub struct Visit {
    /// The endpoint; without a path it means `/mcp`.
    pub url: Uri,
    /// The variable that the token comes from, to name it in advice.
    pub token_variable: String,
    /// The token; empty where there is none.
    pub token: String,
    /// Certificates to trust beside this machine's own.
    pub authorities: Option<PathBuf>,
    /// The admin listener, to hear how each server is.
    pub admin: Option<Uri>,
    /// The longest wait for one answer.
    pub timeout: Duration,
}

/// How the endpoint is spoken to, once that is known.
enum Manner {
    Modern,
    /// With the revision agreed on, and the session if there is one.
    Legacy {
        version: String,
        session: Option<HeaderValue>,
    },
}

impl Visit {
    /// Checks a URL and gives it a path.
    ///
    /// # Errors
    /// What is wrong with it, in one sentence.
    pub fn url(text: &str, path: &str) -> Result<Uri, String> {
        let uri: Uri =
            text.parse().map_err(|_| format!("`{text}` is no URL; one begins with http:// or https://"))?;
        let scheme = uri.scheme_str().unwrap_or_default();
        if !matches!(scheme, "http" | "https") || uri.host().is_none_or(str::is_empty) {
            return Err(format!("`{text}` must begin with http:// or https:// and a host"));
        }
        if uri.path() != "/" {
            return Ok(uri);
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let whole = Uri::builder().scheme(scheme).authority(authority).path_and_query(path);
        whole.build().map_err(|_| format!("`{text}` is no URL; one begins with http:// or https://"))
    }

    /// Goes there; `say` gets a line for each thing found, as soon as it is.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub async fn pay(&self, say: &mut impl FnMut(String)) -> Result<(), Trouble> {
        say(self.url.to_string());
        let mut line = Line::new(self.url.clone(), self.timeout, self.authorities.as_deref())?;
        for found in line.open().await? {
            say(found);
        }
        let manner = self.greet(&mut line, say).await?;
        let mut tools = 0;
        for (kind, method) in LISTS {
            let began = Instant::now();
            match self.list(&mut line, &manner, kind, method).await? {
                None => say(format!("  {kind:<10} not offered")),
                Some(found) => {
                    let took = began.elapsed().as_millis();
                    say(format!("  {kind:<10} {} ({took} ms){}", found.len(), some_of(&found)));
                    tools += if kind == "tools" { found.len() } else { 0 };
                }
            }
        }
        self.leave(&mut line, &manner).await;
        self.servers(say).await?;
        if tools == 0 { Err(Trouble::Nothing { asked_admin: self.admin.is_some() }) } else { Ok(()) }
    }

    async fn greet(&self, line: &mut Line, say: &mut impl FnMut(String)) -> Result<Manner, Trouble> {
        let began = Instant::now();
        let answer = self.ask(line, &Manner::Modern, "server/discover", json!({})).await?;
        let (manner, version, server) = if let Some(result) = answer.result() {
            let server = result.pointer("/_meta/io.modelcontextprotocol~1serverInfo").cloned();
            (Manner::Modern, MODERN.to_owned(), server.or_else(|| result.get("serverInfo").cloned()))
        } else if answer.may_be_legacy() {
            self.initialize(line).await?
        } else {
            return Err(answer.trouble(self));
        };
        let name = |key| server.as_ref().and_then(|info: &Value| info.get(key)).and_then(Value::as_str);
        let server = format!(
            "{} {}",
            name("name").unwrap_or("a server without a name"),
            name("version").unwrap_or_default()
        );
        let took = began.elapsed().as_millis();
        say(format!("  {:<10} {version}, {} ({took} ms)", "MCP", server.trim_end()));
        Ok(manner)
    }

    async fn initialize(&self, line: &mut Line) -> Result<(Manner, String, Option<Value>), Trouble> {
        let opening = Manner::Legacy { version: LEGACY.to_owned(), session: None };
        let params = json!({"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": client()});
        let answer = self.ask(line, &opening, "initialize", params).await?;
        let Some(result) = answer.result() else { return Err(answer.trouble(self)) };
        let version = result.get("protocolVersion").and_then(Value::as_str).unwrap_or(LEGACY).to_owned();
        let manner = Manner::Legacy { version: version.clone(), session: answer.session.clone() };
        let said = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let heard =
            line.send(self.request(Method::POST, &manner, "notifications/initialized"), &said).await?;
        if heard.status.is_success() {
            Ok((manner, version, result.get("serverInfo").cloned()))
        } else {
            Err(heard.trouble(self))
        }
    }

    /// Every page of a list; `None` where it is not offered.
    async fn list(
        &self,
        line: &mut Line,
        manner: &Manner,
        kind: &str,
        method: &'static str,
    ) -> Result<Option<Vec<String>>, Trouble> {
        let (mut found, mut cursor) = (Vec::new(), None);
        for _ in 0..PAGES {
            let params = cursor.map_or_else(|| json!({}), |cursor: Value| json!({"cursor": cursor}));
            let answer = self.ask(line, manner, method, params).await?;
            let Some(result) = answer.result() else {
                return if answer.is_unknown_method() { Ok(None) } else { Err(answer.trouble(self)) };
            };
            found.extend(names(result, kind));
            cursor = result.get("nextCursor").filter(|cursor| cursor.is_string()).cloned();
            if cursor.is_none() {
                return Ok(Some(found));
            }
        }
        Err(Trouble::NotMcp(format!("its list of {kind} has no end: {PAGES} pages and still more")))
    }

    async fn ask(
        &self,
        line: &mut Line,
        manner: &Manner,
        method: &'static str,
        mut params: Value,
    ) -> Result<Answer, Trouble> {
        if matches!(manner, Manner::Modern)
            && let Some(params) = params.as_object_mut()
        {
            let meta = json!({
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities": {},
                "io.modelcontextprotocol/clientInfo": client(),
            });
            params.insert("_meta".to_owned(), meta);
        }
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        line.send(self.request(Method::POST, manner, method), &message).await
    }

    fn request(&self, verb: Method, manner: &Manner, method: &'static str) -> http::request::Builder {
        let mut request = http::Request::builder().method(verb).uri(self.url.path());
        if let Some(path) = self.url.path_and_query() {
            request = request.uri(path.as_str());
        }
        if !self.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.token));
        }
        match manner {
            Manner::Modern => request.header("mcp-protocol-version", MODERN).header("mcp-method", method),
            Manner::Legacy { .. } if method == "initialize" => request,
            Manner::Legacy { version, session: None } => request.header("mcp-protocol-version", version),
            Manner::Legacy { version, session: Some(id) } => {
                request.header("mcp-protocol-version", version).header("mcp-session-id", id)
            }
        }
    }

    /// Ends a session that we began; whether that works is not what was asked.
    async fn leave(&self, line: &mut Line, manner: &Manner) {
        if let Manner::Legacy { session: Some(_), .. } = manner {
            let _ended = line.send(self.request(Method::DELETE, manner, ""), &Value::Null).await;
        }
    }

    /// How each server is, where the admin listener is named.
    async fn servers(&self, say: &mut impl FnMut(String)) -> Result<(), Trouble> {
        let Some(admin) = &self.admin else { return Ok(()) };
        let mut line = Line::new(admin.clone(), self.timeout, self.authorities.as_deref())?;
        line.open().await?;
        let answer = line.send(http::Request::get(admin.path()), &Value::Null).await?;
        let Some(servers) = answer.body.get("servers").and_then(Value::as_object) else {
            return Err(Trouble::NotMcp(format!(
                "{admin} does not tell how the servers are; name an edge's admin port, 9090 by default"
            )));
        };
        let mut down = Vec::new();
        for (name, server) in servers {
            let text = |key| server.get(key).and_then(Value::as_str);
            let state = text("state").unwrap_or("unknown");
            let why = text("last_error").map(|why| format!(": {why}")).unwrap_or_default();
            say(format!("  {:<10} {name} {state}{why}", "server"));
            let complaints = server.get("complaints").and_then(Value::as_array);
            for complaint in complaints.into_iter().flatten().filter_map(Value::as_str) {
                say(format!("  {:<10} {name}: {complaint}", "warning"));
            }
            let is_unlisted = server.get("listed").and_then(Value::as_bool) == Some(false);
            if (state != "up" && state != "sleeping") || is_unlisted {
                down.push(name.clone());
            }
        }
        if down.is_empty() { Ok(()) } else { Err(Trouble::Down(down)) }
    }
}

fn client() -> Value {
    json!({"name": "mcp-edge check", "version": env!("CARGO_PKG_VERSION")})
}

/// A few names, so that one sees whose they are.
fn some_of(found: &[String]) -> String {
    let shown: Vec<_> = found.iter().take(SHOWN).map(String::as_str).collect();
    let more = if found.len() > SHOWN { ", …" } else { "" };
    if shown.is_empty() { String::new() } else { format!(": {}{more}", shown.join(", ")) }
}

const LISTS: [(&str, &str); 3] =
    [("tools", "tools/list"), ("prompts", "prompts/list"), ("resources", "resources/list")];
/// The revision that is tried first.
const MODERN: &str = "2026-07-28";
/// The newest with sessions.
const LEGACY: &str = "2025-11-25";
/// Names shown of each list: a line of a terminal.
const SHOWN: usize = 8;
/// Pages of one list; somebody who has more of them has a loop.
const PAGES: usize = 1_000;
