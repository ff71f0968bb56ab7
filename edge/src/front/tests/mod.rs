//! The room against a scripted gateway: no socket, and time that only moves when everybody waits.

mod asks;
mod batch;
mod bounds;
mod calls;
mod door;
mod greeting;
mod http_sse;
mod listen;
mod oauth;
mod open_asks;
mod parked;
mod pipe;
mod plain;
mod relay;
mod resume;
mod rounds;
mod sessions;
mod stateless;
mod stdio;
mod tasks;
mod watching;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::sync::watch;
use wire::Message;
use wire::mcp::method::Notice;
use wire::mcp::mirror::Mirrored;
use wire::splice::Parts as Slices;

use super::{Body, Config, Front, Metrics, Rooms};
use crate::auth::{self, Authenticator, Secret, Token};
use crate::call::{
    Call, Caller, Dispatch, Event, Outcome, Reply, Responder, ServerName, SessionHandle, Subscriber,
    Subscription, reply,
};
use crate::ops::drain::{Drain, DrainWatch};
use crate::permit::{self, Permits, RETRY_AFTER};
use crate::router::{Accepted, Gateway, ListChanges, Settling};
use crate::seal::{self, Sealer};
use crate::session;

/// A gateway that answers as the test says.
#[derive(Default)]
struct Script {
    /// Outcomes for calls to come; when there is none, the call stays open in `open`.
    ready: Mutex<VecDeque<Outcome>>,
    open: Mutex<Vec<(Call, Responder)>>,
    /// What was dispatched: method, request text, scope.
    seen: Mutex<Vec<String>>,
    /// The sessions whose roots changed.
    roots: Mutex<Vec<u64>>,
    mirrored: Mutex<Option<Arc<[Mirrored]>>>,
    settled: watch::Sender<bool>,
    /// The instructions of all servers together.
    instructions: Mutex<Option<String>>,
    changes: watch::Sender<ListChanges>,
    subscribers: Mutex<Vec<Subscriber>>,
    /// Counts the subscriptions that are held.
    held: Arc<()>,
}

impl Dispatch for Script {
    fn dispatch(&self, call: Call) -> Reply {
        let text = String::from_utf8(call.request.bytes().to_vec()).unwrap();
        self.seen.lock().push(text);
        if let Some(outcome) = self.ready.lock().pop_front() {
            return Reply::ready(outcome);
        }
        let (responder, reply) = reply();
        self.open.lock().push((call, responder));
        reply
    }
}

impl Gateway for Script {
    fn server(&self, _: &Caller, slug: &str) -> Option<ServerName> {
        ServerName::parse(slug).filter(|name| name.as_str() == "time")
    }

    fn settled(&self) -> watch::Receiver<bool> {
        self.settled.subscribe()
    }

    fn settling(&self) -> Settling {
        let mut settled = self.settled.subscribe();
        Box::pin(async move {
            let names =
                tokio::time::timeout(Duration::from_secs(15), settled.wait_for(|settled| *settled)).await;
            names.map(|_| ()).map_err(|_| {
                crate::error::Error::busy(crate::error::Blame::Edge, RETRY_AFTER, "no names yet")
            })
        })
    }

    fn instructions(&self, _: &Caller, scope: Option<&ServerName>) -> Option<String> {
        if !*self.settled.borrow() {
            return None;
        }
        scope.map_or_else(|| self.instructions.lock().clone(), |server| Some(format!("use {server} well")))
    }

    fn mirrored(&self, _: &Caller, _: Option<&ServerName>, _: &str) -> Option<Arc<[Mirrored]>> {
        self.mirrored.lock().clone()
    }

    fn roots_changed(&self, session: &SessionHandle) {
        self.roots.lock().push(session.number);
    }

    fn changes(&self, _: &Caller, _: Option<&ServerName>) -> watch::Receiver<ListChanges> {
        self.changes.subscribe()
    }

    fn subscribe(&self, subscriber: Subscriber, _: Option<ServerName>, uris: Vec<String>) -> Accepted {
        let held = uris.iter().filter(|uri| !uri.starts_with("unknown:")).cloned();
        let held = held.map(|uri| Subscription::new(uri, self.held.clone())).collect();
        // Who hears of nothing is not kept, as a real server keeps nobody without a subscription.
        if !uris.is_empty() {
            self.subscribers.lock().push(subscriber);
        }
        Box::pin(std::future::ready(held))
    }
}

/// A front and its scripted surroundings.
struct Stage {
    front: Arc<Front>,
    script: Arc<Script>,
    permits: Permits,
    metrics: Metrics,
    sessions: session::Metrics,
    drain: Drain,
}

/// What differs from the defaults.
#[derive(Default)]
struct Setting {
    front: Config,
    sessions: session::Config,
    permits: permit::Config,
    tokens: Vec<(&'static str, &'static str)>,
    oauth: Option<auth::oauth::Config>,
}

impl Stage {
    fn new() -> Self {
        Self::with(Setting::default())
    }

    fn with(setting: Setting) -> Self {
        let drain = Drain::new();
        let script = Arc::new(Script { settled: watch::Sender::new(true), ..Script::default() });
        let permits = Permits::new(setting.permits, permit::Metrics::default());
        let metrics = Metrics::default();
        let sessions = session::Metrics::default();
        let tokens = setting.tokens.into_iter().map(|(secret, principal)| Token {
            secret: Secret::parse(secret).unwrap(),
            principal: principal.to_owned(),
        });
        let auth =
            auth::Config { tokens: tokens.collect(), oauth: setting.oauth, allow_unauthenticated: true };
        let watch: DrainWatch = drain.watch();
        let rooms = Rooms {
            gateway: script.clone(),
            auth: Authenticator::new(auth),
            sessions: session::Table::new(
                setting.sessions,
                sessions.clone(),
                permits.metrics().clone(),
                &watch,
                Sealer::new(&seal::Config::default()).unwrap(),
            )
            .unwrap(),
            permits: permits.clone(),
            peers: None,
            metrics: metrics.clone(),
            drain: watch,
        };
        let sealer = Sealer::new(&seal::Config::default()).unwrap();
        let front = Front::new(setting.front, rooms, sealer).unwrap();
        Self { front, script, permits, metrics, sessions, drain }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Response<Body> {
        self.front.clone().handle(request).await
    }

    /// Opens a session; its id.
    async fn session(&self, version: &str) -> String {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{version}",
            "capabilities":{{}},"clientInfo":{{"name":"t","version":"1"}}}}}}"#
        );
        let response = self.send(post(&body, &[])).await;
        assert_eq!(response.status(), 200);
        response.headers()["mcp-session-id"].to_str().unwrap().to_owned()
    }

    /// How often a bound was hit, as the metrics say.
    fn hits(&self, bound: &str) -> usize {
        self.count(&format!("refused_total{{bound=\"{bound}\"}}"))
    }

    /// The value of one line of the metrics.
    fn count(&self, series: &str) -> usize {
        let mut registry = Registry::default();
        self.permits.metrics().register(&mut registry);
        self.metrics.register(&mut registry);
        self.sessions.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = format!("{series} ");
        text.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }

    fn answer_next(&self, result: &'static str) {
        let result = Slices::from(Bytes::from_static(result.as_bytes()));
        self.script.ready.lock().push_back(Outcome::Result(result));
    }

    /// The oldest call that is still open.
    fn take_open(&self) -> (Call, Responder) {
        self.script.open.lock().remove(0)
    }

    fn open_calls(&self) -> usize {
        self.script.open.lock().len()
    }
}

/// Lets the others run until this holds. Counted and not timed: the clock of most tests stands still while they run.
async fn until(holds: impl Fn() -> bool) {
    for _ in 0..TURNS {
        if holds() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("waited in vain");
}

/// A second or so.
const TURNS: usize = 1_000_000;
/// More than any call may take; a paused clock passes it only when everybody waits.
const GUARD: Duration = Duration::from_secs(7200);

fn request(method: &str, path: &str, body: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "edge.test");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::from(body.to_owned())).unwrap()
}

fn post(body: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    request("POST", "/mcp", body, headers)
}

/// A body in one piece; `held` has one owner more as long as any of it is kept.
fn watched(body: String, held: &Arc<()>) -> Bytes {
    struct Owner {
        body: String,
        _held: Arc<()>,
    }
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            self.body.as_bytes()
        }
    }
    // On one line already, or the edge would make a copy that is.
    Bytes::from_owner(Owner { body: body.replace('\n', ""), _held: held.clone() })
}

/// A modern request with everything it needs; `extra` goes into its params.
fn modern(method: &str, extra: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{{{extra}"_meta":{{"progressToken":"tok",
        "io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#
    )
}

fn modern_headers<'a>(method: &'a str, name: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![("mcp-protocol-version", "2026-07-28"), ("mcp-method", method), ("mcp-name", name)]
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn json(response: Response<Body>) -> Value {
    let text = text(response).await;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The next event of a stream, keep-alives included.
async fn event(body: &mut Body) -> Option<String> {
    let frame = body.frame().await?.unwrap();
    let bytes = frame.into_data().unwrap().into_bytes();
    Some(String::from_utf8(bytes.to_vec()).unwrap())
}

/// What makes a stream of the newest legacy revision one that can be resumed; its id.
async fn primed(body: &mut Body) -> String {
    let first = event(body).await.unwrap();
    let id = first.strip_prefix("id: ").and_then(|rest| rest.strip_suffix("\nretry: 1000\ndata:\n\n"));
    id.unwrap_or_else(|| panic!("no priming event: {first}")).to_owned()
}

/// Progress as a server sends it, with the token of its own connection.
fn progress(n: u64) -> Event {
    let text = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":90,"progress":{n}}}}}"#
    );
    Event::Progress(Message::scan(text.into(), &wire::limits::Limits::default()).unwrap())
}
