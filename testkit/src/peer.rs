//! A client with a session, over either HTTP transport, that records everything it receives in order, and answers each
//! request with its own word. For tests of what must not be received: the words show whose a message is, and request ids and
//! progress tokens are the same in all peers.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::eventually;
use crate::http::{Request, Response};

/// Leaves without a word when dropped.
pub struct Peer {
    shared: Arc<Shared>,
}

/// How a peer talks to the edge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Streamable HTTP, with a stream of the session's own.
    Streamable,
    /// HTTP+SSE of 2024-11-05.
    Sse,
}

/// A message, and the id of the event it came as.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The event's id, where the transport has them.
    pub event: Option<String>,
    /// The message.
    pub message: Value,
}

struct Shared {
    address: SocketAddr,
    token: String,
    word: String,
    /// The session's id, or what stands for it in the address of messages.
    session: String,
    transport: Transport,
    heard: Mutex<Vec<Heard>>,
    silent: AtomicBool,
    next_id: AtomicU64,
    streams: Mutex<JoinSet<()>>,
}

impl Peer {
    /// Opens a session, and the stream of what belongs to no call.
    ///
    /// # Panics
    /// When the handshake fails.
    pub async fn connect(address: SocketAddr, token: &str, word: &str, transport: Transport) -> Peer {
        let (session, stream) = match transport {
            Transport::Streamable => (initialize(address, token).await, None),
            Transport::Sse => {
                let (session, stream) = channel(address, token).await;
                (session, Some(stream))
            }
        };
        let peer = Peer {
            shared: Arc::new(Shared {
                address,
                token: token.to_owned(),
                word: word.to_owned(),
                session,
                transport,
                heard: Mutex::default(),
                silent: AtomicBool::new(false),
                next_id: AtomicU64::new(1),
                streams: Mutex::default(),
            }),
        };
        if let Some(stream) = stream {
            peer.shared.clone().follow(stream);
            let answer = peer.request("initialize", handshake()).await;
            assert!(answer["result"].is_object(), "initialize failed: {answer}");
        }
        assert_eq!(peer.notify("notifications/initialized", json!({})).await, 202);
        if transport == Transport::Streamable {
            peer.listen(None).await;
        }
        peer
    }

    /// Opens or resumes the session's own stream, and records its messages.
    ///
    /// # Panics
    /// The stream is refused.
    pub async fn listen(&self, last_event: Option<&str>) {
        let stream = self.get(last_event).await;
        assert!(stream.status == 200 && stream.is_stream(), "{}", stream.status);
        self.shared.clone().follow(stream);
    }

    /// Opens or resumes the session's own stream for the test, and records nothing.
    ///
    /// # Panics
    /// The connection fails.
    pub async fn get(&self, last_event: Option<&str>) -> Response {
        let mut request = self.dress(Request::new("GET", "/mcp").header("Accept", "text/event-stream"));
        if let Some(id) = last_event {
            request = request.header("Last-Event-ID", id);
        }
        request.send(self.shared.address).await.expect("a response")
    }

    /// Its session's id, or what stands for it in the address of its messages.
    pub fn session(&self) -> &str {
        &self.shared.session
    }

    /// The word that its answers hold.
    pub fn word(&self) -> &str {
        &self.shared.word
    }

    /// Everything so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.shared.heard.lock().unwrap().clone()
    }

    /// The messages of this method so far.
    pub fn heard_of(&self, method: &str) -> Vec<Value> {
        let heard = self.heard().into_iter().map(|heard| heard.message);
        heard.filter(|message| message["method"] == method).collect()
    }

    /// From now on what it is asked is left to the test to answer, or no longer.
    pub fn keep_silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::Relaxed);
    }

    /// Sends a request and waits for its answer, the whole message.
    pub async fn request(&self, method: &str, params: Value) -> Value {
        let id = self.start(method, params).await;
        self.answer(id).await
    }

    /// Calls a tool and waits for the texts of its result.
    ///
    /// # Panics
    /// When it fails.
    pub async fn tool(&self, name: &str, arguments: Value) -> String {
        let params =
            json!({"name": name, "arguments": arguments, "_meta": {"progressToken": PROGRESS_TOKEN}});
        let answer = self.request("tools/call", params).await;
        let content = answer["result"]["content"].as_array().unwrap_or_else(|| panic!("{name}: {answer}"));
        content.iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n")
    }

    /// Sends a request; its id comes back.
    pub async fn start(&self, method: &str, params: Value) -> u64 {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        self.shared.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        id
    }

    /// Waits for the answer to the request of that id.
    pub async fn answer(&self, id: u64) -> Value {
        eventually("an answer", async || {
            let heard = self.heard().into_iter().map(|heard| heard.message);
            heard.filter(|message| message["method"].is_null()).find(|message| message["id"] == id)
        })
        .await
    }

    /// Sends a notification; the HTTP status comes back.
    pub async fn notify(&self, method: &str, params: Value) -> u16 {
        self.shared.send(&json!({"jsonrpc": "2.0", "method": method, "params": params})).await
    }

    /// Sends any message; the HTTP status comes back.
    pub async fn send(&self, message: &Value) -> u16 {
        self.shared.send(message).await
    }

    /// The POST that carries a message, for a test to change.
    pub fn post(&self, message: &Value) -> Request {
        self.shared.post(message)
    }

    /// Adds what is in each of its requests to one that has a path of its own.
    pub fn dress(&self, request: Request) -> Request {
        self.shared.dress(request)
    }
}

impl Shared {
    fn post(&self, message: &Value) -> Request {
        let path = match self.transport {
            Transport::Streamable => "/mcp".to_owned(),
            Transport::Sse => format!("/messages?sessionId={}", self.session),
        };
        let request = Request::new("POST", &path)
            .header("Content-Type", "application/json")
            .header("Accept", "application/json, text/event-stream");
        self.dress(request.body(message.to_string()))
    }

    fn dress(&self, request: Request) -> Request {
        let request = request.header("Authorization", &format!("Bearer {}", self.token));
        match self.transport {
            Transport::Streamable => {
                request.header("MCP-Protocol-Version", VERSION).header("Mcp-Session-Id", &self.session)
            }
            Transport::Sse => request,
        }
    }

    async fn send(self: &Arc<Self>, message: &Value) -> u16 {
        let mut response = self.post(message).send(self.address).await.expect("a response");
        let status = response.status;
        if response.is_stream() {
            self.clone().follow(response);
        } else if let answer @ Value::Object(_) = response.json().await {
            self.hear(None, answer);
        }
        status
    }

    /// Records the messages of a stream, to its end.
    fn follow(self: Arc<Self>, mut stream: Response) {
        let shared = Arc::downgrade(&self);
        let follow = async move {
            while let Some(event) = stream.event().await {
                let Some(shared) = shared.upgrade() else { return };
                if event.data.is_empty() {
                    continue; // where to come back to, and nothing more
                }
                let message: Value = serde_json::from_str(&event.data).expect("an event's data is JSON");
                shared.hear(event.id, message.clone());
                if message["method"].is_string() && !message["id"].is_null() {
                    shared.asked(&message);
                }
            }
        };
        self.streams.lock().unwrap().spawn(follow);
    }

    fn hear(&self, event: Option<String>, message: Value) {
        self.heard.lock().unwrap().push(Heard { event, message });
    }

    fn asked(self: &Arc<Self>, ask: &Value) {
        if self.silent.load(Ordering::Relaxed) {
            return;
        }
        let answer = json!({"jsonrpc": "2.0", "id": ask["id"], "result": self.word_for(&ask["method"])});
        let shared = Arc::downgrade(self);
        let send = async move {
            if let Some(shared) = shared.upgrade() {
                shared.send(&answer).await;
            }
        };
        self.streams.lock().unwrap().spawn(send);
    }

    fn word_for(&self, method: &Value) -> Value {
        match method.as_str().unwrap_or_default() {
            "sampling/createMessage" => {
                let content = json!({"type": "text", "text": format!("{} says", self.word)});
                json!({"model": "a-model", "role": "assistant", "content": content})
            }
            "elicitation/create" => {
                json!({"action": "accept", "content": {"name": self.word, "interpretation": self.word}})
            }
            "roots/list" => json!({"roots": [{"uri": format!("file:///{}", self.word)}]}),
            _ => json!({}),
        }
    }
}

async fn initialize(address: SocketAddr, token: &str) -> String {
    let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": handshake()});
    let request = Request::new("POST", "/mcp")
        .header("Content-Type", "application/json")
        .header("Accept", "application/json, text/event-stream")
        .header("Authorization", &format!("Bearer {token}"))
        .body(message.to_string());
    let response = request.send(address).await.expect("a response");
    response.header("mcp-session-id").expect("a session").to_owned()
}

/// The stream of a client of 2024-11-05, and what stands for it in the address of its messages.
async fn channel(address: SocketAddr, token: &str) -> (String, Response) {
    let request = Request::new("GET", "/sse")
        .header("Accept", "text/event-stream")
        .header("Authorization", &format!("Bearer {token}"));
    let mut stream = request.send(address).await.expect("a response");
    let endpoint = stream.event().await.expect("an event that says where messages go");
    assert_eq!(endpoint.name, "endpoint");
    let session = endpoint.data.strip_prefix("messages?sessionId=").expect("a reference of this form");
    (session.to_owned(), stream)
}

fn handshake() -> Value {
    let capabilities = json!({"sampling": {}, "elicitation": {"form": {}}, "roots": {"listChanged": true}});
    let info = json!({"name": "testkit", "version": "1"});
    json!({"protocolVersion": VERSION, "capabilities": capabilities, "clientInfo": info})
}

const VERSION: &str = "2025-11-25";
/// The progress token of every call of every peer: SDK clients each count theirs from 0 or 1, so they collide.
const PROGRESS_TOKEN: u64 = 1;
