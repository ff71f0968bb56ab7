//! The demo server as a process: both eras, side by side calls, cancellation.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic here is a failed test")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

struct Server {
    process: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Server {
    fn start(era: &str) -> Server {
        let mut process = Command::new(env!("CARGO_BIN_EXE_demo-server"))
            .args(["--era", era])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        Server { process, stdin, stdout }
    }

    fn legacy() -> Server {
        let mut server = Server::start("both");
        let info = json!({"name": "t", "version": "1"});
        let params = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info});
        let answer = server.ask("initialize", params);
        assert_eq!(answer["result"]["protocolVersion"], "2025-06-18");
        assert_eq!(answer["result"]["serverInfo"]["name"], "demo-server");
        server.send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        server
    }

    fn send(&mut self, message: Value) {
        writeln!(self.stdin.as_mut().unwrap(), "{message}").unwrap();
    }

    fn call(&mut self, id: u64, name: &str, arguments: Value) {
        self.send(
            json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": call(name, arguments)}),
        );
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.send(json!({"jsonrpc": "2.0", "id": method, "method": method, "params": params}));
        let answer = self.line();
        assert_eq!(answer["id"], method);
        answer
    }

    fn ask_modern(&mut self, method: &str, mut params: Value) -> Value {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        self.ask(method, params)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn call(name: &str, arguments: Value) -> Value {
    json!({"name": name, "arguments": arguments})
}

fn text(answer: &Value) -> &Value {
    &answer["result"]["content"][0]["text"]
}

#[test]
fn a_legacy_client_is_served() {
    let mut server = Server::legacy();
    assert_eq!(server.ask("ping", json!({}))["result"], json!({}));
    assert_eq!(server.ask("tools/list", json!({}))["result"]["tools"].as_array().unwrap().len(), 3);
    assert_eq!(text(&server.ask("tools/call", call("add", json!({"a": 2, "b": 0.5})))), "2.5");
    let odd = "line\nbreak \u{1F980} \"quoted\"";
    let answer = server.ask("tools/call", call("echo", json!({"text": odd})));
    assert_eq!(text(&answer), odd);
    assert!(answer["result"].get("resultType").is_none());
    assert_eq!(server.ask("tools/call", call("add", json!({"a": "x"})))["result"]["isError"], true);
    assert_eq!(server.ask("tools/call", call("none", json!({})))["error"]["code"], -32602);
    assert_eq!(server.ask("no/such", json!({}))["error"]["code"], -32601);
    let read = server.ask("resources/read", json!({"uri": "demo://greeting/Ada"}));
    assert_eq!(read["result"]["contents"][0]["text"], "Hello, Ada!");
    assert_eq!(server.ask("resources/read", json!({"uri": "demo://no"}))["error"]["code"], -32002);
    let prompt = server.ask("prompts/get", call("greet", json!({"name": "Ada"})));
    assert_eq!(prompt["result"]["messages"][0]["content"]["text"], "Please greet Ada warmly.");
    let reference =
        json!({"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "name", "value": "A"}});
    assert_eq!(
        server.ask("completion/complete", reference)["result"]["completion"]["values"],
        json!(["Ada", "Alan"])
    );
}

#[test]
fn a_modern_client_is_served() {
    let mut server = Server::start("both");
    let discovered = server.ask_modern("server/discover", json!({}));
    assert_eq!(discovered["result"]["supportedVersions"], json!(["2026-07-28"]));
    let tools = server.ask_modern("tools/list", json!({}));
    assert_eq!(
        (&tools["result"]["resultType"], &tools["result"]["cacheScope"]),
        (&json!("complete"), &json!("public"))
    );
    let echoed = server.ask_modern("tools/call", call("echo", json!({"text": "hi"})));
    assert_eq!((text(&echoed), &echoed["result"]["resultType"]), (&json!("hi"), &json!("complete")));
    assert_eq!(server.ask("tools/list", json!({}))["error"]["code"], -32602);
    assert_eq!(server.ask_modern("ping", json!({}))["error"]["code"], -32601);
    assert_eq!(server.ask_modern("resources/read", json!({"uri": "demo://no"}))["error"]["code"], -32602);
}

#[test]
fn the_first_message_pins_the_era() {
    let mut modern = Server::start("both");
    modern.ask_modern("server/discover", json!({}));
    let refused = modern.ask("initialize", json!({"protocolVersion": "2025-11-25"}));
    assert_eq!(refused["error"]["code"], -32022);
    assert_eq!(refused["error"]["data"]["supported"], json!(["2026-07-28"]));
    let mut legacy = Server::legacy();
    assert_eq!(legacy.ask_modern("tools/list", json!({}))["error"]["code"], -32600);
}

#[test]
fn an_era_can_be_left_out() {
    let mut legacy = Server::start("legacy");
    assert_eq!(legacy.ask_modern("server/discover", json!({}))["error"]["code"], -32601);
    let answer = legacy.ask("initialize", json!({"protocolVersion": "2026-07-28"}));
    assert_eq!(answer["result"]["protocolVersion"], "2025-11-25");
    let mut modern = Server::start("modern");
    assert_eq!(modern.ask("initialize", json!({"protocolVersion": "2025-11-25"}))["error"]["code"], -32022);
}

#[test]
fn a_sleeping_call_reports_progress_and_holds_up_nobody() {
    let mut server = Server::legacy();
    let mut params = call("sleep", json!({"ms": 400}));
    params["_meta"] = json!({"progressToken": "tok"});
    server.send(json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}));
    server.call(2, "echo", json!({"text": "x"}));
    assert_eq!(server.line()["id"], 2);
    for step in 1..10 {
        let progress = server.line();
        assert_eq!(progress["params"], json!({"progressToken": "tok", "progress": step, "total": 10}));
    }
    let answer = server.line();
    assert_eq!((&answer["id"], text(&answer)), (&json!(1), &json!("slept 400 ms")));
}

#[test]
fn a_cancelled_call_is_never_answered() {
    let mut server = Server::legacy();
    server.call(1, "sleep", json!({"ms": 50}));
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    server.send(cancel);
    // Sent after the cancel and twice as long: had the first one lived, its answer would come before this
    // one.
    server.call(2, "sleep", json!({"ms": 100}));
    assert_eq!(server.line()["id"], 2);
}

#[test]
fn end_of_input_ends_the_process() {
    let mut server = Server::legacy();
    server.call(1, "sleep", json!({"seconds": 3000}));
    drop(server.stdin.take());
    assert!(server.process.wait().unwrap().success());
}
