//! `mcp-edge check URL`: connects to an endpoint as a client does, lists and times what it offers, and says in plain
//! words what is wrong.
//!
//! It speaks the modern era, and the session-based one with endpoints that know only that. It knows nothing of this
//! process's configuration, and never shows the token.

mod answer;
mod diagnosis;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{Method, Uri};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::http_client::{HttpConnection, Options, Trust};
use answer::{Answer, names};
pub use diagnosis::Diagnosis;

/// The endpoint to diagnose, and how.
#[derive(Clone, Debug)]
pub struct Diagnose {
    /// The endpoint; without a path it means `/mcp`.
    pub url: Uri,
    /// The environment variable that the token comes from; named in advice.
    pub token_variable: String,
    /// The token; empty if there is none.
    pub token: String,
    /// Authorities (PEM) to trust in addition to this machine's own.
    pub authorities: Option<PathBuf>,
    /// The admin listener, which reports the state of each server.
    pub admin: Option<Uri>,
    /// The longest wait for one answer.
    pub timeout: Duration,
}

/// The era that the endpoint speaks.
enum Era {
    Modern,
    Legacy {
        /// The negotiated revision.
        version: String,
        /// The session, if the endpoint opened one.
        session: Option<HeaderValue>,
    },
}

impl Diagnose {
    /// Checks a URL and gives it a path.
    ///
    /// # Errors
    /// What is wrong with it, in one sentence.
    pub fn url(text: &str, path: &str) -> Result<Uri, String> {
        let uri: Uri = text
            .parse()
            .map_err(|_| format!("`{text}` is not a URL; one begins with http:// or https://"))?;
        let scheme = uri.scheme_str().unwrap_or_default();
        if !matches!(scheme, "http" | "https") || uri.host().is_none_or(str::is_empty) {
            return Err(format!("`{text}` must begin with http:// or https:// and a host"));
        }
        if uri.path() != "/" {
            return Ok(uri);
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let whole = Uri::builder().scheme(scheme).authority(authority).path_and_query(path);
        whole.build().map_err(|_| format!("`{text}` is not a URL; one begins with http:// or https://"))
    }

    /// Connects to the endpoint and, if one is named, to the admin listener. `print` gets a line for each finding, at once.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub async fn run(&self, print: &mut impl FnMut(String)) -> Result<(), Diagnosis> {
        print(self.url.to_string());
        let mut connection = HttpConnection::new(self.url.clone(), &self.options())?;
        let opened = connection.open().await?;
        print(format!("  {:<10} {} ({} ms)", "address", opened.peer, opened.connect_time.as_millis()));
        if let Some((version, time)) = opened.tls {
            let host = connection.host();
            print(format!("  {:<10} {version}, a certificate for {host} ({} ms)", "TLS", time.as_millis()));
        }
        let era = self.discover(&mut connection, print).await?;
        let mut tools = 0;
        for (kind, method) in LISTS {
            let began = Instant::now();
            match self.list(&mut connection, &era, kind, method).await? {
                None => print(format!("  {kind:<10} not offered")),
                Some(found) => {
                    let took = began.elapsed().as_millis();
                    print(format!("  {kind:<10} {} ({took} ms){}", found.len(), some_of(&found)));
                    tools += if kind == "tools" { found.len() } else { 0 };
                }
            }
        }
        self.end_session(&mut connection, &era).await;
        self.check_servers(print).await?;
        if tools == 0 { Err(Diagnosis::Nothing { asked_admin: self.admin.is_some() }) } else { Ok(()) }
    }

    async fn discover(
        &self,
        connection: &mut HttpConnection,
        print: &mut impl FnMut(String),
    ) -> Result<Era, Diagnosis> {
        let began = Instant::now();
        let answer = self.request(connection, &Era::Modern, "server/discover", json!({})).await?;
        let (era, version, server) = if let Some(result) = answer.result() {
            let server = result.pointer("/_meta/io.modelcontextprotocol~1serverInfo").cloned();
            (Era::Modern, MODERN.to_owned(), server.or_else(|| result.get("serverInfo").cloned()))
        } else if answer.may_be_legacy() {
            self.initialize(connection).await?
        } else {
            return Err(answer.diagnosis(self));
        };
        let name = |key| server.as_ref().and_then(|info: &Value| info.get(key)).and_then(Value::as_str);
        let server = format!(
            "{} {}",
            name("name").unwrap_or("a server without a name"),
            name("version").unwrap_or_default()
        );
        let took = began.elapsed().as_millis();
        print(format!("  {:<10} {version}, {} ({took} ms)", "MCP", server.trim_end()));
        Ok(era)
    }

    async fn initialize(
        &self,
        connection: &mut HttpConnection,
    ) -> Result<(Era, String, Option<Value>), Diagnosis> {
        let opening = Era::Legacy { version: LEGACY.to_owned(), session: None };
        let params = json!({"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": client()});
        let answer = self.request(connection, &opening, "initialize", params).await?;
        let Some(result) = answer.result() else { return Err(answer.diagnosis(self)) };
        let version = result.get("protocolVersion").and_then(Value::as_str).unwrap_or(LEGACY).to_owned();
        let era = Era::Legacy { version: version.clone(), session: answer.session.clone() };
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let head = self.head(Method::POST, &era, "notifications/initialized");
        let accepted = exchange(connection, head, &initialized).await?;
        if accepted.status.is_success() {
            Ok((era, version, result.get("serverInfo").cloned()))
        } else {
            Err(accepted.diagnosis(self))
        }
    }

    /// Every page of a list; `None` where it is not offered.
    async fn list(
        &self,
        connection: &mut HttpConnection,
        era: &Era,
        kind: &str,
        method: &'static str,
    ) -> Result<Option<Vec<String>>, Diagnosis> {
        let (mut found, mut cursor) = (Vec::new(), None);
        for _ in 0..PAGES {
            let params = cursor.map_or_else(|| json!({}), |cursor: Value| json!({"cursor": cursor}));
            let answer = self.request(connection, era, method, params).await?;
            let Some(result) = answer.result() else {
                return if answer.is_unknown_method() { Ok(None) } else { Err(answer.diagnosis(self)) };
            };
            found.extend(names(result, kind));
            cursor = result.get("nextCursor").filter(|cursor| cursor.is_string()).cloned();
            if cursor.is_none() {
                return Ok(Some(found));
            }
        }
        Err(Diagnosis::NotMcp(format!("its list of {kind} has no end: {PAGES} pages and still more")))
    }

    async fn request(
        &self,
        connection: &mut HttpConnection,
        era: &Era,
        method: &'static str,
        mut params: Value,
    ) -> Result<Answer, Diagnosis> {
        if matches!(era, Era::Modern)
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
        exchange(connection, self.head(Method::POST, era, method), &message).await
    }

    fn options(&self) -> Options {
        let trust = Trust::Authorities { file: self.authorities.clone(), setting: "--ca" };
        Options { timeout: self.timeout, trust, max_response_bytes: MAX_RESPONSE_BYTES }
    }

    fn head(&self, verb: Method, era: &Era, method: &'static str) -> http::request::Builder {
        let target = self.url.path_and_query().map_or("/", |target| target.as_str());
        let mut request = http::Request::builder().method(verb).uri(target);
        if !self.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", self.token));
        }
        match era {
            Era::Modern => request.header("mcp-protocol-version", MODERN).header("mcp-method", method),
            Era::Legacy { .. } if method == "initialize" => request,
            Era::Legacy { version, session: None } => request.header("mcp-protocol-version", version),
            Era::Legacy { version, session: Some(id) } => {
                request.header("mcp-protocol-version", version).header("mcp-session-id", id)
            }
        }
    }

    /// Ends the session that the diagnosis opened. A failure is not reported: the session expires by itself.
    async fn end_session(&self, connection: &mut HttpConnection, era: &Era) {
        if let Era::Legacy { session: Some(_), .. } = era {
            let _ = exchange(connection, self.head(Method::DELETE, era, ""), &Value::Null).await;
        }
    }

    /// Prints the state of each server, if the admin listener is named.
    async fn check_servers(&self, print: &mut impl FnMut(String)) -> Result<(), Diagnosis> {
        let Some(admin) = &self.admin else { return Ok(()) };
        let mut connection = HttpConnection::new(admin.clone(), &self.options())?;
        let answer = exchange(&mut connection, http::Request::get(admin.path()), &Value::Null).await?;
        let Some(servers) = answer.body.get("servers").and_then(Value::as_object) else {
            return Err(Diagnosis::NotMcp(format!(
                "{admin} does not report the servers' states; name an edge's admin port, 9090 by default"
            )));
        };
        let mut down = Vec::new();
        for (name, server) in servers {
            let text = |key| server.get(key).and_then(Value::as_str);
            let state = text("state").unwrap_or("unknown");
            let why = text("last_error").map(|why| format!(": {why}")).unwrap_or_default();
            print(format!("  {:<10} {name} {state}{why}", "server"));
            let complaints = server.get("complaints").and_then(Value::as_array);
            for complaint in complaints.into_iter().flatten().filter_map(Value::as_str) {
                print(format!("  {:<10} {name}: {complaint}", "warning"));
            }
            let is_unlisted = server.get("listed").and_then(Value::as_bool) == Some(false);
            if (state != "up" && state != "sleeping") || is_unlisted {
                down.push(name.clone());
            }
        }
        if down.is_empty() { Ok(()) } else { Err(Diagnosis::Down(down)) }
    }
}

/// Sends a request with `message` as its body (`Null`: without a body) and reads the whole answer.
async fn exchange(
    connection: &mut HttpConnection,
    head: http::request::Builder,
    message: &Value,
) -> Result<Answer, Diagnosis> {
    let body = if message.is_null() { Bytes::new() } else { Bytes::from(message.to_string()) };
    let request = head
        .header(ACCEPT, "application/json, text/event-stream")
        .header(CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|_| Diagnosis::UnusableToken)?;
    Ok(Answer::from(connection.exchange(request).await?))
}

fn client() -> Value {
    json!({"name": "mcp-edge check", "version": env!("CARGO_PKG_VERSION")})
}

/// The first few names, so that the reader recognises the servers.
fn some_of(found: &[String]) -> String {
    let shown: Vec<_> = found.iter().take(SHOWN).map(String::as_str).collect();
    let more = if found.len() > SHOWN { ", …" } else { "" };
    if shown.is_empty() { String::new() } else { format!(": {}{more}", shown.join(", ")) }
}

const LISTS: [(&str, &str); 3] =
    [("tools", "tools/list"), ("prompts", "prompts/list"), ("resources", "resources/list")];
/// The revision that is tried first.
const MODERN: &str = "2026-07-28";
/// The newest revision with sessions.
const LEGACY: &str = "2025-11-25";
/// Names shown of each list: they fit on one line of a terminal.
const SHOWN: usize = 8;
/// Pages of one list; more than that means that the cursors run in a loop.
const PAGES: usize = 1_000;
/// The largest answer that is read: four times what a server may send to the edge in one line.
const MAX_RESPONSE_BYTES: usize = 64 * 1024 * 1024;
