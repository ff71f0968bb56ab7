//! Tests of the upstream side against scripted servers, under paused time: each connection is a duplex whose other end the
//! test holds as a [`Peer`].

mod asks;
mod calls;
mod control;
mod deadly;
mod death;
mod eras;
mod events;
mod fairness;
mod input;
mod isolation;
mod leases;
mod links;
mod liveness;
mod logs;
mod metrics;
mod notifications;
mod session_settings;
mod subscriptions;
mod tasks;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::Message;
use wire::limits::Limits;
use wire::mcp::method::Method;
use wire::mcp::version::ProtocolVersion;

use super::control::Changes;
use super::facts::Facts;
use super::link::address::Endpoint;
use super::link::{Dial, Finding, Found, Link, Pending};
use super::metrics::Metrics;
use super::pool::{Environment, Pool, PoolDeps};
use super::settings::{Config, EraChoice, Isolation, ServerConfig, Source};
use super::status::ServerState;
use crate::call::{
    Affinity, Answer, Ask, Call, Caller, Client, Dispatch, Event, List, Next, Outcome, Reply, ServerName,
    SessionHandle,
};
use crate::error::Error;
use crate::ops::drain::Drain;
use crate::permit::{self, Permits, SlotConfig};
use crate::seal::{self, Sealer};

/// Longer than every timeout of the upstream side, so that only a hang runs into it.
const GUARD: Duration = Duration::from_secs(20_000);

/// A pool, and the servers that it connects to.
struct Room {
    pool: Arc<Pool>,
    peers: mpsc::UnboundedReceiver<Peer>,
    dial: Arc<Fake>,
    permits: Permits,
    metrics: Metrics,
    /// Held, so that the pool's tasks do not see the gateway stop.
    drain: Drain,
}

/// What a test may change before a [`Room`] is built.
struct Setting {
    server: ServerConfig,
    config: Config,
    permits: permit::Config,
}

impl Default for Setting {
    fn default() -> Self {
        let name = ServerName::parse("time").unwrap();
        let server =
            ServerConfig { era: EraChoice::Legacy, ..ServerConfig::new(name, Source::Endpoints(vec![])) };
        Self { server, config: Config::default(), permits: permit::Config::default() }
    }
}

impl Setting {
    fn era(mut self, era: EraChoice) -> Self {
        self.server.era = era;
        self
    }

    fn isolation(mut self, isolation: Isolation) -> Self {
        self.server.isolation = isolation;
        self
    }

    fn config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    fn build(self) -> Room {
        let (sender, peers) = mpsc::unbounded_channel();
        let dial = Arc::new(Fake { peers: sender, ..Fake::new() });
        let (metrics, permits) = (Metrics::default(), Permits::new(self.permits, permit::Metrics::default()));
        let drain = Drain::new();
        let environment = Environment {
            permits: permits.clone(),
            drain: drain.watch(),
            sealer: Sealer::new(&seal::Config::default()).unwrap(),
        };
        let deps = PoolDeps {
            environment,
            dial: dial.clone(),
            metrics: metrics.server(&self.server.name),
            tasks: TaskTracker::new(),
        };
        let pool = Pool::with(self.server, self.config, deps);
        Room { pool, peers, dial, permits, metrics, drain }
    }
}

impl Room {
    /// The server's end of the next connection.
    async fn accept(&mut self) -> Peer {
        timeout(GUARD, self.peers.recv()).await.expect("a connection").unwrap()
    }

    /// The server's end of the next connection, after a legacy handshake.
    async fn accept_legacy(&mut self) -> Peer {
        let mut peer = self.accept().await;
        peer.handshake_legacy().await;
        peer
    }

    /// The server's end of the next connection, after a legacy handshake, and the `initialize` request.
    async fn accept_legacy_initialize(&mut self) -> (Value, Peer) {
        let mut peer = self.accept().await;
        (peer.handshake_legacy().await, peer)
    }

    /// The server's end of the next connection, after a modern handshake.
    async fn accept_modern(&mut self) -> Peer {
        let mut peer = self.accept().await;
        peer.handshake_modern().await;
        peer
    }

    fn call(&self, request: Value) -> Call {
        self.call_of("ann", request)
    }

    fn call_of(&self, principal: &str, request: Value) -> Call {
        let request = Message::scan(request.to_string().into(), &Limits::default()).unwrap();
        let caller = Caller::new(principal);
        Call {
            permit: self.permits.call(caller.principal()).unwrap(),
            caller,
            client: Arc::new(Client::default()),
            affinity: Affinity::Principal,
            scope: None,
            method: Method::parse(request.method()),
            request,
            pin: None,
            rename: None,
        }
    }

    fn dispatch(&self, request: Value) -> Reply {
        self.pool.dispatch(self.call(request))
    }

    /// A call of a client without a session that declares `capabilities`.
    fn dispatch_as(&self, capabilities: &'static str, request: Value) -> Reply {
        let capabilities = Some(Bytes::from_static(capabilities.as_bytes()));
        let client = Arc::new(Client { capabilities, ..Client::default() });
        self.pool.dispatch(Call { client, ..self.call(request) })
    }

    fn echo(&self, text: &str) -> Reply {
        self.dispatch(echo(text))
    }

    fn echo_in(&self, session: &SessionHandle, text: &str) -> Reply {
        self.dispatch_in(session, echo(text))
    }

    /// A call of a session whose client can be asked everything.
    fn dispatch_in(&self, session: &SessionHandle, request: Value) -> Reply {
        let capabilities = r#"{"roots":{"listChanged":true},"sampling":{},"elicitation":{},"tasks":{}}"#;
        let client = Client {
            info: Some(Bytes::from_static(br#"{"name":"c","version":"7"}"#)),
            capabilities: Some(Bytes::from_static(capabilities.as_bytes())),
            offer: None,
        };
        let affinity = Affinity::Session(session.clone());
        self.pool.dispatch(Call { affinity, client: Arc::new(client), ..self.call(request) })
    }
}

fn echo(text: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": {"text": text}}})
}

fn session(number: u64) -> SessionHandle {
    session_and_stream(number).0
}

/// A session, and the stream of its events outside calls.
fn session_and_stream(number: u64) -> (SessionHandle, Reply) {
    let (unsolicited, heard) = crate::call::reply();
    let ended = CancellationToken::new();
    (
        SessionHandle {
            number,
            caller: Caller::new("me"),
            version: ProtocolVersion::V2025_11_25,
            ended,
            unsolicited: Arc::new(unsolicited),
            settings: Arc::default(),
            pending_list_changes: Arc::default(),
        },
        heard,
    )
}

/// The next event.
async fn event(reply: &mut Reply) -> Event {
    match timeout(GUARD, reply.next()).await.expect("an event") {
        Next::Event(event) => event,
        Next::Outcome(outcome) => panic!("an event, not {outcome:?}"),
    }
}

async fn next_ask(reply: &mut Reply) -> Ask {
    match event(reply).await {
        Event::Ask(ask) => ask,
        other => panic!("an ask, not {other:?}"),
    }
}

/// The method and the params of the next notification.
async fn next_notification(reply: &mut Reply) -> (String, Value) {
    match event(reply).await {
        Event::Notice(_, message) => {
            let json: Value = serde_json::from_slice(message.bytes()).unwrap();
            (message.method().to_owned(), json["params"].clone())
        }
        other => panic!("a notification, not {other:?}"),
    }
}

/// The outcome.
async fn end(reply: Reply) -> Outcome {
    timeout(GUARD, reply.outcome()).await.expect("an outcome")
}

async fn result(reply: Reply) -> Value {
    match end(reply).await {
        Outcome::Result(parts) => serde_json::from_slice(&parts.into_bytes()).unwrap(),
        other => panic!("a result, not {other:?}"),
    }
}

async fn failure(reply: Reply) -> Error {
    match end(reply).await {
        Outcome::Failed(error) => error,
        other => panic!("a failure, not {other:?}"),
    }
}

/// A server's end of one connection.
struct Peer {
    endpoint: Endpoint,
    lines: BufReader<ReadHalf<DuplexStream>>,
    sink: WriteHalf<DuplexStream>,
}

impl Peer {
    /// The next message; `None` at the end of the stream.
    async fn read(&mut self) -> Option<Value> {
        let mut line = String::new();
        let read = timeout(GUARD, self.lines.read_line(&mut line)).await.expect("a message").unwrap();
        (read > 0).then(|| serde_json::from_str(&line).unwrap())
    }

    /// The next message, which must have this method. The gateway's own listen is skipped, unless it is expected.
    async fn expect(&mut self, method: &str) -> Value {
        let mut message = self.read().await.unwrap_or_else(|| panic!("{method}, not the end"));
        if message["method"] == "subscriptions/listen" && message["method"] != method {
            message = self.read().await.unwrap_or_else(|| panic!("{method}, not the end"));
        }
        assert_eq!(message["method"], method, "{message}");
        message
    }

    async fn raw(&mut self, text: &str) {
        self.sink.write_all(text.as_bytes()).await.unwrap();
    }

    async fn send(&mut self, message: Value) {
        self.raw(&format!("{message}\n")).await;
    }

    /// Sends a request of the server.
    async fn ask(&mut self, id: Value, method: &str, params: Value) {
        self.send(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
    }

    async fn notify(&mut self, method: &str, params: Value) {
        self.send(json!({"jsonrpc": "2.0", "method": method, "params": params})).await;
    }

    async fn answer(&mut self, request: &Value, result: Value) {
        self.send(json!({"jsonrpc": "2.0", "id": request["id"], "result": result})).await;
    }

    async fn refuse(&mut self, request: &Value, code: i64) {
        self.send(json!({"jsonrpc": "2.0", "id": request["id"], "error": {"code": code, "message": "no"}}))
            .await;
    }

    /// Answers the next tools/call with its own text.
    async fn serve_echo(&mut self) -> Value {
        let request = self.expect("tools/call").await;
        self.answer(&request, json!({"content": [request["params"]["arguments"]["text"]]})).await;
        request
    }

    /// The next `count` calls by their text: calls that waited for the same connection go out in any order.
    async fn calls(&mut self, count: usize) -> HashMap<String, Value> {
        let mut calls = HashMap::new();
        for _ in 0..count {
            let call = self.expect("tools/call").await;
            calls.insert(call["params"]["arguments"]["text"].as_str().unwrap().to_owned(), call);
        }
        calls
    }

    async fn handshake_legacy(&mut self) -> Value {
        let request = self.greet().await;
        self.expect("notifications/initialized").await;
        request
    }

    /// Answers `initialize`, and leaves the notification that follows unread.
    async fn greet(&mut self) -> Value {
        self.greet_with(json!({"tools": {}, "resources": {"subscribe": true}, "logging": {}, "tasks": {}}))
            .await
    }

    /// Answers `initialize` as a server with these capabilities.
    async fn greet_with(&mut self, capabilities: Value) -> Value {
        let request = self.expect("initialize").await;
        let result = json!({
            "protocolVersion": "2025-06-18", "capabilities": capabilities,
            "serverInfo": {"name": "t", "version": "1"}, "instructions": "be kind"
        });
        self.answer(&request, result).await;
        request
    }

    async fn handshake_modern(&mut self) -> Value {
        self.handshake_modern_with(json!({"tools": {}, "logging": {}})).await
    }

    /// The handshake of a server with these capabilities.
    async fn handshake_modern_with(&mut self, capabilities: Value) -> Value {
        let request = self.expect("server/discover").await;
        let result = json!({
            "resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": capabilities,
            "ttlMs": 0, "cacheScope": "public",
            "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "m", "version": "2"}}
        });
        self.answer(&request, result).await;
        request
    }

    /// Waits until the gateway has ended the connection.
    async fn ended(&mut self) {
        while self.read().await.is_some() {}
    }
}

/// Opens duplexes and gives their other ends to the test.
struct Fake {
    peers: mpsc::UnboundedSender<Peer>,
    endpoints: Mutex<Vec<Endpoint>>,
    /// Endpoints of names that do not resolve at the moment.
    unsure: Mutex<Vec<Endpoint>>,
    /// Endpoints that do not answer attempts to connect.
    holes: Mutex<Vec<Endpoint>>,
    /// How each of the next attempts fails; later ones work.
    failures: Mutex<VecDeque<io::ErrorKind>>,
    /// Every attempt fails.
    down: Mutex<bool>,
    dialled: AtomicUsize,
    checked: AtomicUsize,
}

impl Fake {
    fn new() -> Self {
        Self {
            peers: mpsc::unbounded_channel().0,
            endpoints: Mutex::new(vec![Self::endpoint(1)]),
            unsure: Mutex::default(),
            holes: Mutex::default(),
            failures: Mutex::default(),
            down: Mutex::new(false),
            dialled: AtomicUsize::new(0),
            checked: AtomicUsize::new(0),
        }
    }

    fn set_down(&self, down: bool) {
        *self.down.lock() = down;
    }

    fn dialled(&self) -> usize {
        self.dialled.load(Ordering::SeqCst)
    }

    /// The address of a second bridge, or a third.
    fn endpoint(number: u8) -> Endpoint {
        Endpoint::Tcp(([10, 0, 0, number], 4444).into())
    }

    async fn outcome(&self, endpoint: &Endpoint) -> io::Result<()> {
        if self.holes.lock().contains(endpoint) {
            std::future::pending::<()>().await;
        }
        if *self.down.lock() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        self.failures.lock().pop_front().map_or(Ok(()), |kind| Err(kind.into()))
    }
}

impl Dial for Fake {
    fn endpoints(&self, _: tokio::time::Instant) -> Finding<'_> {
        Box::pin(async {
            let (endpoints, unsure) = (self.endpoints.lock().clone(), self.unsure.lock().clone());
            Found { endpoints, unsure, failure: None }
        })
    }

    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> Pending<'a, Link> {
        Box::pin(async {
            self.dialled.fetch_add(1, Ordering::SeqCst);
            self.outcome(endpoint).await?;
            let (near, far) = tokio::io::duplex(64 << 10);
            let (incoming, outgoing) = tokio::io::split(near);
            let (lines, sink) = tokio::io::split(far);
            let peer = Peer { endpoint: endpoint.clone(), lines: BufReader::new(lines), sink };
            self.peers.send(peer).map_err(|_| io::ErrorKind::ConnectionRefused)?;
            Ok(Link::new(incoming, outgoing))
        })
    }

    fn check<'a>(&'a self, endpoint: &'a Endpoint) -> Option<Pending<'a, ()>> {
        Some(Box::pin(async {
            self.checked.fetch_add(1, Ordering::SeqCst);
            self.outcome(endpoint).await
        }))
    }
}
