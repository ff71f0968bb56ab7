//! MCP clients of both eras over Streamable HTTP. They follow the specification; to break its rules, a test changes the
//! headers of a [`Client::request`].

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::http::{Request, Response};

/// A client of one endpoint.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    path: String,
    headers: Vec<(String, String)>,
    capabilities: Value,
    version: String,
    era: Era,
    next_id: AtomicU64,
}

#[derive(Debug)]
enum Era {
    Legacy { session: Option<String> },
    Modern,
}

/// How a request ended.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Notifications and requests that came before the answer, on its stream.
    pub events: Vec<Value>,
    /// The JSON-RPC message; `Null` when the stream ended without one or the body was empty.
    pub message: Value,
}

/// A request whose answer is on its way; dropping it closes the connection.
pub struct Call {
    /// The request's id.
    pub id: u64,
    /// The head of the answer, and its stream.
    pub response: Response,
}

impl Client {
    /// A client of 2026-07-28; it needs no connect.
    pub fn modern(address: SocketAddr) -> Client {
        Client::new(address, MODERN_VERSION, Era::Modern)
    }

    /// A client that will ask for this revision in [`Client::connect`].
    pub fn legacy(address: SocketAddr, version: &str) -> Client {
        Client::new(address, version, Era::Legacy { session: None })
    }

    fn new(address: SocketAddr, version: &str, era: Era) -> Client {
        Client {
            address,
            path: "/mcp".to_owned(),
            headers: Vec::new(),
            capabilities: json!({}),
            version: version.to_owned(),
            era,
            next_id: AtomicU64::new(1),
        }
    }

    /// Another path than `/mcp`.
    #[must_use]
    pub fn at(mut self, path: &str) -> Client {
        path.clone_into(&mut self.path);
        self
    }

    /// A header on every request.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Client {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A bearer token on every request.
    #[must_use]
    pub fn token(self, token: &str) -> Client {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// The capabilities that the client declares.
    #[must_use]
    pub fn capabilities(mut self, capabilities: Value) -> Client {
        self.capabilities = capabilities;
        self
    }

    /// Opens the session of a legacy client. A modern one has nothing to open.
    ///
    /// # Panics
    /// When the handshake fails; [`Client::initialize`] shows how.
    pub async fn connect(mut self) -> Client {
        if matches!(self.era, Era::Legacy { .. }) {
            let answer = self.initialize().await;
            assert!(answer.message["result"].is_object(), "initialize failed: {answer:?}");
            let status = self.notify("notifications/initialized", json!({})).await;
            assert_eq!(status, 202, "notifications/initialized was not accepted");
        }
        self
    }

    /// Sends `initialize` and keeps the version and the session that come back.
    pub async fn initialize(&mut self) -> Answer {
        let info = json!({"name": "testkit", "version": "1"});
        let params =
            json!({"protocolVersion": self.version, "capabilities": self.capabilities, "clientInfo": info});
        let call = self.open("initialize", params).await;
        let given = call.response.header("mcp-session-id").map(str::to_owned);
        let answer = call.answer().await;
        if let Some(version) = answer.message["result"]["protocolVersion"].as_str() {
            version.clone_into(&mut self.version);
            self.era = Era::Legacy { session: given };
        }
        answer
    }

    /// The session's id, for a legacy client that has one.
    pub fn session(&self) -> Option<&str> {
        match &self.era {
            Era::Legacy { session } => session.as_deref(),
            Era::Modern => None,
        }
    }

    /// The protocol version that was agreed on.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Sends a request and waits for its answer.
    pub async fn call(&self, method: &str, params: Value) -> Answer {
        self.open(method, params).await.answer().await
    }

    /// Calls a tool.
    pub async fn call_tool(&self, name: &str, arguments: Value) -> Answer {
        self.call("tools/call", json!({"name": name, "arguments": arguments})).await
    }

    /// All items of a list, its pages followed.
    ///
    /// # Panics
    /// When the list answers with an error.
    pub async fn list(&self, method: &str, member: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut params = json!({});
        loop {
            let answer = self.call(method, params).await;
            let result = &answer.message["result"];
            items.extend(
                result[member].as_array().unwrap_or_else(|| panic!("{method}: {answer:?}")).iter().cloned(),
            );
            match &result["nextCursor"] {
                Value::Null => return items,
                cursor => params = json!({"cursor": cursor}),
            }
        }
    }

    /// The names of all tools, in their order.
    ///
    /// # Panics
    /// When the list answers with an error.
    pub async fn tool_names(&self) -> Vec<String> {
        let tools = self.list("tools/list", "tools").await;
        tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Sends a request and reads the head of its answer.
    ///
    /// # Panics
    /// When the connection fails before that.
    pub async fn open(&self, method: &str, params: Value) -> Call {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": self.params(params)});
        let response = self.send(&self.request(&message)).await;
        Call { id, response }
    }

    /// Sends a notification and returns the HTTP status.
    pub async fn notify(&self, method: &str, params: Value) -> u16 {
        self.send(&self.request(&json!({"jsonrpc": "2.0", "method": method, "params": params}))).await.status
    }

    /// Cancels a call as legacy clients do. (A modern client drops its [`Call`].)
    pub async fn cancel(&self, id: u64) -> u16 {
        self.notify("notifications/cancelled", json!({"requestId": id})).await
    }

    /// Answers what the server asked; the HTTP status comes back.
    pub async fn reply(&self, id: &Value, result: Value) -> u16 {
        self.send(&self.request(&json!({"jsonrpc": "2.0", "id": id, "result": result}))).await.status
    }

    /// Opens the standalone stream of a legacy session.
    pub async fn listen(&self) -> Response {
        let request = Request::new("GET", &self.path).header("Accept", "text/event-stream");
        self.send(&self.dress(request)).await
    }

    /// Ends a legacy session; the HTTP status comes back.
    pub async fn end(&self) -> u16 {
        self.send(&self.dress(Request::new("DELETE", &self.path))).await.status
    }

    /// The POST this client sends for a message, with every header that belongs to it.
    pub fn request(&self, message: &Value) -> Request {
        let mut request = Request::new("POST", &self.path)
            .header("Content-Type", "application/json")
            .header("Accept", "application/json, text/event-stream")
            .body(message.to_string());
        if let (Era::Modern, Some(method)) = (&self.era, message["method"].as_str()) {
            // MCP 2026-07-28 streamable-http, Standard Request Headers
            request = request.header("Mcp-Method", method);
            let name = match method {
                "tools/call" | "prompts/get" => message["params"]["name"].as_str(),
                "resources/read" => message["params"]["uri"].as_str(),
                "tasks/get" | "tasks/update" | "tasks/cancel" => message["params"]["taskId"].as_str(),
                _ => None,
            };
            if let Some(name) = name {
                request = request.header("Mcp-Name", name);
            }
        }
        self.dress(request)
    }

    /// Sends a request as it stands to this client's address.
    ///
    /// # Panics
    /// When the connection fails before the head of the answer.
    pub async fn send(&self, request: &Request) -> Response {
        request.send(self.address).await.unwrap_or_else(|error| panic!("no answer to {request:?}: {error}"))
    }

    /// `params` as this client sends them: a modern client adds its name and capabilities to every request.
    pub fn params(&self, mut params: Value) -> Value {
        if matches!(self.era, Era::Modern) {
            let meta = &mut params["_meta"];
            meta["io.modelcontextprotocol/protocolVersion"] = json!(self.version);
            meta["io.modelcontextprotocol/clientInfo"] = json!({"name": "testkit", "version": "1"});
            meta["io.modelcontextprotocol/clientCapabilities"] = self.capabilities.clone();
        }
        params
    }

    fn dress(&self, mut request: Request) -> Request {
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        match &self.era {
            Era::Modern => request.header("MCP-Protocol-Version", &self.version),
            Era::Legacy { session: Some(session) } => {
                request.header("MCP-Protocol-Version", &self.version).header("Mcp-Session-Id", session)
            }
            // Nothing is agreed on before `initialize` was answered.
            Era::Legacy { session: None } => request,
        }
    }
}

impl Call {
    /// The next message before the answer, or the answer itself; `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        self.response.message().await
    }

    /// Waits for the answer.
    pub async fn answer(mut self) -> Answer {
        let status = self.response.status;
        if !self.response.is_stream() {
            return Answer { status, events: Vec::new(), message: self.response.json().await };
        }
        let mut events = Vec::new();
        while let Some(message) = self.response.message().await {
            if message["method"].is_null() && message["id"] == self.id {
                return Answer { status, events, message };
            }
            events.push(message);
        }
        Answer { status, events, message: Value::Null }
    }
}

impl Answer {
    /// The result.
    ///
    /// # Panics
    /// When there is none.
    pub fn result(&self) -> &Value {
        assert!(self.message["result"].is_object(), "not a result: {self:?}");
        &self.message["result"]
    }

    /// The first text of a tool's result.
    ///
    /// # Panics
    /// When there is none.
    pub fn text(&self) -> &str {
        self.result()["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text: {self:?}"))
    }

    /// The error's code.
    ///
    /// # Panics
    /// When there is none.
    pub fn code(&self) -> i64 {
        self.message["error"]["code"].as_i64().unwrap_or_else(|| panic!("not an error: {self:?}"))
    }

    /// `data.reason` of an error of the edge.
    pub fn reason(&self) -> Option<&str> {
        self.message["error"]["data"]["reason"].as_str()
    }
}

const MODERN_VERSION: &str = "2026-07-28";
