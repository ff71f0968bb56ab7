//! The scripted server: plays a [`Script`] to one client per connection, over any byte stream.

mod answers;
mod listener;
mod steps;

pub use listener::Listener;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Notify, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use crate::record::Record;
use crate::script::{Offered, Script, Step};

/// A server with all the connections it ever has: the script, the record, and what grew meanwhile.
pub struct Server {
    script: Script,
    record: Record,
    starts: AtomicUsize,
    grown: AtomicUsize,
}

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The client closed its side.
    EndOfInput,
    /// The script said `die`.
    Died,
}

impl Server {
    /// A server that follows `script` and writes down what it sees.
    pub fn new(script: Script, record: Record) -> Arc<Server> {
        // Processes count their starts in the shared file, so the file gives each process its number.
        let starts = AtomicUsize::new(record.starts());
        Arc::new(Server { script, record, starts, grown: AtomicUsize::new(0) })
    }

    /// What it saw.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Adds one tool from the next list on, without a notification.
    pub fn grow(&self) {
        self.grown.fetch_add(1, Ordering::Relaxed);
    }

    /// Plays the script to one client until one of the two ends it.
    pub async fn serve<R, W>(self: &Arc<Self>, reader: R, writer: W, process: u64) -> Ending
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let start = self.starts.fetch_add(1, Ordering::Relaxed) + 1;
        self.record.event(process, "start");
        let peer = Arc::new(Peer::new(self.clone(), Box::new(writer), process));
        for banner in &self.script.banners {
            peer.write(format!("{banner}\n").as_bytes()).await;
        }
        tokio::time::sleep(self.script.start_delay).await;
        let ending = Connection::new(peer, start).run(BufReader::new(reader)).await;
        self.record.event(process, "end");
        ending
    }
}

/// The side of a connection that its calls share.
struct Peer {
    server: Arc<Server>,
    process: u64,
    writer: tokio::sync::Mutex<Box<dyn AsyncWrite + Send + Unpin>>,
    modern: AtomicBool,
    stalled: AtomicBool,
    died: Notify,
    asked: AtomicUsize,
    asks: Mutex<HashMap<u64, oneshot::Sender<Value>>>,
}

impl Peer {
    fn new(server: Arc<Server>, writer: Box<dyn AsyncWrite + Send + Unpin>, process: u64) -> Peer {
        Peer {
            server,
            process,
            writer: tokio::sync::Mutex::new(writer),
            modern: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            died: Notify::new(),
            asked: AtomicUsize::new(0),
            asks: Mutex::default(),
        }
    }

    /// Writes bytes as they are. A client that is gone is seen by the reader.
    async fn write(&self, bytes: &[u8]) {
        let mut writer = self.writer.lock().await;
        let _ = writer.write_all(bytes).await;
        let _ = writer.flush().await;
    }

    async fn send(&self, message: &Value) {
        self.write(format!("{message}\n").as_bytes()).await;
    }

    /// Asks the client something and waits for its answer: the `result`, or the `error`.
    async fn ask(&self, method: &str) -> Value {
        let id = self.asked.fetch_add(1, Ordering::Relaxed) as u64;
        let (answer, answered) = oneshot::channel();
        self.asks.lock().unwrap().insert(id, answer);
        let params = answers::ask_params(method);
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        answered.await.unwrap_or(Value::Null)
    }

    fn take_answer(&self, message: &mut Value) {
        let waiting = message["id"].as_u64().and_then(|id| self.asks.lock().unwrap().remove(&id));
        if let Some(waiting) = waiting {
            let member = if message["error"].is_null() { "result" } else { "error" };
            let _ = waiting.send(message[member].take());
        }
    }
}

/// One client's connection: reads, decides, starts what answers.
struct Connection {
    peer: Arc<Peer>,
    start: usize,
    era: Option<Offered>,
    rules_done: Vec<usize>,
    tasks: JoinSet<()>,
    in_flight: HashMap<String, AbortHandle>,
}

impl Connection {
    fn new(peer: Arc<Peer>, start: usize) -> Connection {
        let rules_done = vec![0; peer.server.script.rules.len()];
        Connection { peer, start, era: None, rules_done, tasks: JoinSet::new(), in_flight: HashMap::new() }
    }

    async fn run(mut self, mut reader: BufReader<impl AsyncRead + Unpin>) -> Ending {
        let peer = self.peer.clone();
        let mut line = Vec::new();
        loop {
            if peer.stalled.load(Ordering::Relaxed) {
                let _ = tokio::time::timeout(LONGEST_STALL, peer.died.notified()).await;
                return Ending::Died;
            }
            line.clear();
            tokio::select! {
                biased; // what came after the death is not read
                () = peer.died.notified() => return Ending::Died,
                read = reader.read_until(b'\n', &mut line) => match read {
                    Ok(bytes) if bytes > 0 => self.take(&line).await,
                    _ => return Ending::EndOfInput,
                },
            }
        }
    }

    async fn take(&mut self, line: &[u8]) {
        let Ok(mut message) = serde_json::from_slice::<Value>(line) else {
            self.peer.server.record.event(self.peer.process, "not JSON");
            return;
        };
        self.peer.server.record.message(self.peer.process, &message);
        match (message["method"].as_str(), message["id"].is_null()) {
            (None, _) => self.peer.take_answer(&mut message),
            (Some(_), true) => self.notified(message).await,
            (Some(_), false) => self.asked(message).await,
        }
    }

    async fn notified(&mut self, message: Value) {
        match message["method"].as_str() {
            Some("notifications/initialized") => self.begin_at_start(),
            Some("notifications/cancelled") if !self.peer.server.script.ignores_cancel => {
                if let Some(task) = self.in_flight.remove(&message["params"]["requestId"].to_string()) {
                    task.abort();
                }
            }
            _ => {}
        }
        if let Some(steps) = self.peer.server.script.steps_for(&message, self.start, &mut self.rules_done) {
            self.begin(message, steps).await;
        }
    }

    async fn asked(&mut self, message: Value) {
        let rule = self.peer.server.script.steps_for(&message, self.start, &mut self.rules_done);
        let mut steps = rule.unwrap_or_default();
        if !steps.iter().any(Step::settles) {
            steps.push(match self.enter(&message) {
                Ok(()) => Step::Answer,
                Err(code) => Step::Error(code),
            });
        }
        self.begin(message, steps).await;
    }

    /// Steps that need no wait are done here, so that answers keep the order of their requests.
    async fn begin(&mut self, message: Value, steps: Vec<Step>) {
        let id = message["id"].to_string();
        let peer = self.peer.clone();
        let waits = steps.iter().any(Step::waits);
        if waits {
            let task = self.tasks.spawn(async move { peer.play(&message, &steps).await });
            self.in_flight.insert(id, task);
        } else {
            peer.play(&message, &steps).await;
        }
    }

    fn begin_at_start(&mut self) {
        let (peer, steps) = (self.peer.clone(), self.peer.server.script.at_start.clone());
        self.tasks.spawn(async move { peer.play(&Value::Null, &steps).await });
    }

    /// The era rules of an SDK server: the first message pins, the other era is refused from then on.
    fn enter(&mut self, message: &Value) -> Result<(), i64> {
        let offered = self.peer.server.script.era;
        let method = message["method"].as_str().unwrap_or_default();
        match (method, self.era) {
            ("initialize", Some(Offered::Modern)) => Err(UNSUPPORTED_VERSION),
            ("initialize", _) if offered == Offered::Modern => Err(UNSUPPORTED_VERSION),
            ("initialize", _) => {
                self.era = Some(Offered::Legacy);
                Ok(())
            }
            ("server/discover", _) if offered == Offered::Legacy => Err(METHOD_NOT_FOUND),
            (_, Some(Offered::Legacy)) => Ok(()),
            ("ping", None) if offered != Offered::Modern => Ok(()),
            _ if offered == Offered::Legacy => Err(INVALID_REQUEST),
            _ => {
                let meta = &message["params"]["_meta"];
                let version = &meta["io.modelcontextprotocol/protocolVersion"];
                if !version.is_string() || !meta["io.modelcontextprotocol/clientCapabilities"].is_object() {
                    return Err(INVALID_PARAMS);
                }
                if version != "2026-07-28" {
                    return Err(UNSUPPORTED_VERSION);
                }
                self.peer.modern.store(true, Ordering::Relaxed);
                if self.era.replace(Offered::Modern).is_none() {
                    self.begin_at_start();
                }
                Ok(())
            }
        }
    }
}

/// A process that reads nothing does not see its client leave; it must not outlive its test by much.
const LONGEST_STALL: Duration = Duration::from_secs(120);
const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;
const UNSUPPORTED_VERSION: i64 = -32022;
