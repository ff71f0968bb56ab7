//! The scripted server, on TCP and as a process, does what its flags say; the HTTP client reads what is sent
//! to it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a panic here is a failed test"
)]

use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::{Value, json};
use testkit::client::Client;
use testkit::http::Request;
use testkit::process::{Scratch, binary};
use testkit::record::Record;
use testkit::script::Script;
use testkit::scripted::Listener;
use testkit::{GUARD, eventually};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

struct Lines {
    stream: BufReader<TcpStream>,
}

impl Lines {
    async fn open(address: SocketAddr) -> Lines {
        Lines { stream: BufReader::new(TcpStream::connect(address).await.unwrap()) }
    }

    async fn initialized(address: SocketAddr) -> Lines {
        let mut lines = Lines::open(address).await;
        let answer =
            lines.ask(0, "initialize", json!({"protocolVersion": "2025-11-25", "capabilities": {}})).await;
        assert_eq!(answer["result"]["protocolVersion"], "2025-11-25");
        lines.send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        lines
    }

    async fn send(&mut self, message: Value) {
        self.stream.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    async fn request(&mut self, id: u64, method: &str, params: Value) {
        self.send(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
    }

    /// The next line, `None` at the end of the stream.
    async fn raw(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        let read = tokio::time::timeout(GUARD, self.stream.read_until(b'\n', &mut line)).await.unwrap();
        (read.unwrap() > 0).then_some(line)
    }

    async fn message(&mut self) -> Option<Value> {
        self.raw().await.map(|line| serde_json::from_slice(&line).unwrap())
    }

    async fn ask(&mut self, id: u64, method: &str, params: Value) -> Value {
        self.request(id, method, params).await;
        let answer = self.message().await.unwrap();
        assert_eq!(answer["id"], id);
        answer
    }
}

async fn scripted(flags: &[&str]) -> (Listener, Lines) {
    let listener = Listener::start(Script::from_flags(flags)).await;
    let lines = Lines::initialized(listener.address()).await;
    (listener, lines)
}

fn tool(name: &str) -> Value {
    json!({"name": name, "arguments": {}, "_meta": {"progressToken": 5}})
}

#[tokio::test]
async fn lists_come_in_pages_and_grow() {
    let (listener, mut lines) =
        scripted(&["--tools", "5", "--page", "2", "--on", "tools/call:t0=grow"]).await;
    let first = lines.ask(1, "tools/list", json!({})).await;
    assert_eq!(first["result"]["tools"].as_array().unwrap().len(), 2);
    let last = lines.ask(2, "tools/list", json!({"cursor": "4"})).await;
    assert!(last["result"]["nextCursor"].is_null());
    assert_eq!(lines.ask(3, "tools/list", json!({"cursor": "x"})).await["error"]["code"], -32602);
    lines.request(4, "tools/call", tool("t0")).await;
    assert_eq!(lines.message().await.unwrap()["method"], "notifications/tools/list_changed");
    assert_eq!(lines.message().await.unwrap()["id"], 4);
    let grown = lines.ask(5, "tools/list", json!({"cursor": "4"})).await;
    assert_eq!(grown["result"]["tools"][1]["name"], "grown0");
    assert_eq!((listener.record().starts(), listener.record().listings()), (1, 1));
}

#[tokio::test]
async fn a_rule_disturbs_answers_and_kills() {
    let flags = ["--on", "tools/call:t0=wrong-id,progress:2,answer,answer,die", "--on", "tools/call:t1=hang"];
    let (listener, mut lines) = scripted(&flags).await;
    lines.request(1, "tools/call", tool("t1")).await;
    lines.request(2, "tools/call", tool("t0")).await;
    for _ in 0..3 {
        assert!(lines.message().await.unwrap()["result"].is_object());
    }
    assert_eq!(lines.message().await.unwrap()["params"]["progressToken"], 5);
    assert_eq!(lines.message().await.unwrap()["params"]["progress"], 2);
    assert_eq!(lines.message().await.unwrap()["id"], 2);
    assert_eq!(lines.message().await.unwrap()["id"], 2);
    assert_eq!(lines.message().await, None);
    eventually("the end", async || (listener.record().ends() == 1).then_some(())).await;
    eventually("the close", async || (listener.open() == 0).then_some(())).await;
}

#[tokio::test]
async fn the_id_can_come_last_in_a_long_line() {
    let (_listener, mut lines) = scripted(&["--on", "tools/call=garbage,id-last:100000"]).await;
    lines.request(1, "tools/call", tool("t0")).await;
    let mut last = Vec::new();
    while !last.starts_with(b"{\"jsonrpc\":\"2.0\",\"result\"") {
        last = lines.raw().await.unwrap();
    }
    assert!(last.len() > 100_000 && last.ends_with(b"},\"id\":1}\n"));
}

#[tokio::test]
async fn scripted_server_sends_requests_and_reports_the_answers() {
    let (_listener, mut lines) = scripted(&["--on", "tools/call=ask:roots/list"]).await;
    lines.request(1, "tools/call", tool("t0")).await;
    let ask = lines.message().await.unwrap();
    assert_eq!(ask["method"], "roots/list");
    lines.send(json!({"jsonrpc": "2.0", "id": ask["id"], "result": {"roots": []}})).await;
    let answer = lines.message().await.unwrap();
    let text: Value = serde_json::from_str(answer["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!((&text["told"], &text["process"]), (&json!([{"roots": []}]), &json!(1)));
}

#[tokio::test]
async fn a_cancelled_call_is_not_answered_unless_told_to() {
    for (flag, first_answer) in [(None, 2), (Some("--ignore-cancel"), 1)] {
        let flags: Vec<_> = ["--on", "tools/call=delay:50"].into_iter().chain(flag).collect();
        let (_listener, mut lines) = scripted(&flags).await;
        lines.request(1, "tools/call", tool("t0")).await;
        lines
            .send(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}))
            .await;
        lines.request(2, "tools/call", tool("t0")).await;
        assert_eq!(lines.message().await.unwrap()["id"], first_answer);
    }
}

#[tokio::test]
async fn eras_are_pinned_and_a_probe_can_be_fatal() {
    let listener =
        Listener::start(Script::from_flags(&["--era", "both", "--at-start", "list-changed:1"])).await;
    let mut lines = Lines::open(listener.address()).await;
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    lines.request(1, "server/discover", json!({"_meta": meta})).await;
    assert_eq!(lines.message().await.unwrap()["result"]["resultType"], "complete");
    assert_eq!(lines.message().await.unwrap()["method"], "notifications/tools/list_changed");
    assert_eq!(lines.ask(2, "initialize", json!({})).await["error"]["code"], -32022);
    let fatal = Listener::start(Script::from_flags(&["--on", "server/discover=die"])).await;
    let mut lines = Lines::open(fatal.address()).await;
    lines.request(1, "server/discover", json!({"_meta": meta})).await;
    assert_eq!(lines.message().await, None);
}

#[tokio::test]
async fn a_connection_that_sends_nothing_starts_nothing() {
    let listener = Listener::start(Script::default()).await;
    drop(TcpStream::connect(listener.address()).await.unwrap());
    Lines::initialized(listener.address()).await;
    assert_eq!(listener.record().starts(), 1);
    listener.kill();
    assert_eq!(listener.record().count("initialize"), 1);
}

#[tokio::test]
async fn the_process_counts_its_starts_and_recovers() {
    let scratch = Scratch::new();
    let record = Record::in_file(&scratch.path("record"));
    let ping = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n";
    for (start, answers) in [(1, false), (2, true)] {
        let mut process = Command::new(binary("scripted-server"))
            .args(["--banner", "hello", "--on", "ping=die", "--rules-for-starts", "1", "--record"])
            .arg(scratch.path("record"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        process.stdin.take().unwrap().write_all(ping).await.unwrap();
        let mut output = String::new();
        process.stdout.take().unwrap().read_to_string(&mut output).await.unwrap();
        assert_eq!((output.starts_with("hello\n"), output.contains("result")), (true, answers));
        assert_eq!(process.wait().await.unwrap().success(), answers);
        assert_eq!((record.starts(), record.ends(), record.count("ping")), (start, start, start));
    }
}

/// Answers one request with these bytes and returns what was asked.
async fn canned(answer: &'static [u8]) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"}") && !request.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut request).await.unwrap();
        }
        stream.write_all(answer).await.unwrap();
        String::from_utf8(request).unwrap()
    });
    (address, asked)
}

#[tokio::test]
async fn the_client_reads_json_chunks_and_streams() {
    let (address, _) =
        canned(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n").await;
    assert_eq!(Request::new("GET", "/x").send(address).await.unwrap().json().await, json!({}));
    let stream = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n\
        : x\n\ndata: {\"method\":\"n\"}\n\ndata: {\"id\":1,\"result\":{}}\n\n";
    let (address, asked) = canned(stream).await;
    let answer = Client::modern(address).token("secret").call_tool("echo", json!({})).await;
    assert_eq!((answer.status, answer.events.len(), answer.result()), (200, 1, &json!({})));
    let asked = asked.await.unwrap();
    let headers = [
        "Mcp-Method: tools/call",
        "Mcp-Name: echo",
        "MCP-Protocol-Version: 2026-07-28",
        "Authorization: Bearer secret",
    ];
    for header in headers {
        assert!(asked.contains(&format!("{header}\r\n")), "{header} is missing in {asked}");
    }
    let (address, _) = canned(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(Client::legacy(address, "2025-11-25").end().await, 404);
}
